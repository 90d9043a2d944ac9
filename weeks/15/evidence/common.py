"""Texts to learn from and to hold out, and strings drawn as boxes: what several scripts need."""

from collections.abc import Iterable, Sequence
from typing import Literal

from shared import datasets, plots
from shared.study import Run

Text = Literal["pydocs", "tinyshakespeare"]


def training_and_held_out(run: Run, name: Text, quick: int) -> tuple[list[str], list[str]]:
    """Documents to learn from and a fifth of them held out; a quick run takes the first few."""
    if name == "pydocs":
        documents = [document.text for document in datasets.pydocs()]
    else:
        documents = datasets.tinyshakespeare().split("\n\n")
    documents = run.budget(quick=documents[:quick], default=documents)
    return [text for i, text in enumerate(documents) if i % 5], documents[::5]


def articles(run: Run, name: Literal["auto", "pydocs"]) -> tuple[list[datasets.Document], str]:
    """Articles and where they are from; quick runs read what every Python carries."""
    files = datasets.registry()["wikipedia"].files[:4]
    there = all((datasets.cache_dir() / file.path).exists() for file in files)
    if name == "auto" and there and run.mode != "quick":
        documents, source = datasets.wikipedia(4), "Wikipedia"
    else:
        documents, source = datasets.pydocs(), "Python's manual"
    run.chose(data=source)
    if name == "auto" and not there:
        run.say("Wikipedia is not on disk: study fetch wikipedia")
    return documents, source


def boxes(axes, row: float, pieces: Iterable[tuple[str, float]], colors: Sequence[str]) -> float:
    """Strings of given widths as boxes side by side; gives the x where they end."""
    from matplotlib.patches import FancyBboxPatch

    x, style = 0.0, "round,pad=0,rounding_size=0.15"
    for n, (text, width) in enumerate(pieces):
        look = {"boxstyle": style, "fc": colors[n % len(colors)], "ec": "none", "alpha": 0.45}
        axes.add_patch(FancyBboxPatch((x + 0.1, row - 0.3), width - 0.25, 0.6, **look))
        place = {"ha": "center", "va": "center", "family": "monospace", "fontsize": 8}
        axes.text(x + width / 2 - 0.03, row, text, **place)
        x += width
    return x


def note_beside(axes, x: float, row: float, text: str, **options) -> None:
    """A few words to the left (ha="right") or right of a row of boxes."""
    axes.text(x, row, text, va="center", **{"fontsize": 8.5, **options})


BOX_COLORS = (plots.SKY, plots.YELLOW, plots.GREEN, plots.PINK, plots.ORANGE)
