"""What is measured about the pipeline: extraction, filters, splits, leaks, packing and mixing."""

import html
import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from shared import datasets, plots
from shared.stats import mean_interval
from shared.study import PositiveInt, Run
from week14.ngram import WittenBell
from week15.corpus import RULES, clean_lines, filter_documents, find_leaks, split_documents
from week15.deduplication import deduplicate
from week15.evidence.common import articles
from week15.html_text import Block, blocks, is_content, main_text
from week15.packing import (
    PAD,
    Packed,
    curriculum_pool,
    draw_sources,
    expected_epochs,
    mixture_weights,
    pack_best_fit,
    pack_concat,
)

FRACTIONS = {"train": 0.9, "valid": 0.1}


def prose(documents: Sequence[datasets.Document]) -> list[str]:
    """Different paragraphs of at least 25 words, each on one line."""
    parts = (p for d in documents for p in re.split(r"\n\n|(?<=[.!?])\n", d.text))
    return list(dict.fromkeys(" ".join(p.split()) for p in parts if len(p.split()) >= 25))


# ---- extraction


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


def f1(found: str, truth: str) -> float:
    """Of the words as multisets: what an extractor is usually scored by."""
    a, b = found.split(), truth.split()
    return 2 * (Counter(a) & Counter(b)).total() / max(1, len(a) + len(b))


def extraction(run: Run, passages: list[str]) -> None:
    """F1 against the known main text, of three extractors; the blocks as a picture."""
    n = run.budget(quick=20, default=150)
    rules: dict[str, Callable[[str], str]] = {
        "two numbers and the neighbors": main_text,
        "two numbers of the block alone": lambda text: "\n".join(
            b.text for b in blocks(text) if b.link_density <= 1 / 3 and b.n_words > 16
        ),
        "all visible text": lambda text: "\n".join(b.text for b in blocks(text)),
    }
    scores: dict[str, list[float]] = {name: [] for name in rules}
    shown: list[tuple[Block, bool, bool]] = []
    kept_blocks, expected = [], []
    for _ in range(n):
        chosen = [passages[i] for i in run.rng.integers(len(passages), size=run.rng.integers(4, 9))]
        source, truth = page(run.rng, chosen)
        for name, extract in rules.items():
            scores[name].append(f1(extract(source), "\n".join(truth)))
        found = blocks(source)
        texts = {b.text for b in found}
        kept_blocks += [t in texts for t in truth]
        expected += [True] * len(truth)
        around = [Block("", 0, 0), *found, Block("", 0, 0)]
        shown += [
            (b, b.text in truth, is_content(a, b, c))
            for a, b, c in zip(around, around[1:], around[2:], strict=False)
        ]
    run.check(
        "main-text blocks that are found whole, entities and inline tags resolved",
        np.array(kept_blocks),
        np.array(expected),
        against="the generator's own text",
        atol=0,
        why="identical strings",
    )
    intervals = {name: mean_interval(values) for name, values in scores.items()}
    for name, interval in intervals.items():
        run.metric(f"F1, {name}", interval.mean, rtol=None)
    full, alone, everything = intervals.values()
    run.claim(
        "link density and length find the main text",
        full.low > max(0.9, everything.high),
        f"F1 on {n} generated pages: {full}; all visible text {everything}; without the "
        f"neighbors {alone}. The pages are ours, so this is an upper bound for the web",
    )
    draw_blocks(run, shown)


def draw_blocks(run: Run, shown: list[tuple[Block, bool, bool]]) -> None:
    """Each block as a point: its length and its share of links."""
    with run.figure("blocks", "Prose is long and has few links") as axes:
        right = run.rng.normal(1, 0.035, len(shown))  # many blocks are alike: spread them a little
        x = np.array([b.n_words for b, _, _ in shown]) * right
        y = np.array([b.link_density for b, _, _ in shown]) + run.rng.normal(0, 0.013, len(shown))
        is_prose = np.array([truth for _, truth, _ in shown])
        wrong = is_prose != np.array([kept for _, _, kept in shown])
        for chosen, color in ((~is_prose, plots.ORANGE), (is_prose, plots.BLUE)):
            axes.plot(x[chosen], y[chosen], "o", ms=3.5, alpha=0.35, color=color, mew=0)
        axes.plot(x[wrong], y[wrong], "x", ms=3.5, color=plots.REFERENCE, mew=0.5, alpha=0.35)
        axes.axhline(1 / 3, color=plots.REFERENCE, ls="--", lw=1)
        axes.plot([16.5, 16.5], [-0.06, 1 / 3], color=plots.REFERENCE, ls="--", lw=1)
        axes.text(380, 1 / 3 + 0.02, "the rule's limit for links", ha="right", fontsize=9)
        axes.text(15.6, 0.2, "below 17 words,\nneighbors decide", ha="right", fontsize=9)
        axes.text(60, 0.12, "main text", color=plots.BLUE)
        axes.text(1.6, 0.78, "menus, notices,\nfooters", color=plots.ORANGE)
        axes.text(
            380,
            0.86,
            "×: decided wrongly\n(titles, bylines, footers)",
            ha="right",
            fontsize=9,
        )
        axes.set_xscale("log")
        axes.set_xticks(
            [1, 2, 5, 10, 20, 50, 100, 200], ["1", "2", "5", "10", "20", "50", "100", "200"]
        )
        axes.minorticks_off()
        axes.set(
            xlabel="words in the block", ylabel="link density", xlim=(0.9, 400), ylim=(-0.06, 1.08)
        )


