"""BLEU, its tokenizers and its signature are sacreBLEU's."""

import doctest
import importlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_texts import CORPORA, TEXTS, all_characters, unzipped

from llm_eval.metrics import bleu
from llm_eval.metrics.bleu import corpus_bleu, sentence_bleu, signature
from llm_eval.metrics.texts import count_references
from llm_eval.metrics.tokenizers import TOKENIZERS, tokenize
from shared.errors import UserError

SMOOTHINGS = [
    {"smooth_method": method, "smooth_value": value}
    for method, values in {
        "none": [None],
        "exp": [None],
        "floor": [None, 0.0, 0.01, 2.0],
        "add-k": [None, 0.0, 0.5, 3.0],
    }.items()
    for value in values
]
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "tokenize": st.sampled_from(sorted(TOKENIZERS)),
        "lowercase": st.booleans(),
        "effective_order": st.booleans(),
        "max_ngram_order": st.integers(1, 6),
    },
)


def sacrebleu_of(**options):
    from sacrebleu.metrics import BLEU

    return BLEU(force=True, **options)


def agree(ours, theirs):
    assert ours.score == pytest.approx(theirs.score, abs=1e-10)
    assert ours.bp == pytest.approx(theirs.bp, abs=1e-12)
    assert (ours.hyp_len, ours.ref_len) == (theirs.sys_len, theirs.ref_len)
    assert ours.precisions == pytest.approx(theirs.precisions, abs=1e-10)


@given(CORPORA, OPTIONS, st.sampled_from(SMOOTHINGS))
@settings(max_examples=100)
def test_corpora_score_as_in_sacrebleu(corpus, options, smoothing):
    hypotheses, references, streams = unzipped(corpus)
    metric = sacrebleu_of(**options, **smoothing)
    theirs = metric.corpus_score(hypotheses, streams)
    ours = corpus_bleu(hypotheses, references, **options, **smoothing)
    agree(ours, theirs)
    if smoothing["smooth_method"] != "add-k":  # theirs then counts what was added
        assert (list(ours.counts), list(ours.totals)) == (theirs.counts, theirs.totals)
    signed = signature(nrefs=count_references(references), **options, **smoothing)
    parts = [part for part in signed.split("|") if not part.startswith(("version", "order"))]
    assert parts == str(metric.get_signature()).split("|")[:-1]


@given(CORPORA, OPTIONS, st.sampled_from(SMOOTHINGS))
@settings(max_examples=100)
def test_sentences_score_as_in_sacrebleu(corpus, options, smoothing):
    metric = sacrebleu_of(**{"effective_order": True} | options, **smoothing)
    for hypothesis, references in corpus:
        ours = sentence_bleu(hypothesis, references, **options, **smoothing)
        agree(ours, metric.sentence_score(hypothesis, references))


def test_a_corpus_is_not_the_mean_of_its_sentences():
    """By hand: brevity of 7 to 6, and precisions 5/6, 4/4, 3/3, 2/2."""
    hypotheses, references = ["a b c d e", "x"], [["a b c d e"], ["y z"]]
    score = corpus_bleu(hypotheses, references, smooth_method="none")
    assert score.counts == (5, 4, 3, 2)
    assert score.totals == (6, 4, 3, 2)
    by_hand = 100 * 2.718281828459045 ** (1 - 7 / 6) * (5 / 6) ** 0.25
    assert score.score == pytest.approx(by_hand, abs=1e-12)


@pytest.mark.parametrize(
    ("hypothesis", "lengths", "closest"),
    [("a b c", (1, 4), 4), ("a b c", (2, 4), 2), ("a b c", (9, 4, 8), 4), ("", (3, 5), 3)],
)
def test_the_closest_reference_sets_the_length_and_of_two_the_shorter(hypothesis, lengths, closest):
    references = [" ".join("w" * n) for n in lengths]
    assert sentence_bleu(hypothesis, references).ref_len == closest
    assert sentence_bleu(hypothesis, references[::-1]).ref_len == closest


