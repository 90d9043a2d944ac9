"""Unigram's lattice is the sum over all segmentations; its best one is the libraries'."""

import math
import tracemalloc
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import datasets
from week15 import unigram
from week15.evidence import unigram as evidence
from week15.lattice import Lattice
from week15.unigram import SPACE, Unigram, losses, m_step, seed_pieces, space_words

WORDS = st.lists(st.text("abc", min_size=1, max_size=8), min_size=1, max_size=5, unique=True)
LONGER = st.sets(st.text("abc", min_size=2, max_size=4), max_size=12)


def model_of(longer, seed, letters="abc"):
    pieces = [*letters, *sorted(longer)]
    log_p = np.log(np.random.default_rng(seed).dirichlet(np.ones(len(pieces))) + 1e-9)
    return Unigram(pieces, log_p), pieces, log_p


@pytest.fixture(scope="module")
def documents():
    return [document.text for document in datasets.pydocs()[:10]]


@pytest.fixture(scope="module")
def trained(documents):
    return Unigram.train(documents, 500)


@pytest.fixture(scope="module")
def reference(trained):
    return evidence.hugging_face(trained)


# ---- the lattice


@settings(max_examples=60, deadline=None)
@given(words=WORDS, longer=LONGER, seed=st.integers(0, 99))
def test_lattice_equals_the_list_of_all_segmentations(words, longer, seed):
    model, pieces, log_p = model_of(longer, seed)
    frequency = np.arange(1.0, len(words) + 1)
    counted = dict(zip(words, frequency.tolist(), strict=True))
    likelihood, expected = evidence.summed(counted, model.scores)
    each, counts = Lattice(words, pieces).expected_counts(log_p, frequency)
    np.testing.assert_allclose(each, likelihood, rtol=1e-10)
    np.testing.assert_allclose(counts, [expected[piece] for piece in pieces], atol=1e-9)


@given(words=WORDS, longer=LONGER, seed=st.integers(0, 99))
def test_dropping_pieces_equals_a_new_lattice(words, longer, seed):
    _, pieces, log_p = model_of(longer, seed)
    rng = np.random.default_rng(seed)
    kept = rng.permutation([i for i, p in enumerate(pieces) if len(p) == 1 or rng.random() < 0.5])
    lattice = Lattice(words, pieces)
    lattice.keep(kept)
    fresh = Lattice(words, [pieces[i] for i in kept])
    ours, theirs = (x.expected_counts(log_p[kept], np.ones(len(words))) for x in (lattice, fresh))
    np.testing.assert_allclose(np.concatenate(ours), np.concatenate(theirs), atol=1e-12)


def test_long_words_do_not_underflow():
    word = "ab" * 2000
    lattice = Lattice([word], ["a", "b", "ab"])
    each, counts = lattice.expected_counts(np.log([0.01, 0.01, 1e-4]), np.ones(1))
    assert each[0] == pytest.approx(2000 * math.log(2e-4))
    np.testing.assert_allclose(counts, [1000, 1000, 1000])


# ---- best, n best, samples


@settings(max_examples=80)
@given(word=st.text("abc", min_size=1, max_size=9), longer=LONGER, seed=st.integers(0, 99))
def test_viterbi_and_n_best_against_the_list(word, longer, seed):
    model, _, _ = model_of(longer, seed)
    expected = sorted((score for score, _ in evidence.enumerated(word, model.scores)), reverse=True)
    score, pieces = model.viterbi(word)
    assert score == pytest.approx(expected[0])
    assert "".join(pieces) == word
    found = model.n_best(word, 7)
    assert [score for score, _ in found] == pytest.approx(expected[:7])
    assert len({tuple(parts) for _, parts in found}) == len(found)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 3.0])
def test_samples_follow_the_distribution(alpha):
    model, _, _ = model_of({"ab", "ba", "aba", "bc"}, 4)
    rng, n = np.random.default_rng(0), 1500
    drawn = Counter(tuple(model.sample("ababc", rng, alpha=alpha)) for _ in range(n))
    ways = evidence.enumerated("ababc", model.scores)
    weights = np.array([math.exp(alpha * score) for score, _ in ways])
    shares = np.array([drawn[tuple(parts)] / n for _, parts in ways])
    assert sum(drawn.values()) == n
    np.testing.assert_allclose(shares, weights / weights.sum(), atol=4.5 * 0.5 / math.sqrt(n))


def test_ties_take_the_longest_last_piece():
    model = Unigram(["a", "aa"], np.array([-1.0, -1.0]))
    assert model.viterbi("aaa")[1] == ["a", "aa"]
    assert evidence.hugging_face(model).model.tokenize("aaa")[1].value == "aa"


# ---- libraries


