"""Metrics by name: values and aggregates of the harness, intervals over documents, options."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_eval.metrics.registry import RECIPES, metric
from shared.errors import UserError

PAIRS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=20)
CLASSES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=20)


def values_of(found, pairs, n=4):
    """Documents of those right and chosen answers."""
    logprobs = [[-1.0 if i == chosen else -2.0 for i in range(n)] for _, chosen in pairs]
    texts = list("abcd")[:n]
    return [found.value(x, texts, gold) for x, (gold, _) in zip(logprobs, pairs, strict=True)]


@given(PAIRS)
def test_f1_and_mcc_are_the_harness_s(pairs):
    from lm_eval.api import metrics

    for name, theirs in (("f1", metrics.f1_score), ("mcc", metrics.matthews_corrcoef)):
        found = metric("multiple_choice", name)
        values = values_of(found, pairs, 2)
        assert values == pairs
        assert not found.linear
        assert found.aggregate(values) == pytest.approx(theirs(pairs), abs=1e-12)


@given(CLASSES, st.sampled_from(["macro", "micro", "weighted"]))
def test_f1_of_classes_is_scikit_learns(pairs, average):
    from sklearn.metrics import f1_score

    found = metric("multiple_choice", "f1", average=average)
    gold, chosen = zip(*pairs, strict=True)
    theirs = f1_score(gold, chosen, average=average, zero_division=0)
    assert found.aggregate(values_of(found, pairs)) == pytest.approx(theirs, abs=1e-12)


def test_f1_of_more_than_two_wants_an_average():
    with pytest.raises(UserError, match=r"average of f1 must be macro, .* for 3 choices"):
        metric("multiple_choice", "f1").aggregate([(0, 1), (1, 2), (2, 2)])


@given(CLASSES)
def test_means_are_linear(pairs):
    gold, chosen = (np.array(side) for side in zip(*pairs, strict=True))
    for name in ("acc", "acc_norm", "acc_bytes"):
        found = metric("multiple_choice", name)
        assert found.linear
        assert found.aggregate(values_of(found, pairs)) == pytest.approx(np.mean(gold == chosen))
    brier = metric("multiple_choice", "brier_score")
    assert (brier.linear, brier.higher_is_better) == (True, False)
    assert metric("multiple_choice", "acc_norm").value([-6.0, -8.0], ["No.", "Not now"], 1) == 1
    assert metric("multiple_choice", "acc").value([-6.0, -8.0], ["No.", "Not now"], [1, 0]) == 1


@given(st.lists(st.tuples(st.floats(-99, 0), st.text("a \né", max_size=9)), min_size=1, max_size=9))
def test_perplexities_are_those_of_the_harness(documents):
    from lm_eval.api.metrics import bits_per_byte, perplexity, weighted_perplexity
    from lm_eval.api.task import ConfigurableTask

    names = {"word_perplexity": weighted_perplexity, "byte_perplexity": weighted_perplexity}
    names |= {"bits_per_byte": bits_per_byte}
    task = object.__new__(ConfigurableTask)
    task._config = type("Config", (), {"process_results": None})()
    task.OUTPUT_TYPE, task._metric_fn_list = "loglikelihood_rolling", names
    task.doc_to_target = lambda text: text
    theirs = [task.process_results(text, [logprob]) for logprob, text in documents]
    for name, aggregate in names.items():
        found = metric("loglikelihood_rolling", name)
        values = [found.value(logprob, text) for logprob, text in documents]
        assert values == [row[name] for row in theirs]
        if sum(length for _, length in values):
            assert found.aggregate(values) == aggregate(values)
    last_words = metric("loglikelihood", "perplexity")
    values = [last_words.value(logprob, True) for logprob, _ in documents]
    assert last_words.aggregate(values) == perplexity(values)
    assert metric("loglikelihood", "acc").value(-1.0, False) == 0.0


def test_intervals_are_over_documents_not_over_words():
    """The delta method for a ratio of sums says how far the bootstrap must be off."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 400, 200)
    logprobs = -lengths * rng.normal(3, 0.5, 200)
    found = metric("loglikelihood_rolling", "bits_per_byte")
    pairs = list(zip(logprobs.tolist(), lengths.tolist(), strict=True))
    ratio = logprobs.sum() / lengths.sum()
    expected = np.sqrt(((logprobs - ratio * lengths) ** 2).sum()) / lengths.sum() / math.log(2)
    assert found.estimate(pairs).stderr == pytest.approx(expected, rel=0.1)
    assert found.estimate(pairs) == found.estimate(pairs)
    copies = found.estimate(pairs * 4, clusters=[*range(200)] * 4)
    assert copies.stderr == pytest.approx(expected, rel=0.1)
    acc = metric("multiple_choice", "acc").estimate([1.0, 1.0, 0.0, 0.0], clusters="aabb")
    assert acc.stderr == pytest.approx(0.5)


# ---- options and signatures


