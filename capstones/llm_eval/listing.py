"""What is built in, as rows and as a table.

>>> [row["name"] for row in rows("models")][:2]
['smollm2', 'hf:FOLDER']
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table
from rich.text import Text

from shared.model_refs import listed

MODELS = {
    "smollm2": "SmolLM2-135M-Instruct, packaged; the default",
    "hf": "a folder of Transformers; nothing is fetched and no code of it is run",
    "tiny_gpt": "a run of tiny-gpt",
    "compress": "what compress wrote",
    "gguf": "a LLaMA in llama.cpp's format",
    "openai": "a server that speaks OpenAI's format; the key in OPENAI_API_KEY",
    "onnx": "an export of tiny-gpt",
    "dummy": "answers by chance; what a task scores without knowledge",
}


def rows(what: str) -> list[dict[str, Any]]:
    """Tasks, metrics or models, a row each."""
    if what == "models":
        return [{"name": listed([kind]), "what": text} for kind, text in MODELS.items()]
    if what == "metrics":
        return _metrics()
    from llm_eval.tasks.catalog import list_tasks

    return [asdict(row) for row in list_tasks()]


def _metrics() -> list[dict[str, Any]]:
    from llm_eval.metrics.registry import RECIPES, metric

    found = []
    for output_type, recipes in RECIPES.items():
        for name in recipes:
            one = metric(output_type, name.replace("@K", "@1"))
            way = "higher" if one.higher_is_better else "lower"
            found.append(
                {"name": name, "of": output_type, "better": way, "signature": one.signature}
            )
    return found


WIDE = ("source", "output_type", "data", "n_templates")  # told in JSON only


def table(found: Sequence[dict[str, Any]], *, width: int = 120) -> Table:
    """Rows for a terminal; where a line has no room for a task's title, without it."""
    shown = Table(box=None, pad_edge=False)
    left_out = WIDE if width >= 100 else (*WIDE, "title")
    names = [name for name in found[0] if name not in left_out]
    for name in names:
        number = isinstance(found[0][name], int)
        shown.add_column(name, no_wrap=name == "name", justify="right" if number else "left")
    for row in found:
        shown.add_row(*(Text(_said(row[name])) for name in names))
    return shown


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
