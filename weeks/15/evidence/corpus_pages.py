"""Extraction on generated pages, whose main text is known."""

import html
from collections import Counter
from collections.abc import Callable

import numpy as np

from shared import plots
from shared.study import Run
from week15.html_text import Block, blocks, is_content, main_text


def extraction(run: Run, passages: list[str]) -> None:
    """F1 against the known main text, of three extractors; the blocks as a picture."""
    rules: dict[str, Callable[[str], str]] = {
        "two numbers and the neighbors": main_text,
        "two numbers of the block alone": lambda text: "\n".join(
            b.text for b in blocks(text) if b.link_density <= 1 / 3 and b.n_words > 16
        ),
        "all visible text": lambda text: "\n".join(b.text for b in blocks(text)),
        "what the rule rejects": lambda text: "\n".join(
            b.text for b, kept in judged(text) if not kept
        ),
    }
    scores: dict[str, list[float]] = {name: [] for name in rules}
    shown: list[tuple[Block, bool, bool]] = []
    found: list[bool] = []
    for _ in range(run.budget(quick=10, default=150)):
        chosen = [passages[i] for i in run.rng.integers(len(passages), size=run.rng.integers(4, 9))]
        source, truth = page(run.rng, chosen)
        for name, extract in rules.items():
            scores[name].append(f1(extract(source), "\n".join(truth)))
        verdicts = judged(source)
        texts = {b.text for b, _ in verdicts}
        found += [text in texts for text in truth]
        shown += [(b, b.text in truth, kept) for b, kept in verdicts]
    equal = run.against("the generator's own text", kind="theorem", why="identical strings")
    equal("main-text blocks found whole, entities resolved", found, [True] * len(found))

    for name in ("two numbers of the block alone", "all visible text"):
        run.metric(f"F1, {name}", np.mean(scores[name]))
    name = "link density and length find the main text"
    run.claim(
        name,
        scores["two numbers and the neighbors"],
        at_least=0.9,
        unit="F1",
        note="on generated pages: a bound for the web",
    )
    run.falsifier("what the rule rejects", scores["what the rule rejects"], breaks=name)
    draw_blocks(run, shown)


def judged(source: str) -> list[tuple[Block, bool]]:
    """Blocks of a page, and whether each belongs to the main text."""
    around = [Block("", 0, 0), *blocks(source), Block("", 0, 0)]
    neighbors = zip(around, around[1:], around[2:], strict=False)
    return [(b, is_content(a, b, c)) for a, b, c in neighbors]


def f1(found: str, truth: str) -> float:
    """Of the words as multisets: what an extractor is usually scored by."""
    a, b = found.split(), truth.split()
    return 2 * (Counter(a) & Counter(b)).total() / max(1, len(a) + len(b))


def page(rng: np.random.Generator, passages: list[str]) -> tuple[str, list[str]]:
    """A generated page without helpful tags such as <article>, and its main text, by blocks."""
    title = " ".join(passages[0].split()[: rng.integers(3, 10)])
    menu = ["Home", "News", "About us", "Contact", "Sign in", "World", "Sport", "Archive 2014"]

    def links(n: int) -> str:
        chosen = rng.choice(menu, n)
        return "<ul>" + "".join(f"<li><a href='#'>{name}</a>" for name in chosen) + "</ul>"

    def marked(text: str) -> str:
        words = html.escape(text, quote=False).split(" ")
        for i in rng.choice(len(words), min(3, len(words)), replace=False):
            tag = rng.choice(["b", "i", "a", "em"])
            words[i] = f"<{tag}>{words[i]}</{tag}>"
        return "<p>" + " ".join(words) + ("</p>" if rng.random() < 0.7 else "")

    teaser = " ".join(passages[-1].split()[: rng.integers(6, 15)])
    byline = " ".join(["By A. Writer", "and B. Other", "&middot; 3 May"][: rng.integers(1, 4)])
    parts = [
        f"<html><head><title>{html.escape(title)}</title><style>p {{color: red}}</style></head>",
        f"<body><div>{links(6)}</div><script>if (1 < 2) document.write('<p>ad</p>')</script>",
        f"<div><h1>{html.escape(title, quote=False)}</h1><div>{byline}</div>",
    ]
    body = passages[:-1]
    for i, text in enumerate(body):
        parts.append(marked(text))
        if i == 1 and rng.random() < 0.7:
            parts.append(f"<div>Read more: <a href='#'>{html.escape(teaser)}</a></div>")
    parts.append(f"</div><div>Share this <a>Mail</a> <a>Print</a></div><div>{links(8)}</div>")
    if rng.random() < 0.5:  # the hard one: prose that is not the page's
        parts.append(
            "<div>We and our partners use cookies to store information on your device, to measure "
            "what you read and to show you advertisements that you may like.</div>"
        )
    parts.append("<div>&copy; 2014 All rights reserved</div></body></html>")
    return "\n".join(parts), [title, *body]


def draw_blocks(run: Run, shown: list[tuple[Block, bool, bool]]) -> None:
    """Each block as a point: its length and its share of links."""
    many = np.random.default_rng(0)  # blocks are alike: spread them a little
    x = np.array([b.n_words for b, _, _ in shown]) * many.normal(1, 0.035, len(shown))
    y = np.array([b.link_density for b, _, _ in shown]) + many.normal(0, 0.013, len(shown))
    is_prose, kept = (np.array([row[i] for row in shown]) for i in (1, 2))
    groups = {
        "menus, notices, footers": (~is_prose, "o", plots.ORANGE),
        "main text": (is_prose, "o", plots.BLUE),
        "decided wrongly": (is_prose != kept, "x", plots.REFERENCE),
    }
    with run.figure("blocks", "Prose is long and has few links") as axes:
        for label, (chosen, marker, color) in groups.items():
            look = {"ms": 3.5, "alpha": 0.35, "color": color, "label": label}
            axes.plot(x[chosen], y[chosen], marker, **look)
        axes.set(xlabel="words in the block", ylabel="link density", xscale="log")
        plots.reference_line(axes, 1 / 3, "the rule's limit for links")
        axes.axvline(16.5, color=plots.REFERENCE, ls="--", lw=1)
        axes.legend()
