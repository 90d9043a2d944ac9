"""What a finished run ends with: an honest evaluation, samples, what they copied, and a report."""

import contextlib
import json
import math
from collections.abc import Iterator, Sequence

import numpy as np
from rich.console import Console
from rich.text import Text

from shared.errors import UserError
from shared.files import write_atomic
from tiny_gpt import seal
from tiny_gpt.data.shards import PreparedData, Split
from tiny_gpt.data.tokenizers import Tokenizer
from tiny_gpt.generation.writing import write
from tiny_gpt.report.describe import read_lines
from tiny_gpt.report.memorization import memorization_report
from tiny_gpt.report.page import series, write_report
from tiny_gpt.settings import Settings
from tiny_gpt.training.checkpoints import load_checkpoint
from tiny_gpt.training.evaluate import evaluate
from tiny_gpt.training.train import Outcome
from week19.sampling import Sampler

GENTLER = "with lower --lr and --matrix-lr, or with --clip 1"
SAMPLE_TOKENS = 200
PROBE_TOKENS = 20_000_000  # of the training text that samples are compared with


def wrap_up(outcome: Outcome, data: PreparedData, settings: Settings, console: Console) -> None:
    """Evaluate the best checkpoint, let it write, compare with the training text, report.

    What fails costs nothing but itself.

    Raises
    ------
    UserError
        In the end, if a part failed or the loss is not finite; all else is there.
    """
    best = load_checkpoint(outcome.run)
    result = evaluate(best.model, data.splits["val"], data.tokenizer)
    evaluation, texts, failed = result.to_dict(), [], []
    made = ("samples.json", "evaluation.json", "report.html")
    seal.update(outcome.run, without=made)

    def save(name: str, content: object) -> None:
        seal.update(outcome.run, without=(f"{name}.json",))
        write_atomic(outcome.run / f"{name}.json", json.dumps(content, indent=1) + "\n")
        seal.update(outcome.run, f"{name}.json")

    @contextlib.contextmanager
    def part(name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            failed.append(f"no {name} ({error})")

    save("evaluation", evaluation)
    if not math.isfinite(result.nats_per_token):
        failed.append(f"no finite loss (begin again in another --out {GENTLER})")
    with part("samples"):
        if settings.samples:
            options = {"sampler": Sampler(temperature=0.8), "seeds": range(settings.samples)}
            texts = write(best, "", SAMPLE_TOKENS, **options)
        save("samples", [{"step": best.step, "prompt": "", "text": text} for text in texts])
    with part("comparison with the training text"):
        if written := [text for text in texts if text]:
            held_out = list(_texts(data.splits["val"], data.tokenizer))
            enough = sum(map(len, held_out)) >= max(map(len, written))
            training = _texts(data.splits["train"], data.tokenizer)
            probe = memorization_report(written, training, held_out if enough else None)
            evaluation["memorization"] = probe.to_dict()
            save("evaluation", evaluation)
    with part("report"):
        report = write_report(outcome.run)
        seal.update(outcome.run, "report.html")
    for text in texts:
        console.rule("sample")
        console.print(Text(text))
    console.rule()
    with part("loss curve"):
        _, losses = series(read_lines(outcome.run / "log.jsonl"), "val_loss")
        if len(losses := losses[np.isfinite(losses)].tolist()) > 2:
            ends = f"{losses[0]:.2f} → {losses[-1]:.2f}"
            console.print(f"{'loss curve':<16} {sparkline(losses)} {ends}")
    facts = {
        "validation loss": f"{result.nats_per_token:.4f} nats/token (best, at step {best.step})",
        "perplexity": f"{result.perplexity:.3f} per token",
        "bits per byte": str(result.bits_per_byte),
        "protocol": result.signature,
        "parameters": f"{best.model.n_parameters():,}",
        "training time": f"{outcome.loop_seconds:.1f} s in this process, to step {outcome.step}",
    }
    for name, value in facts.items():
        console.print(f"{name:<16} {value}")
    if "memorization" in evaluation:
        console.print(f"{'memorized':<16} {probe}")
    if not failed:
        console.print(f"{'report':<16} {report}")
        return
    error = UserError(f"{outcome.run} is trained and evaluated, but has {'; '.join(failed)}")
    error.status = 1
    raise error


def sparkline(values: Sequence[float], width: int = 60) -> str:
    """Values as a line of blocks, the highest the largest; evenly thinned to `width`."""
    step = max(1, -(-len(values) // width))
    shown = [*values[:-1:step], values[-1]]
    low, high = min(shown), max(shown)
    blocks = "▁▂▃▄▅▆▇█"
    scale = (len(blocks) - 1) / (high - low) if high > low else 0.0
    return "".join(blocks[round((v - low) * scale)] for v in shown)


def _texts(split: Split, tokenizer: Tokenizer):
    """The documents of a split as text, up to a limit, long ones in pieces."""
    read = 0
    for start, stop in zip(split.offsets[:-1], split.offsets[1:], strict=True):
        if read >= PROBE_TOKENS:
            return
        read += int(stop - start)
        yield tokenizer.decode(split.read(int(start), int(stop)))
