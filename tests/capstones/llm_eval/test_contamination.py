"""What stands in a corpus is found there, and a model that has seen a text is less surprised."""

import json
import math
import re
import tracemalloc
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_eval.statistics import contamination as module
from llm_eval.statistics.contamination import auc, contamination, min_k, overlaps, shuffled
from llm_eval.types import Sample
from shared.errors import UserError

LETTERS = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=40).map(" ".join)


def literal(document, corpus, n):
    """Sets of tuples, as one would write it on a board."""

    def grams(text, size):
        words = re.findall(r"\w+", text.casefold())
        return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}

    size = min(n, len(re.findall(r"\w+", document)))
    if size < min(n, 8):
        return None
    ours, theirs = grams(document, size), grams(corpus, size)
    return len(ours & theirs) / len(ours)


@given(st.lists(LETTERS, min_size=1, max_size=4), LETTERS, st.sampled_from([1, 2, 3, 8, 13]))
def test_shares_are_those_of_sets(tmp_path_factory, documents, corpus, n):
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    path.write_text(corpus.replace(" d ", ",\n\nD! "), encoding="utf-8")
    ids = {str(i): document for i, document in enumerate(documents)}
    assert overlaps(ids, [path], n=n) == pytest.approx(
        {id: literal(document, corpus, n) for id, document in ids.items()}
    )


def test_nothing_is_lost_where_pieces_of_a_corpus_meet(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in rng.integers(0, 5000, 3000)]
    (tmp_path / "a.txt").write_text(
        "\n".join(" ".join(words[i : i + 7]) for i in range(0, 3000, 7))
    )
    (tmp_path / "line.txt").write_text(" ".join(words))
    for piece in (13, 50, 1 << 16):
        monkeypatch.setattr(module, "PIECE", piece)
        for name in ("a.txt", "line.txt"):
            found = overlaps({"seen": " ".join(words), "not": "other " * 40}, [tmp_path / name])
            assert found == {"seen": 1.0, "not": 0.0}


def test_documents_are_mappings_and_corpora_may_be_json(tmp_path):
    text = "Alice was beginning to get very tired of sitting by her sister on the bank"
    path = tmp_path / "corpus.jsonl"
    path.write_text(json.dumps({"text": f"Chapter I. {text.upper()}, and"}) + "\n")
    document = {"question": {"stem": text}, "choices": ["yes", "no"], "answer": 1}
    shares = overlaps({"a": document, "b": "too short", "c": {"question": text[5:]}}, [path])
    assert shares["a"] == pytest.approx(3 / 5)
    assert (shares["b"], shares["c"]) == (None, 1.0)
    path.write_text('{"text": "a"}\n{"texts": "a"}\n')
    with pytest.raises(UserError, match=r"corpus.jsonl, line 2: must be a JSON object with a text"):
        overlaps({"a": document}, [path])
    with pytest.raises(UserError, match=r"absent.txt cannot be read as text"):
        overlaps({"a": document}, [tmp_path / "absent.txt"])
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 " * 20)
    with pytest.raises(UserError, match=r"latin.txt cannot be read as text"):
        overlaps({"a": document}, [tmp_path / "latin.txt"])


def test_a_corpus_is_not_held(tmp_path):
    path = tmp_path / "large.txt"
    path.write_text(" ".join(f"w{i % 977}" for i in range(600_000)))
    tracemalloc.start()
    overlaps({"a": "word " * 20}, [path])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 2.5e6
    assert peak < 25e6


def test_a_metric_on_clean_and_dirty_documents():
    values = [1, 1, 1, 0, 0, 1, 0, 0]
    shares = {str(i): share for i, share in enumerate([1, 0.2, 0.1, 0.5, 0, 0, 0, 0])}
    samples = [Sample("t", str(i), {}, (), (), values={"acc": x}) for i, x in enumerate(values)]
    samples.append(Sample("t", "8", {}, (), (), values={"acc": 1}))
    samples.append(Sample("t", "9", {}, (), (), error="timeout"))
    found = contamination(samples, {**shares, "8": None, "9": 1.0}, "acc", signature="n:13")
    assert [(n.metric, n.value, n.n, n.failed) for n in found] == [
        ("contaminated", pytest.approx(5 / 9), 9, 0),
        ("acc_clean", 0.25, 4, 1),
        ("acc_dirty", 0.75, 4, 1),
    ]
    assert {(n.signature, n.note) for n in found} == {
        ("n:13|dirty:>0", "1 documents too short to tell")
    }
    strict = contamination(samples[:8], shares, "acc", signature="n:8", above=0.7)
    assert [(n.metric, n.n) for n in strict] == [
        ("contaminated", 8),
        ("acc_clean", 7),
        ("acc_dirty", 1),
    ]
    with pytest.raises(ValueError, match="a document long enough"):
        contamination(samples, {}, "acc", signature="")


# ---- by the model's own probabilities


@given(st.lists(st.floats(-50, 0), min_size=1, max_size=30), st.sampled_from([0.1, 0.2, 0.5, 1.0]))
def test_min_k_is_the_mean_of_the_least_likely(logprobs, k):
    n = max(1, int(k * len(logprobs)))
    assert min_k(logprobs, k) == pytest.approx(sum(sorted(logprobs)[:n]) / n)


def test_min_k_of_nothing():
    with pytest.raises(ValueError, match="at least one token, got 0"):
        min_k([])
    with pytest.raises(ValueError, match=r"k must be in \(0, 1\], got 0"):
        min_k([-1.0], 0)


@given(
    st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=12),
    st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=12),
)
def test_auc_is_the_share_of_pairs(seen, unseen):
    pairs = [(x > y) + (x == y) / 2 for x in seen for y in unseen]
    assert auc(seen, unseen) == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)


class Trigrams:
    """A model of words, trained on what it is given, backing off to a flat guess."""

    def __init__(self, texts):
        self.next = defaultdict(Counter)
        for text in texts:
            words = ["", "", *text.split()]
            for a, b, c in zip(words, words[1:], words[2:], strict=False):
                self.next[a, b][c] += 1

    def logprobs(self, text):
        words = ["", "", *text.split()]
        found = []
        for a, b, c in zip(words, words[1:], words[2:], strict=False):
            counts = self.next[a, b] if (a, b) in self.next else Counter()
            found.append(math.log((counts[c] + 0.1) / (counts.total() + 100)))
        return found


def test_a_model_that_has_seen_half_the_documents():
    """Seen ones stand out from their own shuffles much more than new ones do."""
    from pydoc_data.topics import topics

    words = " ".join(topics[name] for name in sorted(topics)).split()
    documents = [" ".join(words[i : i + 60]) for i in range(0, 60 * 80, 60)]
    seen, new = documents[::2], documents[1::2]
    model = Trigrams(seen)

    def scores(texts):
        return [min_k(model.logprobs(text), 0.9) for text in texts]

    assert auc(scores(seen), scores(new)) > 0.95
    areas = {
        name: auc(scores(texts), scores([shuffled(text, i) for i, text in enumerate(texts)]))
        for name, texts in (("seen", seen), ("new", new))
    }
    assert areas["seen"] > 0.99
    assert areas["seen"] > areas["new"] + 0.05
    assert sorted(shuffled(seen[0]).split()) == sorted(seen[0].split())
    assert shuffled(seen[0]) == shuffled(seen[0]) != seen[0]
