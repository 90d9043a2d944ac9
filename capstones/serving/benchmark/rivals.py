"""What a user would otherwise write: a route that takes a lock, generates, and streams.

    python -m serving.benchmark.rivals 8001

The weights are the same, `generate` is transformers', and one answer is written at a time. It
speaks OpenAI's stream, and writes as many tokens as it is asked for, no fewer.
"""

import json
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from queue import SimpleQueue
from typing import Any

from shared import pretrained


class Transformers:
    """SmolLM2 by transformers."""

    def __init__(self):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        path = pretrained.smollm2()
        options = {"gguf_file": path.name, "local_files_only": True}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.tokenizer = AutoTokenizer.from_pretrained(
                path.parent, padding_side="left", **options
            )
            self.model = AutoModelForCausalLM.from_pretrained(
                path.parent, dtype=torch.float32, **options
            ).eval()

    def write(self, conversations: Sequence[list[dict]], new: int) -> Iterator[list[str]]:
        """A token for each conversation at a time, from a thread that generates."""
        texts = [
            self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            for turns in conversations
        ]
        inputs = self.tokenizer(texts, return_tensors="pt", padding=True)
        steps: SimpleQueue = SimpleQueue()
        options = {"do_sample": False, "max_new_tokens": new, "min_new_tokens": new}

        def work() -> None:
            try:
                self.model.generate(**inputs, **options, streamer=_Steps(steps))
            finally:
                steps.put(None)

        threading.Thread(target=work, daemon=True).start()
        next_steps = iter(steps.get, None)
        next(next_steps)  # the prompt
        for tokens in next_steps:
            yield self.tokenizer.batch_decode(tokens.reshape(-1, 1))


class _Steps:
    """A streamer of transformers, for batches too."""

    def __init__(self, queue: SimpleQueue):
        self._queue = queue

    def put(self, tokens: Any) -> None:
        self._queue.put(tokens)

    def end(self) -> None:
        """`write` says it when the thread ends."""


def fastapi_app() -> Any:
    """One answer at a time."""
    from fastapi import FastAPI
    from fastapi.responses import StreamingResponse

    app, model, lock = FastAPI(), Transformers(), threading.Lock()

    @app.get("/health")
    def health() -> dict:
        return {"status": "ok"}

    @app.post("/v1/chat/completions")
    def chat(body: dict) -> StreamingResponse:
        def events() -> Iterator[str]:
            with lock:
                for (text,) in model.write([body["messages"]], body["max_tokens"]):
                    yield f"data: {json.dumps({'choices': [{'delta': {'content': text}}]})}\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    return app


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(fastapi_app(), host="127.0.0.1", port=int(sys.argv[1]), log_level="error")