def test_the_papers_examples():
    """Papineni et al. (2002), section 2.1: modified precisions 2/7, and 17/18 and 8/14."""
    the = sentence_bleu("the the the the the the the", ["The cat is on the mat."], lowercase=True)
    assert (the.counts[0], the.totals[0]) == (2, 7)
    references = [
        "It is a guide to action that ensures that the military will forever heed Party commands",
        "It is the guiding principle which guarantees the military forces always being under the"
        " command of the Party",
        "It is the practical guide for the army always to heed the directions of the party",
    ]
    one = "It is a guide to action which ensures that the military always obeys"
    two = "It is to insure the troops forever hearing the activity guidebook that party direct"
    for text, expected in ((f"{one} the commands of the party", (17, 18)), (two, (8, 14))):
        score = sentence_bleu(text, references)
        assert (score.counts[0], score.totals[0]) == expected


def test_of_two_references_the_greater_count_holds_not_the_sum():
    score = sentence_bleu("a a a b", ["a b", "a a c"], max_ngram_order=2)
    assert score.counts == (3, 2)  # a, a, b; and `a a`, `a b`


def test_each_order_without_a_match_is_worth_half_of_one_and_the_next_half_of_that():
    score = sentence_bleu("a b c d", ["a x c y"])
    assert score.precisions == (50, 100 / 2 / 3, 100 / 4 / 2, 100 / 8)
    floor = sentence_bleu("a b c d", ["a x c y"], smooth_method="floor", smooth_value=0.3)
    assert floor.precisions == (50, 10, 15, 30)
    added = sentence_bleu("a b c d", ["a x c y"], smooth_method="add-k")
    assert added.precisions == (50, 25, 100 / 3, 50)


def test_none_is_no_reference():
    assert sentence_bleu("a b", [None, "a b", None]) == sentence_bleu("a b", ["a b"])
    assert count_references([["a", None], ["b"]]) == 1
    assert count_references([["a", "c"], ["b"]]) == "var"


def test_a_bootstrap_needs_only_sums():
    rows = [bleu.statistics("a b c d", ["a b c d e"]), bleu.statistics("a x", ["a b"])]
    assert bleu.from_statistics(rows) == corpus_bleu(["a b c d", "a x"], [["a b c d e"], ["a b"]])


@pytest.mark.parametrize(
    ("hypotheses", "references", "why"),
    [
        ([], [], "hypotheses must be at least one, got 0"),
        (["a"], [], "references must be a list for each of 1 hypotheses, got 0"),
        (["a"], ["a"], "references must be a list for each of 1 hypotheses, got 'a'"),
        (["a"], [[None]], r"references must hold at least one text, got \[None\]"),
    ],
)
def test_what_is_no_corpus_is_refused(hypotheses, references, why):
    with pytest.raises(ValueError, match=why):
        corpus_bleu(hypotheses, references)


def test_options_out_of_range_are_refused():
    with pytest.raises(UserError, match="tokenize must be 13a, char, intl, none, zh, got 'spm'"):
        sentence_bleu("a", ["a"], tokenize="spm")
    with pytest.raises(ValueError, match="smooth_value must be at least 0, got -1"):
        sentence_bleu("a", ["a"], smooth_method="floor", smooth_value=-1.0)
    with pytest.raises(ValueError, match="max_ngram_order must be at least 1, got 0"):
        sentence_bleu("a", ["a"], max_ngram_order=0)


# ---- tokenizers


def words_in_sacrebleu(name, text):
    from sacrebleu.metrics.bleu import _get_tokenizer

    return tuple(_get_tokenizer(name)()(text).split())


@pytest.mark.parametrize("name", sorted(TOKENIZERS))
def test_all_characters_are_cut_as_in_sacrebleu(name):
    for line in all_characters():
        assert tokenize(line, name) == words_in_sacrebleu(name, line)


@pytest.mark.parametrize("name", sorted(TOKENIZERS))
@given(TEXTS)
def test_texts_are_cut_as_in_sacrebleu(name, text):
    assert tokenize(text, name) == words_in_sacrebleu(name, text)


# ---- examples


@pytest.mark.parametrize("name", ["bleu", "chrf", "rouge", "stems", "ter", "texts", "tokenizers"])
def test_examples_print_what_they_say(name):
    module = importlib.import_module(f"llm_eval.metrics.{name}")
    found = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert found.attempted
    assert not found.failed
