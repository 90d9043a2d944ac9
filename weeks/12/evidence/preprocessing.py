"""Stems against the published ones, tokens and lemmas against a treebank."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from shared import plots
from shared.corpora import Word, english_ewt, english_lemmas, porter_pairs
from shared.registry import path
from shared.stats import paired_bootstrap
from shared.study import Run
from shared.texts import read_text_file
from week12.porter import stem
from week12.preprocessing import Lemmatizer, tokenize, words

OPEN = ("NOUN", "VERB", "ADJ", "ADV")


def main(run: Run) -> None:
    """Check the stemmer on its vocabulary; score tokens and lemmas on the treebank's test part."""
    check_stems(run)
    n = run.budget(quick=150, default=2077)
    score_tokens(run, n)
    sentences = english_ewt("test")[:n]
    score_lemmas(run, sentences)
    merge(run, [word for sentence in sentences for word in sentence])


def check_stems(run: Run) -> None:
    """Every word of Porter's vocabulary: the published stem, and NLTK's two readings."""
    from nltk.stem.porter import PorterStemmer
    from sklearn.feature_extraction.text import CountVectorizer

    pairs = porter_pairs()[:: run.budget(quick=20, default=1)]
    exact = {"why": "strings are equal or not", "kind": "library"}

    def differ(ours: Iterable, theirs: Iterable) -> int:
        return sum(a != b for a, b in zip(ours, theirs, strict=True))

    vocabulary, published = zip(*pairs, strict=True)
    found = [stem(word) for word in vocabulary]
    run.check("stems that differ", differ(found, published), 0, against="published pairs", **exact)
    for mode, revised in (("ORIGINAL_ALGORITHM", False), ("MARTIN_EXTENSIONS", True)):
        theirs = PorterStemmer(mode=mode)
        wrong = differ(
            (stem(word, revised=revised) for word in vocabulary), map(theirs.stem, vocabulary)
        )
        run.check(f"stems that differ, {mode}", wrong, 0, against="nltk PorterStemmer", **exact)
    revised = differ((stem(word, revised=True) for word in vocabulary), published)
    default = differ(map(PorterStemmer().stem, vocabulary), published)
    run.metric("stems that the revised program changes", revised, f"of {len(pairs):,}")
    run.metric("stems that NLTK's default changes", default, f"of {len(pairs):,}")
    text = [" ".join(word.form for word in sentence) for sentence in english_ewt("dev")[:300]]
    analyzer = CountVectorizer().build_analyzer()
    wrong = differ(map(words, text), map(analyzer, text))
    run.check("texts cut otherwise", wrong, 0, against="CountVectorizer's analyzer", **exact)


# ---- tokens


def spans(tokens: Iterable[str]) -> set[tuple[int, int]]:
    """Where tokens begin and end, blanks not counted."""
    ends = [0, *itertools.accumulate(len("".join(token.split())) for token in tokens)]
    return set(itertools.pairwise(ends))


def score_tokens(run: Run, n: int) -> None:
    """F1 of the spans in raw sentences, beside blanks and NLTK's tokenizer."""
    from nltk.tokenize import NLTKWordTokenizer

    file = path("ud_english_ewt", "en_ewt-ud-test.conllu")
    lines = read_text_file(file).splitlines()
    texts = [line.removeprefix("# text = ") for line in lines if line.startswith("# text = ")][:n]
    treebank = [[word.form for word in sentence] for sentence in english_ewt("test")[:n]]
    pairs = [
        (text, spans(gold))
        for text, gold in zip(texts, treebank, strict=True)
        if "".join(text.split()) == "".join("".join(gold).split())  # not where a typo is repaired
    ]
    run.say(f"tokens are compared in {len(pairs):,} sentences of {len(texts):,}")
    cutters = {
        "ours": tokenize,
        "NLTK's": NLTKWordTokenizer().tokenize,
        "at blanks": str.split,
    }
    per_sentence = {}
    for name, cut in cutters.items():
        found = [(spans(cut(text)), gold) for text, gold in pairs]
        shared, total = (
            np.array([f(cut, gold) for cut, gold in found])
            for f in (lambda a, b: len(a & b), lambda a, b: len(a) + len(b))
        )
        per_sentence[name] = 2 * shared / total
        run.metric(f"F1 of tokens, {name}", 100 * 2 * shared.sum() / total.sum(), "%")
    gain = paired_bootstrap(per_sentence["ours"], per_sentence["at blanks"], rng=run.rng)
    run.claim("marks and clitics are words too", gain, at_least=0.05, unit="F1 per sentence")


