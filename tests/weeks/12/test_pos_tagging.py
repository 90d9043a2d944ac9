"""Viterbi against all paths, the average against all tables, and words that were never seen."""

import itertools

import numpy as np
import pytest
from enforce import plain
from hypothesis import given
from hypothesis import strategies as st

from week12.pos_tagging import HMM, AveragedPerceptron, features, normal, shape, viterbi

SENTENCES = [
    [("The", "DET"), ("dog", "NOUN"), ("barks", "VERB")],
    [("A", "DET"), ("cat", "NOUN"), ("sleeps", "VERB"), (".", "PUNCT")],
    [("Dogs", "NOUN"), ("sleep", "VERB"), (".", "PUNCT")],
    [("Stop", "VERB")],
]


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 999), st.booleans())
def test_viterbi_equals_enumeration(n, t, seed, impossible):
    rng = np.random.default_rng(seed)
    emissions, transitions = rng.normal(size=(n, t)), rng.normal(size=(t, t))
    start, stop = rng.normal(size=(2, t))
    if impossible and t > 1:
        transitions[0, 0] = stop[-1] = -np.inf
    path, score = viterbi(emissions, transitions, start=start, stop=stop)
    scores = {
        p: start[p[0]]
        + emissions[range(n), p].sum()
        + sum(transitions[a, b] for a, b in itertools.pairwise(p))
        + stop[p[-1]]
        for p in itertools.product(range(t), repeat=n)
    }
    assert score == pytest.approx(max(scores.values()))
    assert scores[tuple(path.tolist())] == pytest.approx(score)


@given(st.integers(0, 999), st.integers(1, 40))
def test_the_average_equals_the_mean_of_all_tables(seed, steps):
    rng, model = np.random.default_rng(seed), AveragedPerceptron("abc")
    total = np.zeros((5, 3))
    for _ in range(steps):  # a feature may come twice
        model.learn([f"f{i}" for i in rng.integers(0, 5, 3)], str(rng.choice(["a", "b", "c"])))
        total[: len(model.rows)] += model.w[: len(model.rows)]
    np.testing.assert_allclose(model.average(), total[: len(model.rows)] / steps, atol=1e-12)


def test_a_feature_that_comes_twice_is_corrected_twice():
    model = AveragedPerceptron("ab")
    assert model.learn(["f", "f"], "b") == "a"
    assert model.w[0].tolist() == [-2, 2]


def test_a_table_that_grows_keeps_its_weights():
    small, large = AveragedPerceptron("ab"), AveragedPerceptron("ab")
    large.w, large.u = np.zeros((2, 4096, 2))
    for i in range(1500):
        for model in (small, large):
            model.learn([f"f{i}", f"f{i // 7}"], "ab"[i % 2])
    np.testing.assert_array_equal(small.average(), large.average())


def test_unknown_words_get_tags_by_their_ending_and_leave_the_sentence_alone():
    tagger = HMM().fit(SENTENCES)
    assert tagger.tag(["The", "zog", "yarks", "."]) == ["DET", "NOUN", "VERB", "PUNCT"]
    assert np.isfinite(tagger.emissions(["½", "zzz", "", "数学"])).all()
    assert tagger.tag([]) == []
    assert len(tagger.tag(["???"])) == 1


def test_probabilities_sum_to_one():
    tagger = HMM().fit(SENTENCES)
    np.testing.assert_allclose(np.exp(tagger.follow).sum(axis=1), 1)
    assert tagger.follow[-1, -1] == -np.inf  # no sentence is empty
    for word in ("dog", "new", "Dogs"):
        p = np.exp(tagger.emissions([word])[0]) * tagger.share
        assert p.sum() == pytest.approx(1)


def test_how_a_sentence_ends_matters():
    ends = [[("run", "VERB"), ("run", "NOUN")]] * 3
    tagger = HMM().fit(ends)
    assert tagger.tag(["run"] * 2) == ["VERB", "NOUN"]
    assert np.argmax(tagger.follow[:-1, -1]) == tagger.tags.index("NOUN")


