"""chrF, chrF++ and TER, with their options and signatures, are sacreBLEU's."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from odd_texts import CORPORA, PLAIN, TEXTS, all_characters, unzipped

from llm_eval.metrics import chrf, ter
from llm_eval.metrics.chrf import corpus_chrf
from llm_eval.metrics.ter import corpus_ter, edit_distance, edit_rate
from llm_eval.metrics.texts import count_references
from llm_eval.metrics.tokenizers import tercom

CHRF = st.fixed_dictionaries(
    {},
    optional={
        "char_order": st.integers(1, 8),
        "word_order": st.integers(0, 3),
        "beta": st.integers(0, 3),
        "lowercase": st.booleans(),
        "whitespace": st.booleans(),
        "eps_smoothing": st.booleans(),
    },
)
NAMES = ("normalized", "no_punct", "asian_support", "case_sensitive")
TER = st.fixed_dictionaries({}, optional=dict.fromkeys(NAMES, st.booleans()))


def without(signature, *words):
    words = ("version", *words)
    return [part for part in str(signature).split("|") if part.split(":")[0] not in words]


# ---- chrF


@given(CORPORA, CHRF)
@settings(max_examples=100)
def test_chrf_is_sacrebleus(corpus, options):
    from sacrebleu.metrics import CHRF

    hypotheses, references, streams = unzipped(corpus)
    metric = CHRF(**options)
    theirs = metric.corpus_score(hypotheses, streams)
    ours = corpus_chrf(hypotheses, references, **options)
    assert ours.score == pytest.approx(theirs.score, abs=1e-10)
    signed = chrf.signature(nrefs=count_references(references), **options)
    assert without(signed, "beta") == without(metric.get_signature())


def test_chrf_takes_the_mean_of_precision_and_recall_not_of_f():
    """By hand: of 1- and 2-grams 2/3 and 1/2 are precise, 1 and 1 recalled."""
    p, r = (2 / 3 + 1 / 2) / 2, 1.0
    found = corpus_chrf(["abc"], [["ab"]], char_order=2).score
    assert found == pytest.approx(100 * 5 * p * r / (4 * p + r), abs=1e-12)


def test_chrf_sees_spaces_only_when_asked():
    assert corpus_chrf(["a bc"], [["ab c"]]).score == pytest.approx(100)
    assert corpus_chrf(["a bc"], [["ab c"]], whitespace=True).score < 100


def test_chrf_of_many_references_is_of_the_best():
    best = corpus_chrf(["the cat"], [["a dog", "the cats", None]])
    assert best == corpus_chrf(["the cat"], [["the cats"]])
    rows = [chrf.statistics("the cat", ["a cat"]), chrf.statistics("", ["x"])]
    assert chrf.from_statistics(rows) == corpus_chrf(["the cat", ""], [["a cat"], ["x"]])


@pytest.mark.parametrize("option", [{"char_order": 0}, {"word_order": -1}, {"beta": -1.0}])
def test_chrf_refuses_options_out_of_range(option):
    (name, value), *_ = option.items()
    with pytest.raises(ValueError, match=rf"{name} must be at least \d, got {value}"):
        corpus_chrf(["a"], [["a"]], **option)


# ---- TER


def sacrebleus_ter(hypotheses, streams, **options):
    from sacrebleu.metrics import TER

    metric = TER(**options)
    return metric.corpus_score(hypotheses, streams), metric.get_signature()


@given(CORPORA, TER)
@example([("cat's a", ["cat's\ta"])], {"normalized": True})  # references are cut twice
@settings(max_examples=100)
def test_ter_is_sacrebleus(corpus, options):
    hypotheses, references, streams = unzipped(corpus)
    theirs, signed = sacrebleus_ter(hypotheses, streams, **options)
    ours = corpus_ter(hypotheses, references, **options)
    assert ours.score == pytest.approx(theirs.score, abs=1e-10)
    assert ours.edits == theirs.num_edits
    assert ours.ref_length == pytest.approx(theirs.ref_length, abs=1e-12)
    nrefs = count_references(references)
    assert without(ter.signature(nrefs=nrefs, **options)) == without(signed)


@pytest.mark.parametrize(
    ("n_words", "n_reference", "vocabulary"),
    [
        (12, 14, 6),  # the same phrases in many places
        (30, 30, 1000),
        (40, 25, 12),
        (120, 12, 200),
        (3, 120, 40),  # so unlike in length that the beam is widened
    ],
)
def test_ter_of_long_shuffled_texts_is_sacrebleus(n_words, n_reference, vocabulary):
    rng = np.random.default_rng(n_words)
    reference = rng.integers(0, vocabulary, n_reference).tolist()
    blocks = [reference[i : i + 4] for i in range(0, n_reference, 4)]
    words = [word for i in rng.permutation(len(blocks)) for word in blocks[i]]
    same_ter((words + rng.integers(0, vocabulary, n_words).tolist())[:n_words], reference)


@pytest.mark.parametrize(("n_words", "moved"), [(20, 10), (22, 11), (60, 50), (60, 51)])
def test_a_phrase_of_ten_words_moves_by_fifty_at_most(n_words, moved):
    words = list(range(n_words))
    same_ter(words[moved:] + words[:moved], words)


@pytest.mark.parametrize("n_inserted", [44, 46, 56])
def test_edits_are_sought_near_the_diagonal(n_inserted):
    words = list(range(60))
    same_ter([f"x{i}" for i in range(n_inserted)] + words, words)


@pytest.mark.parametrize(("vocabulary", "n_words", "seed"), [(2, 20, 0), (6, 26, 2)])
def test_after_a_thousand_tries_no_phrase_moves_any_more(vocabulary, n_words, seed):
    words = np.random.default_rng(seed).integers(0, vocabulary, n_words).tolist()
    same_ter(words[n_words // 2 :] + words[: n_words // 2], words)


def same_ter(words, reference):
    pair = [" ".join(map(str, text)) for text in (words, reference)]
    theirs, _ = sacrebleus_ter([pair[0]], [[pair[1]]])
    assert corpus_ter([pair[0]], [[pair[1]]]).edits == theirs.num_edits


@given(PLAIN, PLAIN)
def test_a_shift_never_costs_more_than_edits(a, b):
    words, reference = a.split(), b.split()
    assert edit_rate(words, reference) <= edit_distance(words, reference)


def test_a_phrase_that_moves_is_one_edit():
    words = ["a", "b", "c", "d", "e", "f"]
    moved = words[2:] + words[:2]
    assert (edit_rate(moved, words), edit_distance(moved, words)) == (1, 4)
    assert edit_rate(words, []) == 6


def test_ter_divides_by_the_mean_length_of_references():
    score = corpus_ter(["a b c"], [["a b", "a b c d x y"]])
    assert (score.edits, score.ref_length, score.score) == (1, 4.0, 25.0)
    assert corpus_ter(["a"], [[""]]).score == 100
    assert corpus_ter([""], [[""]]).score == 0
    rows = [ter.statistics("a b", ["b a"]), ter.statistics("x", ["y z"])]
    assert ter.from_statistics(rows) == corpus_ter(["a b", "x"], [["b a"], ["y z"]])


@pytest.mark.parametrize("no_punct", [False, True])
def test_all_characters_are_cut_as_tercom_does(no_punct):
    from sacrebleu.tokenizers.tokenizer_ter import TercomTokenizer

    options = {"normalized": True, "asian_support": True, "no_punct": no_punct}
    for line in all_characters():
        assert tercom(line, **options) == tuple(TercomTokenizer(**options)(line).split())


@given(TEXTS, TER)
@settings(max_examples=100)
def test_texts_are_cut_as_tercom_does(text, options):
    from sacrebleu.tokenizers.tokenizer_ter import TercomTokenizer

    assert tercom(text, **options) == tuple(TercomTokenizer(**options)(text).split())