# ---- lemmas


def score_lemmas(run: Run, sentences: list[list[Word]]) -> None:
    """Accuracy of the lemmas on the test part, by method and part of speech."""
    table = english_lemmas()
    lemmatizer = Lemmatizer(table)
    tags = iter(run.rng.permutation([word.pos for sentence in sentences for word in sentence]))
    methods: dict[str, Callable[[Word], str]] = {
        "the form itself": lambda word: word.form,
        "lower case": lambda word: word.form.lower(),
        "table alone": lambda word: table.get(word.form.lower(), word.form.lower()),
        "table and rules": lambda word: lemmatizer(word.form, word.pos),
        "shuffled parts of speech": lambda word: lemmatizer(word.form, next(tags)),
    }
    right = {
        name: [[lemma(word) == word.lemma for word in sentence] for sentence in sentences]
        for name, lemma in methods.items()
    }
    shares = {name: [np.mean(row) for row in rows] for name, rows in right.items()}
    for name in list(methods)[:-1]:
        run.metric(f"lemmas right, {name}", 100 * np.mean(np.concatenate(right[name])), "%")

    def beyond_table(name: str):
        return paired_bootstrap(shares[name], shares["table alone"], rng=run.rng)

    helps = "the part of speech and rules add to the table"
    note = {
        "unit": "accuracy per sentence",
        "seen_before": "the dev part, on which rules were made",
    }
    run.claim(helps, beyond_table("table and rules"), at_least=0.05, **note)
    run.falsifier(
        "parts of speech shuffled", beyond_table("shuffled parts of speech"), breaks=helps
    )

    kinds = [word.pos for sentence in sentences for word in sentence]
    common = [kind for kind, _ in Counter(kinds).most_common(12)]
    names = list(methods)[:-1]
    flat = {name: np.concatenate(right[name]) for name in names}
    at = {kind: np.array(kinds) == kind for kind in common}
    grid = [[100 * flat[name][at[kind]].mean() for kind in common] for name in names]
    with run.figure("lemmas", "Which words need more than a table?", size=(9.0, 3.6)) as axes:
        plots.heat_map(axes, grid, label="% right", rows=names, columns=common, limits=(0, 100))
        axes.tick_params(axis="x", rotation=45)
        for (row, column), value in np.ndenumerate(grid):
            ink = "white" if value > 60 else "black"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=ink)


# ---- what is merged


def merge(run: Run, text: list[Word]) -> None:
    """Vocabulary against length of text, and which words a stem joins or leaves apart."""
    lemmatizer = Lemmatizer(english_lemmas())
    readings = {
        "as written": [word.form for word in text],
        "lower case": [word.form.lower() for word in text],
        "lemmas": [lemmatizer(word.form, word.pos) for word in text],
        "stems": [stem(word.form) for word in text],
    }
    lengths = np.linspace(0, len(text), 60).astype(int)[1:]
    sizes = {name: [len(set(row[:n])) for n in lengths] for name, row in readings.items()}
    for name, row in sizes.items():
        run.metric(f"vocabulary, {name}", row[-1], f"of {len(text):,} words")
    with run.figure("vocabulary", "How many different words are there?") as axes:
        labels = {"xlabel": "words of text", "ylabel": "different ones", "ylim": (0, None)}
        plots.curves(axes, lengths, sizes, **labels)

    types = {(word.form.lower(), word.lemma) for word in text if word.pos in OPEN}
    of_lemma, of_stem = (set(pairs(types, key)) for key in (lambda t: t[1], lambda t: stem(t[0])))
    left = 100 * (1 - len(of_lemma & of_stem) / len(of_lemma))
    joined = 100 * (1 - len(of_lemma & of_stem) / len(of_stem))
    run.metric("forms of a lemma with other stems", left, "% of pairs")
    run.metric("forms of a stem with other lemmas", joined, "% of pairs")


def pairs(types: set[tuple[str, str]], key: Callable) -> Iterator[tuple]:
    """Pairs of types that share a key."""
    groups = defaultdict(list)
    for item in sorted(types):
        groups[key(item)].append(item)
    for group in groups.values():
        yield from itertools.combinations(group, 2)