def test_the_perceptron_learns_and_follows_its_generator():
    rng = np.random.default_rng
    one, same, other = (
        AveragedPerceptron({"DET", "NOUN", "VERB", "PUNCT"}).fit(SENTENCES, rng=rng(s), epochs=5)
        for s in (0, 0, 1)
    )
    words = [[word for word, _ in sentence] for sentence in SENTENCES]
    assert [one.tag(w) for w in words] == [[tag for _, tag in s] for s in SENTENCES]
    np.testing.assert_array_equal(one.averaged, same.averaged)
    assert one.averaged.shape != other.averaged.shape or (one.averaged != other.averaged).any()
    assert len(one.tag(["never", "seen"])) == 2
    assert one.tag([]) == []


def test_hints_reach_their_word_and_its_neighbors_and_kinds_are_told_apart():
    rows = features(["a", "b"], ["X", "Y"], ["1", "2"])
    assert {"0h X", "0h+1 Y", "0h-1 <s>", "1h 1", "1h+1 2"} <= set(rows[0])
    assert {"0h Y", "0h-1 X", "0h+1 </s>", "1h 2", "1h-1 1"} <= set(rows[1])
    assert not any("h " in feature[:3] for feature in features(["a"])[0])


@pytest.mark.parametrize("place", [0, 1])
def test_a_hint_of_either_kind_is_learned(place):
    words = [[(f"w{i}{j}", "AB"[(i + j) % 2]) for j in range(3)] for i in range(9)]
    told = [[tag.lower() for _, tag in sentence] for sentence in words]
    kinds = [[["same"] * 3 for _ in words]] * 2
    kinds[place] = told
    model = AveragedPerceptron("AB").fit(words, rng=np.random.default_rng(0), hints=kinds)
    hints = [["same"] * 3] * 2
    hints[place] = ["b", "b", "a"]
    assert model.tag(["x", "y", "z"], *hints) == ["B", "B", "A"]


@pytest.mark.parametrize(
    ("word", "looks", "form"),
    [("McDonald's", "XxXx'x", "mcdonald's"), ("3.50", "d.d", "<number>"), ("...", ".", "...")],
)
def test_shapes(word, looks, form):
    assert (shape(word), normal(word)) == (looks, form)
    assert normal("a.b@c.org") == normal("http://x.y") == "<address>"
    assert normal("@") == "@"


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: HMM(0), "trust must be above 0, got 0"),
        (lambda: HMM().fit([]), "sentences must hold at least one word, got none"),
        (lambda: HMM().tag(["a"]), "HMM must be fitted before use: call fit first"),
        (lambda: AveragedPerceptron([]), "tags must hold at least one tag, got none"),
        (lambda: AveragedPerceptron("ab").tag(["a"]), "AveragedPerceptron must be fitted"),
        (lambda: AveragedPerceptron({"DET"}).fit(SENTENCES, rng=RNG), "truth must be one of the 1"),
        (lambda: AveragedPerceptron("ab").fit([], rng=RNG, epochs=0), "epochs must be at least 1"),
        (lambda: features(["a", "b"], ["X"]), r"hints must be one per word = 2, got \[1\]"),
        (
            lambda: plain("12", "pos_tagging").viterbi(
                np.zeros((2, 3)), np.zeros((3, 3)), start=np.zeros(2), stop=np.zeros(3)
            ),
            r"start must be floats of shape \(t = 3\)",
        ),
        (
            lambda: viterbi(np.zeros((0, 3)), np.zeros((3, 3)), start=ZERO, stop=ZERO),
            "emissions must hold at least one place, got 0",
        ),
    ],
)
def test_bad_input_is_named(call, match):
    with pytest.raises(ValueError, match=match):
        call()


RNG, ZERO = np.random.default_rng(0), np.zeros(3)