def test_options_change_values_and_signatures():
    plain = metric("generate_until", "exact_match")
    loose = metric("generate_until", "exact_match", ignore_case=True, regexes_to_ignore=["[.]"])
    assert (plain.value("A.", ["a"]), loose.value("A.", ["a"])) == (0, 1)
    assert (
        loose.signature
        == "exact_match|case:no|punct:yes|numbers:yes|regexes_to_ignore:[.]|version:1"
    )
    assert (
        plain.signature
        == "exact_match|case:yes|punct:yes|numbers:yes|regexes_to_ignore:none|version:1"
    )
    assert metric("multiple_choice", "acc_norm").signature == "acc_norm|norm:characters|version:1"
    assert metric("multiple_choice", "f1").signature == "f1|average:binary|version:1"
    assert metric("generate_until", "token_f1").value("the cat", ["A cat!"]) == 1
    assert metric("generate_until", "quasi_exact_match").value("the cat", ["A cat!"]) == 1


@pytest.mark.parametrize(
    ("arguments", "options", "why"),
    [
        (("choice", "acc"), {}, "output_type must be multiple_choice, .*, got 'choice'"),
        (("loglikelihood", "acc_norm"), {}, "must be acc or perplexity, got 'acc_norm'"),
        (("generate_until", "pass@0"), {}, r"or pass@K, got 'pass@0'"),
        (("multiple_choice", "acc"), {"stem": True}, "options of acc must be none, got 'stem'"),
        (
            ("generate_until", "exact_match"),
            {"ignore_case": "no"},
            "must be true or false, got 'no'",
        ),
        (("generate_until", "exact_match"), {"regexes_to_ignore": ","}, "must be a list of texts"),
        (
            ("generate_until", "exact_match"),
            {"regexes_to_ignore": ["("]},
            "missing \\), .*got '\\('",
        ),
    ],
)
def test_what_is_unknown_is_named(arguments, options, why):
    with pytest.raises(UserError, match=why):
        metric(*arguments, **options)


def test_programs_are_metrics_too():
    tests = ["assert f(2) == 4"]
    with pytest.raises(UserError, match="needs allow_code=True"):
        metric("generate_until", "pass@1").value("f = abs", tests)
    one = metric("generate_until", "pass@1", allow_code=True)
    assert (one.value("def f(x): return 2 * x", tests), one.value("f = abs", tests)) == (1, 0)
    two = metric("generate_until", "pass@2", allow_code=True)
    programs = ["f = abs", "def f(x): return 2 * x", "f ="]
    assert two.value(programs, tests) == pytest.approx(2 / 3)
    assert two.signature == "pass@2|seconds:5.0|version:1"


# ---- metrics of all texts together

TEXTS = st.text("ab .é", max_size=20)
CORPUS = st.lists(st.tuples(TEXTS, st.lists(TEXTS, min_size=2, max_size=2)), min_size=1, max_size=5)


@given(CORPUS)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("bleu", {}),
        ("bleu", {"smooth_method": "floor", "lowercase": True}),
        ("chrf", {"beta": 3}),
        ("chrf++", {}),
        ("ter", {"normalized": True}),
    ],
)
def test_corpus_metrics_are_sacrebleus(name, options, corpus):
    import sacrebleu

    module = name.removesuffix("++")
    pytest.importorskip(f"llm_eval.metrics.{module}")
    found = metric("generate_until", name, **options)
    values = [json.loads(json.dumps(found.value(text, others))) for text, others in corpus]
    texts, references = zip(*corpus, strict=True)
    more = {"word_order": 2} if name == "chrf++" else {}
    theirs = getattr(sacrebleu, f"corpus_{module}")(
        list(texts), list(map(list, zip(*references, strict=True))), **more, **options
    )
    assert found.aggregate(values) == pytest.approx(theirs.score, abs=1e-9)
    assert (found.linear, found.higher_is_better) == (False, name != "ter")
    assert found.signature.startswith(f"{name}|nrefs:var|case:")


def test_signatures_name_what_sacrebleu_passes_over():
    pytest.importorskip("llm_eval.metrics.chrf")
    assert metric("generate_until", "chrf", beta=3).signature.endswith("|beta:3")
    assert "nrefs:2|" in metric("generate_until", "bleu", nrefs=2).signature


@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=2))
def test_rouge_is_the_best_references(prediction, references):
    from rouge_score.rouge_scorer import RougeScorer

    pytest.importorskip("llm_eval.metrics.rouge")
    kinds = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    theirs = RougeScorer(kinds).score_multi(references, prediction)
    for kind in kinds:
        found = metric("generate_until", kind)
        assert found.value(prediction, references) == pytest.approx(
            theirs[kind].fmeasure, abs=1e-12
        )
        assert (found.linear, found.signature) == (True, f"{kind}|stem:no|score:f1|version:1")


def test_every_metric_has_a_signature():
    for output_type, recipes in RECIPES.items():
        for name, recipe in recipes.items():
            if recipe.module:
                pytest.importorskip(f"llm_eval.metrics.{recipe.module}")
            found = metric(output_type, name.replace("K", "3"))
            assert found.signature.startswith(f"{found.name}|")
            assert "version:" in found.signature
