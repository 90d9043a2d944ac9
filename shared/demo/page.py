"""The page of a demo: one file of HTML, no script, nothing fetched, every text a text."""

import datetime
import importlib.metadata
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from shared.demo import reading
from shared.demo.runner import Chain
from shared.demo.steps import MODULES, Step
from shared.files import write_atomic

__all__ = ["curves", "render", "write"]

HERE = Path(__file__).parent
TITLES = {
    "tiny-gpt": ("Tiny GPT", "trains a model"),
    "llm-eval": ("LLM evaluation", "measures it"),
    "compress": ("Compression", "makes it smaller"),
    "serve": ("Serving", "answers requests"),
    "rag": ("RAG", "cites the manual"),
}
# What a reader may want to open, below the demo's folder.
REPORTS = {
    "tiny-gpt": {"tiny_gpt/report.html": "the run, with all its curves"},
    "llm-eval": {
        "eval_tiny_gpt/index.html": "tiny_gpt, each sample",
        "eval_tiny_gpt_small/index.html": "tiny_gpt compressed, each sample",
        "compare_tiny_gpt.html": "tiny_gpt, before and after",
        "eval_smollm2/index.html": "SmolLM2, each sample",
        "eval_smollm2_small/index.html": "SmolLM2 compressed, each sample",
        "compare_smollm2.html": "SmolLM2, before and after",
    },
    "compress": {
        "tiny_gpt_small.json": "tiny_gpt, error of each layer",
        "smollm2_small.json": "SmolLM2, error of each layer",
    },
    "serve": {"load.json": "all numbers of the load", "logs/serve.log": "the server's log"},
    "rag": {"answers.jsonl": "answers with all passages found", "store.json": "what was read"},
}
WIDTH, HEIGHT, LEFT, BELOW = 720, 250, 44, 34


def write(chain: Chain) -> Path:
    """Write `index.html` into the demo's folder."""
    path = chain.out / "index.html"
    write_atomic(path, render(chain))
    return path


def render(chain: Chain) -> str:
    """The page of what the chain has left so far."""
    out = chain.out
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    run = reading.training(out)
    programs = [_program(chain, name) for name in MODULES]
    html = environment.get_template("page.html").render(
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        programs=programs,
        curves=curves(run["train"], run["val"]) if run["train"] else "",
        sample=run["sample"],
        scores=reading.scores(out),
        conversation=reading.conversation(out),
        minutes=sum(chain.mark(step).get("seconds", 0) for step in chain.steps) / 60,
        cores=os.cpu_count(),
        machine=platform.machine(),
        versions={**chain.versions, "numpy": importlib.metadata.version("numpy")},
        date=datetime.date.today().isoformat(),
    )
    return html.encode("utf-8", "replace").decode()


def _program(chain: Chain, name: str) -> dict[str, Any]:
    title, does = TITLES[name]
    reports = {f: told for f, told in REPORTS[name].items() if (chain.out / f).is_file()}
    steps = [_step(chain, step) for step in chain.steps if step.program == name]
    facts = reading.facts(chain.out, name)
    return {
        "name": name,
        "title": title,
        "does": does,
        "steps": steps,
        "facts": facts,
        "reports": reports,
    }


def _step(chain: Chain, step: Step) -> dict[str, Any]:
    mark = chain.mark(step)
    typed = mark.get("typed") or step.typed(chain.places)
    return {"why": step.why, "typed": typed, "seconds": mark.get("seconds", 0)}


def curves(train: Sequence[tuple[int, float]], val: Sequence[tuple[int, float]]) -> Markup:
    """Losses by step as SVG.

    Examples
    --------
    >>> drawn = curves([(1, 4.0), (2, 3.0)], [(2, 3.5)])
    >>> "validation" in drawn, "NaN" in drawn
    (True, False)
    """
    points = [*train, *val]
    last = max(step for step, _ in points)
    low = min(loss for _, loss in points)
    high = max(loss for _, loss in points)
    top, floor, right = 12, HEIGHT - BELOW, WIDTH - 92

    def place(step: int, loss: float) -> str:
        x = LEFT + step / last * (right - LEFT)
        y = floor - (loss - low) / ((high - low) or 1) * (floor - top)
        return f"{x:.1f} {y:.1f}"

    parts = []
    for i in range(5):
        loss = low + (high - low) * i / 4
        y = place(0, loss).split()[1]
        parts.append(f'<path class="grid" d="M{LEFT} {y}H{right}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y}" dy="4">{loss:.2f}</text>')
    for i in range(5):
        step = round(last * i / 4)
        x = place(step, low).split()[0]
        parts.append(f'<text class="below" x="{x}" y="{floor + 18}">{step:,}</text>')
    parts.append(f'<text class="below" x="{(LEFT + right) / 2}" y="{HEIGHT - 2}">step</text>')
    ends = []
    for kind, name, curve in (("train", "training", train), ("val", "validation", val)):
        if curve:
            line = "L".join(place(*point) for point in curve)
            parts.append(f'<path class="{kind}" d="M{line}"/>')
            ends.append((kind, name, float(place(*curve[-1]).split()[1])))
    apart = len(ends) > 1 and abs(ends[0][2] - ends[1][2]) < 14
    for kind, name, y in ends:
        y += 7 * (1 if y == max(end[2] for end in ends) else -1) if apart else 0
        parts.append(f'<text class="{kind}" x="{right + 8}" y="{y:.1f}" dy="4">{name}</text>')
    view = f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Loss by step"'
    return Markup(f'<svg class="curves" {view}>{"".join(parts)}</svg>')