@settings(max_examples=150)
@given(text=st.text(st.sampled_from("the class 'x'.isn▁€中é\n\tof"), max_size=40) | st.text())
def test_same_ids_as_tokenizers(trained, reference, text):
    text = " ".join(text.replace("\x00", "").replace(SPACE, "_").split())
    assert trained.encode(text) == reference.encode(text).ids


@settings(max_examples=60, deadline=None)
@given(word=st.text("abcx", min_size=1, max_size=12), longer=LONGER, seed=st.integers(0, 30))
def test_same_segmentation_for_any_scores(word, longer, seed):
    model, _, _ = model_of(longer | {SPACE}, seed)
    assert model.encode(word) == evidence.hugging_face(model).encode(word).ids


def test_unknown_characters_are_one_token(trained):
    ids = trained.encode("a中中中a 中")
    assert ids.count(0) == 2
    assert trained.encode("中 中").count(0) == 2  # not across words


# ---- training


def test_training_reaches_its_size_and_keeps_all_characters(trained, documents):
    assert len(trained) == 500
    characters = {char for word in evidence.count_words(documents) for char in word}
    assert characters <= set(trained.scores)
    assert np.logaddexp.reduce(list(trained.scores.values())) == pytest.approx(0.0)
    text = " ".join(documents[0].split())
    assert trained.decode(trained.encode(text)) == text


def test_losses_by_hand():
    """Four uses of ab go to a and b: 4 ln(4/10) against 4 ln(7/14) twice."""
    pieces, counts = ["a", "b", "ab"], np.array([3.0, 3.0, 4.0])
    worth = losses(pieces, m_step(counts), counts)
    assert np.isinf(worth[:2]).all()
    assert worth[2] == pytest.approx(4 * (math.log(0.4) - 2 * math.log(0.5)))


def test_seeds_by_hand():
    assert seed_pieces({"abab": 2, "c": 1}, 2) == {"a": 4, "b": 4, "c": 1, "ab": 4, "abab": 2}
    assert seed_pieces({"xy": 1}, 9) == {"x": 1, "y": 1}  # seen once: no piece
    assert seed_pieces({}, 3) == {}


@given(words=st.dictionaries(st.text("ab", min_size=1, max_size=40), st.integers(1, 3)))
def test_seeds_are_all_that_occurs_twice(words):
    """Counted length by length, against a count of every substring."""
    counts = Counter()
    for word, n in words.items():
        for start, end in combinations(range(len(word) + 1), 2):
            counts[word[start:end]] += n
    pieces = {t: n for t, n in counts.items() if len(t) == 1 or (len(t) <= 16 and n > 1)}
    assert seed_pieces(words, 10**6) == pieces


def test_work_for_a_word_without_end_is_linear(monkeypatch):
    """Training cuts it; the n best ways share their beginnings."""
    seen = []
    monkeypatch.setattr(
        unigram, "Lattice", lambda words, _: seen.append(words) or Lattice(words, _)
    )
    word = "".join(np.random.default_rng(0).choice(list("ACGT"), 5000).tolist())
    model = Unigram.train([word], 60)
    assert ("".join(seen[0]), max(map(len, seen[0]))) == (SPACE + word, 100)
    n_edges = len(model.n_best(word, 1)[0][1])
    tracemalloc.start()
    pieces = model.n_best(word, 3)[2][1]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "".join(pieces) == word
    assert peak < 1000 * 5000 < 8 * n_edges * 5000


def test_small_and_repeated_text():
    found = Unigram.train(["a"], 3)
    assert found.decode(found.encode("a a")) == "a a"
    assert space_words(" a\n b ") == ["▁a", "▁b"]
    assert found.encode("") == []
    assert found.decode([]) == ""


# ---- wrong input


RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda _: Unigram.train(["ab"], 3), r"vocab_size must be at least 4 .*got 3 for 1 words"),
        (lambda _: Unigram.train([" "], 30), "for some text, got 30 for 0 words"),
        (lambda _: Unigram(["a", "a"], np.zeros(2)), "different and not empty, got 2 pieces"),
        (lambda _: Unigram([], np.zeros(0)), "pieces must be different and not empty"),
        (lambda model: model.n_best("a", 0), "n must be at least 1, got 0"),
        (lambda model: model.sample("a", RNG, alpha=-1.0), "alpha must be at least 0, got -1"),
        (lambda model: model.decode([500, -1]), "ids must lie between 0 and 499, got -1 to 500"),
        (lambda model: Unigram(["a", "b"], np.zeros(2)).viterbi("a", without="a"), "be spelled by"),
        (
            lambda _: Lattice(["a", "ax"], ["a"]).expected_counts(np.zeros(1), np.ones(2)),
            "pieces must spell every word, but word 1",
        ),
    ],
)
def test_errors_name_the_argument(trained, call, message):
    with pytest.raises(ValueError, match=message):
        call(trained)