# ---- filters


def bad_pages(text: str) -> dict[str, str]:
    """One page for each rule, that this rule and no earlier one removes."""
    sentences = re.split(r"(?<=[.!?]) ", text)
    words = text.split()
    german = "Der Hund ist nicht mit den Katzen und die Maus ist ein Tier zu Hause. " * 8
    return {
        "placeholder text": "Lorem ipsum dolor sit amet. " + text,
        "code (a brace)": text + " int main() { return 0; }",
        "under 3 sentences": " ".join(words[:80]).replace(".", ",").replace("?", ","),
        "not 50 to 100,000 words": "It is here. That was it. And it ended with this.",
        "mean word not 3 to 10 letters": "A b c d. E f g h. I a b c. " * 8,
        "symbols": text + " #tag" * (len(words) // 4),
        "bullets or cut-off lines": "\n".join(f"- {s}" for s in sentences),
        "words without letters": text + " 1234 5678" * len(words),
        "not English": german,
        "under 2 stop words": "It is in it. Is it in? It is. " + "Cats eat fish. " * 20,
        "repeated lines": "\n".join([*sentences, *sentences[:8], sentences[0]]),
        "repeated n-grams": text + " Buy our new and very cheap shoes today here." * 30,
    }


def filters(run: Run, documents: list[datasets.Document], source: str) -> None:
    """Planted bad pages fall to their own rule; what falls of real text is shown."""
    good = " ".join(_english(datasets.pydocs()))
    planted = bad_pages(good)
    kept, removed = filter_documents([good, *planted.values()])
    blamed = {i: rule for rule, hits in removed.items() for i in hits}
    right = [blamed.get(i) == rule for i, rule in enumerate(planted, 1)]
    wrong = [rule for rule, ok in zip(planted, right, strict=True) if not ok]
    run.claim(
        "each rule removes the page that was made for it, and no rule the good one",
        all(right) and kept == [0],
        f"{sum(right)} of {len(RULES)} rules" + (f"; not: {', '.join(wrong)}" if wrong else ""),
    )
    texts = [d.text for d in documents]
    kept, removed = filter_documents(texts)
    run.say(f"\n{source}, {len(texts)} documents: {len(kept)} kept as they are")
    for rule, hits in removed.items():
        if hits:
            first = " ".join(texts[hits[0]].split())[:60]
            run.say(f"  {rule:30} removed {len(hits):4}, e.g. {documents[hits[0]].name}: {first!r}")
    run.metric("documents that pass the page rules", 100 * len(kept) / len(texts), "%", rtol=None)
    braces = 100 * len(removed["code (a brace)"]) / len(texts)
    run.metric("documents removed for a brace", braces, "%", rtol=None)
    lines = {"no end mark": 0, "under 5 words": 0, "site notice": 0, "kept": 0}
    for text in texts:
        cleaned, gone = clean_lines(text)
        lines["kept"] += len(cleaned.split("\n")) if cleaned else 0
        for reason, which in gone.items():
            lines[reason] += len(which)
    total = sum(lines.values())
    run.metric("lines without an end mark", 100 * lines["no end mark"] / total, "%", rtol=None)
    run.say("  lines: " + ", ".join(f"{reason} {n:,}" for reason, n in lines.items()))


def _english(documents: list[datasets.Document]) -> list[str]:
    """Fifteen sentences of the manual that end like sentences and hold no code."""
    text = " ".join(" ".join(d.text.split()) for d in documents)
    found = re.findall(r"(?<=\. )[A-Z][a-z]+(?: [a-z,]+){8,20}\.", text)
    return list(dict.fromkeys(found))[:15]


# ---- splits and leaks


def splits(run: Run, passages: list[str]) -> None:
    """Sizes as drawn, and nobody moves when the corpus grows."""
    texts = [f"{n} {p}" for n, p in enumerate(passages)]
    split = split_documents(texts, FRACTIONS, salt=str(run.seed))
    n, found = len(texts), len(split["valid"])
    run.check(
        "share of documents in validation",
        found / n,
        0.1,
        against="the fraction asked for",
        atol=4 * math.sqrt(0.09 / n),
        why=f"4 binomial standard deviations of {n} documents",
    )
    half = texts[::2]
    before = {half[i] for i in split_documents(half, FRACTIONS, salt=str(run.seed))["valid"]}
    after = {texts[i] for i in split["valid"]} & set(half)
    shuffled = [set(np.random.default_rng(run.seed).permutation(t)[: len(t) // 10].tolist())
                for t in (half, texts)]  # fmt: skip
    moved = len(shuffled[0] - shuffled[1])
    run.claim(
        "when documents are added, none moves between the splits",
        before == after and moved > 0,
        f"{len(half)} documents added: {len(before ^ after)} of {len(before)} moved; with a "
        f"shuffle by a fixed seed {moved} of {len(shuffled[0])} did",
    )


def manual_leaks(run: Run) -> None:
    """Documents that quote each other: what Jaccard overlooks."""
    texts = [d.text for d in datasets.pydocs()[: run.budget(quick=25, default=None)]]
    split = split_documents(texts, {"train": 0.8, "valid": 0.2})
    leaks = find_leaks(*([texts[i] for i in split[name]] for name in ("train", "valid")))
    run.metric("manual: validation topics with a near copy in training",
               len(leaks.exact) + len(leaks.near), "topics", rtol=None)  # fmt: skip
    run.metric("manual: validation topics mostly quoted in training",
               int((leaks.overlap > 0.5).sum()), "topics", rtol=None)  # fmt: skip
    run.metric("manual: validation topics", len(split["valid"]), "topics", rtol=None)
    wikitext = [datasets.cache_dir() / f"wikitext-2/{name}.txt" for name in ("valid", "test")]
    if run.mode != "quick" and all(file.exists() for file in wikitext):
        test = _wikitext_articles("test")
        leaks = find_leaks(_wikitext_articles("valid"), test)
        run.say(
            f"WikiText-2, test against validation: {len(leaks.exact) + len(leaks.near)} of "
            f"{len(test)} articles near copies, largest 13-word overlap "
            f"{leaks.overlap.max():.3f}"
        )


def _wikitext_articles(split: str) -> list[str]:
    return [a for a in re.split(r"\n (?== [^=])", datasets.wikitext2(split)) if len(a) > 200]


ARMS = ("rows, after packing", "documents, copies apart", "groups of near copies")


def leaking(run: Run, passages: list[str]) -> None:
    """Failure on display: three ways to hold out a tenth, and how far each flatters the model."""
    n = run.budget(quick=90, default=260)
    seeds = run.budget(quick=2, default=5)
    gaps: dict[str, list[float]] = {arm: [] for arm in ARMS}
    counts = dict.fromkeys(ARMS[1:], 0)
    for seed in run.progress(range(run.seed, run.seed + seeds), "splits"):
        rng = np.random.default_rng(seed)
        texts, fresh = copied_corpus(rng, passages, n)
        codes, fresh_codes = encode([*texts]), encode(fresh)
        leader = deduplicate(texts).leader
        for arm in ARMS:
            if arm == ARMS[0]:
                rows = pack_concat(codes, 256, 0).tokens
                held = rng.permutation(len(rows)) < len(rows) // 10
                train, valid = rows[~held].ravel(), list(rows[held])
            else:
                groups = leader if arm == ARMS[2] else None
                split = split_documents(texts, FRACTIONS, leader=groups, salt=str(seed))
                pair = [[texts[i] for i in split[name]] for name in ("train", "valid")]
                leaks = find_leaks(*pair)
                counts[arm] += len(leaks.exact) + len(leaks.near)
                train = np.concatenate([codes[i] for i in split["train"]])
                valid = [codes[i] for i in split["valid"]]
            model = WittenBell(7, len(ALPHABET) + 1).fit(train)
            gaps[arm].append(loss(model, fresh_codes) - loss(model, valid))
    flattery = {arm: mean_interval(values) for arm, values in gaps.items()}
    for arm, interval in flattery.items():
        run.metric(f"flattery, split by {arm}", interval.mean, "nats/char", rtol=None)
    run.metric("leaks found, documents apart", counts[ARMS[1]] / seeds, "documents", rtol=None)
    run.metric("leaks found, groups", counts[ARMS[2]], "documents", rtol=0)
    run.claim(
        "splitting rows after packing leaks, splitting groups does not",
        flattery[ARMS[0]].low > 0.1 and abs(flattery[ARMS[2]].mean) < flattery[ARMS[0]].low / 3,
        "; ".join(f"{arm}: loss too low by {i} nats/char" for arm, i in flattery.items()),
        quick=False,
    )
    run.claim(
        "after a split by groups no held-out document has a near copy in training",
        counts[ARMS[2]] == 0 and counts[ARMS[1]] > 0,
        f"{seeds} corpora of {n + n // 2} documents: {counts[ARMS[1]]} leaks if documents are "
        f"split one by one, {counts[ARMS[2]]} if groups are",
    )
    draw_leaks(run, gaps, flattery)


def copied_corpus(
    rng: np.random.Generator, passages: list[str], n: int
) -> tuple[list[str], list[str]]:
    """Passages of 150 words, every second with an edited copy; and others that have none."""
    words = [w for i in rng.permutation(len(passages))[:1500] for w in passages[i].split()]
    n = min(n, len(words) // 250)
    cut = [words[150 * i : 150 * (i + 1)] for i in range(n + n // 4)]
    cut = [cut[i] for i in rng.permutation(len(cut))]  # new text from everywhere, like the rest
    fresh, base, tails = cut[: n // 4], cut[n // 4 :], words[150 * (n + n // 4) :]
    kept = 140  # of 150 words; the tail of the copy is other, real text
    copies = [d[:kept] + tails[10 * i : 10 * (i + 1)] for i, d in enumerate(base[::2])]
    texts = [" ".join(words) for words in (*base, *copies)]
    return [texts[i] for i in rng.permutation(len(texts))], [" ".join(words) for words in fresh]


ALPHABET = "\n abcdefghijklmnopqrstuvwxyz0123456789.,;:'\"()-"


def encode(texts: list[str]) -> list[np.ndarray]:
    """Letters as numbers from 1 on; 0 is everything else, and the separator."""
    table = {char: i for i, char in enumerate(ALPHABET, 1)}
    return [np.array([table.get(c, 0) for c in text.lower()], dtype=np.int64) for text in texts]


def loss(model: WittenBell, rows: list[np.ndarray]) -> float:
    """Nats a character, over all rows."""
    values = np.concatenate([model.log_probs(row) for row in rows if len(row) >= model.order])
    return -float(values.mean())


def draw_leaks(run: Run, gaps: dict[str, list[float]], flattery: dict) -> None:
    """The three splits, each seed a point, the mean with its interval."""
    title = "How much better does a model look than it is?"
    with run.figure("leak", title, size=(8.3, 3.4)) as axes:
        for row, (arm, color) in enumerate(
            zip(ARMS, (plots.ORANGE, plots.YELLOW, plots.BLUE), strict=True)
        ):
            i = flattery[arm]
            axes.plot(gaps[arm], [row + 0.17] * len(gaps[arm]), "o", ms=4, color=color, alpha=0.5)
            axes.errorbar(i.mean, row, xerr=[[i.mean - i.low], [i.high - i.mean]], fmt="o",
                          color=color, capsize=3)  # fmt: skip
            axes.text(i.mean, row - 0.17, f"{i.mean:.2f}", color=color, ha="center")
        axes.axvline(0, color=plots.REFERENCE, ls="--", lw=1)
        axes.text(0.004, -0.62, "honest", color=plots.REFERENCE, fontsize=9, va="top")
        axes.set_yticks(range(3), [f"split by\n{arm}" for arm in ARMS])
        axes.set(xlabel="loss on new text less loss on validation (nats/character)",
                 ylim=(2.5, -0.7))  # fmt: skip
        axes.grid(axis="y", visible=False)


# ---- packing


def fewest_rows(sizes: Sequence[int], length: int) -> int:
    """Optimal bin packing by trying everything: the reference for tiny cases."""
    best = [len(sizes)]

    def place(i: int, rooms: tuple[int, ...]) -> None:
        if len(rooms) >= best[0] and i < len(sizes):
            return
        if i == len(sizes):
            best[0] = min(best[0], len(rooms))
            return
        for k in {room: k for k, room in enumerate(rooms) if room >= sizes[i]}.values():
            place(i + 1, (*rooms[:k], rooms[k] - sizes[i], *rooms[k + 1 :]))
        place(i + 1, (*rooms, length - sizes[i]))

    place(0, ())
    return best[0]


def unpacked(packed: Packed, n: int) -> list[list[int]]:
    """Documents put together again, by segment and, within a row, by position."""
    pieces: list[list[list[int]]] = [[] for _ in range(n)]
    for tokens, segments in zip(packed.tokens.tolist(), packed.segments.tolist(), strict=True):
        for i, group in itertools.groupby(zip(segments, tokens, strict=True), lambda x: x[0]):
            if i != PAD:
                pieces[i].append([token for _, token in group])
    return [sorted(p, key=len, reverse=True) for p in pieces]


def packing(run: Run, texts: list[str], row_length: int) -> None:
    """Nothing lost, near the optimum, and what each way costs."""
    excess = []
    for _ in range(run.budget(quick=40, default=200)):
        sizes = run.rng.integers(1, 11, run.rng.integers(1, 9))
        documents = [np.ones(size - 1, dtype=np.int64) for size in sizes]
        ours = len(pack_best_fit(documents, 10, 0).tokens)
        excess.append((ours, fewest_rows(sizes.tolist(), 10)))
    optimal = [a == b for a, b in excess]
    bound = all(a <= 11 * b / 9 + 1 for a, b in excess)
    run.claim(
        "best fit needs at most 11/9 of the fewest rows plus one, and seldom more than the fewest",
        bound and np.mean(optimal) > 0.9,
        f"{len(excess)} tiny cases against trying everything: {sum(optimal)} optimal, largest "
        f"excess {max(a - b for a, b in excess)} row",
    )
    words = [text.split() for text in texts]
    documents, start = [], 0
    for w in words:  # every token has its own number, so a lost one shows
        documents.append(np.arange(start, start + len(w)))
        start += len(w)
    separator = start
    lengths = [128, 256, 512, 1024, 2048]
    lengths = sorted({*run.budget(quick=lengths[:2], default=lengths), row_length})
    ways = {"concatenated": pack_concat, "best fit": pack_best_fit}
    cut: dict[str, list[float]] = {name: [] for name in ways}
    waste: dict[str, list[float]] = {name: [] for name in ways}
    for length in lengths:
        for name, way in ways.items():
            packed = way(documents, length, separator)
            cut[name].append(100 * packed.n_truncated / len(documents))
            waste[name].append(100 * packed.waste)
            if length == row_length:
                there = np.sort(packed.tokens[packed.segments != PAD])
                run.check(
                    f"every token once, {name}",
                    there,
                    np.append(np.arange(start), np.full(len(documents), separator)),
                    against="the documents and a separator each",
                    atol=0,
                    why="integers: identical",
                )
    one_each = 100 * (1 - np.mean([min(1, (len(w) + 1) / row_length) for w in words]))
    at = lengths.index(row_length)
    for name in ways:
        run.metric(f"documents cut, {name}", cut[name][at], "%", rtol=None)
        run.metric(f"padding, {name}", waste[name][at], "%", rtol=None)
    run.metric("padding, one document a row", one_each, "%", rtol=None)
    full = (start + len(documents)) / row_length  # rows without any padding
    used = full / (1 - waste["best fit"][at] / 100)
    run.claim(
        "best fit cuts only documents longer than a row, for 1 % more rows, and the last",
        cut["best fit"][at] <= 100 * np.mean([len(w) + 1 > row_length for w in words]) + 1e-9
        and used <= 1.01 * full + 1,
        f"rows of {row_length}: documents cut {cut['best fit'][at]:.1f} % instead of "
        f"{cut['concatenated'][at]:.1f} %, padding {waste['best fit'][at]:.2f} %",
        quick=False,
    )
    with run.figure("packing", "How many documents are cut in two?") as axes:
        for (name, values), color in zip(cut.items(), (plots.ORANGE, plots.BLUE), strict=True):
            axes.plot(lengths, values, "o-", color=color, label=name)
        longer = [100 * np.mean([len(w) + 1 > length for w in words]) for length in lengths]
        axes.plot(lengths, longer, color=plots.GRAY, lw=9, alpha=0.35, zorder=1)
        axes.text(
            lengths[0], 4, "gray: documents longer than a row,\nwhich must be cut", fontsize=9,
            color=plots.REFERENCE,
        )  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.set_xticks(lengths, [f"{n:,}" for n in lengths])
        axes.set(xlabel="length of a row (words)", ylabel="documents cut (%)", ylim=(0, None))
        plots.label_lines(axes)


# ---- mixing and order


def mixing(run: Run, texts: list[str]) -> None:
    """Frequencies as asked for, the same from anywhere; and what order saves."""
    from scipy.stats import chi2

    sizes, n = np.array([8_000_000, 900_000, 100_000, 10_000]), 40_000
    worst = []
    for temperature in (1.0, 2.0, 5.0):
        weights = mixture_weights(sizes, temperature)
        drawn = draw_sources(weights, run.seed, np.arange(n))
        counts = np.bincount(drawn, minlength=len(sizes))
        worst.append(float(((counts - n * weights) ** 2 / (n * weights)).sum()))
    run.check(
        "χ² of the sources drawn, 3 temperatures",
        np.array(worst) / chi2.ppf(1 - 1e-4, 3),
        np.zeros(3),
        against="the weights, p = 0.0001",
        atol=1.0,
        why="the statistic may reach its 99.99 % quantile",
    )
    weights = mixture_weights(sizes, 2.0)
    epochs = expected_epochs(weights, sizes, int(sizes.sum()))
    run.check(
        "expected epochs, weighted by size",
        float((epochs * sizes).sum()),
        float(sizes.sum()),
        against="all tokens of training",
        rtol=1e-12,
        why="float64 rounding",
    )
    run.metric("epochs of the smallest source, T = 2", epochs[-1], "epochs", rtol=1e-6)
    run.metric("epochs of the largest source, T = 2", epochs[0], "epochs", rtol=1e-6)
    straight = draw_sources(weights, 3, np.arange(1000))
    resumed = np.concatenate([draw_sources(weights, 3, np.arange(a, a + 125))
                              for a in range(0, 1000, 125)])  # fmt: skip
    other = draw_sources(weights, 4, np.arange(1000))
    run.claim(
        "a resumed run draws what the straight one does",
        np.array_equal(straight, resumed) and not np.array_equal(straight, other),
        f"1,000 steps in 8 parts: equal; another seed differs at {int((straight != other).sum())}",
    )
    lengths = np.array([float(len(text.split())) for text in texts])
    orders = {"by length": np.argsort(lengths, kind="stable"),
              "at random": run.rng.permutation(len(lengths))}  # fmt: skip
    padding = {}
    for name, order in orders.items():
        batches = np.array_split(lengths[order], len(lengths) // 16)
        padding[name] = 100 * (1 - lengths.sum() / sum(b.max() * len(b) for b in batches))
        run.metric(f"padding of batches, {name}", padding[name], "%", rtol=None)
    early = lengths[curriculum_pool(lengths, 0, 100)].mean()
    run.claim(
        "order by length saves padding, and a curriculum starts with the short",
        padding["by length"] < padding["at random"] * 2 / 3 and early < lengths.mean() / 2,
        f"batches of 16: {padding['by length']:.1f} % padding instead of "
        f"{padding['at random']:.1f} %; mean length at the first step {early:.0f} words, at the "
        f"last {lengths[curriculum_pool(lengths, 100, 100)].mean():.0f}",
    )


def show(run: Run, data: str, row_length: int) -> None:
    """Everything, in the order of the pipeline."""
    documents, source = articles(run, data)
    passages = prose(documents)
    extraction(run, passages)
    filters(run, documents, source)
    splits(run, passages)
    manual_leaks(run)
    leaking(run, passages)
    sections = [" ".join(p) for p in _sections(passages, run.rng)]
    packing(run, sections, row_length)
    mixing(run, sections)


def _sections(passages: list[str], rng: np.random.Generator) -> list[list[str]]:
    """Documents of one to many paragraphs, long-tailed as on the web."""
    found, at = [], 0
    while at < min(len(passages), 3000):
        n = 1 + int(rng.pareto(1.1) * 1.5)
        found.append(passages[at : at + min(n, 60)])
        at += min(n, 60)
    return found


def main(
    run: Run, *, data: Literal["auto", "pydocs"] = "auto", row_length: PositiveInt = 512
) -> None:
    """Take pages through the whole pipeline, check each step, and leak on purpose.

    Parameters
    ----------
    data
        Wikipedia if it has been fetched, or always Python's manual.
    row_length
        Tokens of a packed row.
    """
    show(run, data, row_length)
