"""Numbers about the server for Prometheus, under vLLM's names."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

FIRST = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40)
BETWEEN = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.2, 0.4, 0.8, 1.6)
WHOLE = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120, 240)


class Metrics:
    """What is counted, in a registry of its own: two servers in a process do not meet."""

    def __init__(self, model: str):
        self.registry, self._model = CollectorRegistry(), model

        def made(kind: type, name: str, text: str, *labels: str, **options):
            names = ("model_name", *labels)
            metric = kind(f"vllm:{name}", text, names, registry=self.registry, **options)
            return metric if labels else metric.labels(model)

        self.running = made(Gauge, "num_requests_running", "Requests that run.")
        self.waiting = made(Gauge, "num_requests_waiting", "Requests that wait.")
        self.cache = made(Gauge, "kv_cache_usage_perc", "Share of the blocks in use, 1 for all.")
        self.prompt = made(Counter, "prompt_tokens", "Tokens of prompts.")
        self.written = made(Counter, "generation_tokens", "Tokens of answers.")
        name = "time_to_first_token_seconds"
        self.first = made(Histogram, name, "From arrival to the first token.", buckets=FIRST)
        name = "inter_token_latency_seconds"
        self.between = made(Histogram, name, "Between two tokens.", buckets=BETWEEN)
        name = "e2e_request_latency_seconds"
        self.whole = made(Histogram, name, "From arrival to the last token.", buckets=WHOLE)
        self._ended = made(
            Counter, "request_success", "Answers by how they end.", "finished_reason"
        )

        self._safety = made(
            Counter, "safety", "Prompts and answers with a reason.", "where", "reason", "action"
        )

    def watch(self, gauge: Gauge, value: Callable[[], float]) -> None:
        """Let a gauge ask for its value when it is read."""
        gauge.set_function(value)

    def ended(self, reason: str) -> None:
        """Count an answer by how it ended; `abort` if nobody read it to the end."""
        self._ended.labels(self._model, reason).inc()

    def found(self, where: str, reason: str, action: str) -> None:
        """Count what the filter found in a prompt or an answer, and what was done."""
        self._safety.labels(self._model, where, reason, action).inc()

    def text(self) -> bytes:
        """In Prometheus's format."""
        return generate_latest(self.registry)
