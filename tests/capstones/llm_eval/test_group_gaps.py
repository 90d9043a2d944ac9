"""Gaps between groups: within pairs, and the best from the worst without being fooled by noise."""

import doctest
import importlib
import pkgutil
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import permutation_test

from llm_eval import fairness
from llm_eval.fairness.counterfactual import counterfactual
from llm_eval.fairness.groups import groups, range_interval, shuffled_gaps
from llm_eval.statistics.estimates import mean_estimate
from llm_eval.types import Sample
from shared.errors import UserError

MODULES = [module.name for module in pkgutil.iter_modules(fairness.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    found = doctest.testmod(importlib.import_module(f"llm_eval.fairness.{name}"))
    assert not found.failed
    assert found.attempted


# ---- counterfactual pairs


def paired(pair, group, error="", cluster="", **values):
    document = {"pair": pair, "group": group}
    name = f"{pair} {group}"
    return Sample("c", name, document, (), (), values=values, error=error, cluster=cluster)


def of_pairs(samples):
    found = counterfactual(samples, task="c", signature="s")
    return {(number.metric, number.group): number for number in found}


PAIRS = [
    paired("1", "her", acc=1.0, tox=0.5),
    paired("1", "him", acc=0.0, tox=0.5),
    paired("2", "her", acc=1.0, tox=0.2),
    paired("2", "him", acc=1.0, tox=0.6),
    paired("3", "her", acc=0.0, tox=0.3),
    paired("3", "him", acc=1.0, tox=0.2),
]


def test_gaps_counted_by_hand():
    found = of_pairs(PAIRS)
    values = {key: number.value for key, number in found.items()}
    assert values == pytest.approx(
        {
            ("acc_spread", ""): 2 / 3,
            ("acc_spread_largest", ""): 1.0,
            ("acc_gap", "her"): 0.0,
            ("acc_gap", "him"): 0.0,
            ("tox_spread", ""): 0.5 / 3,
            ("tox_spread_largest", ""): 0.4,
            ("tox_gap", "her"): (0 - 0.2 + 0.05) / 3,
            ("tox_gap", "him"): (0 + 0.2 - 0.05) / 3,
        },
        abs=1e-12,
    )
    assert found["tox_spread_largest", ""].low is None
    assert all(number.higher_is_better is None for number in found.values())
    assert found["tox_gap", "her"].signature == "s|counterfactual:v1"


@given(st.integers(0, 10**6), st.integers(2, 4), st.integers(2, 9))
def test_signed_gaps_are_differences_of_pairs(seed, n_groups, n_pairs):
    values = np.random.default_rng(seed).normal(size=(n_pairs, n_groups))
    samples = [
        paired(str(p), f"g{g}", x=float(values[p, g]))
        for p in range(n_pairs)
        for g in range(n_groups)
    ]
    found = of_pairs(samples)
    apart = values - values.mean(1, keepdims=True)
    for g in range(n_groups):
        number = found["x_gap", f"g{g}"]
        assert number.value == pytest.approx(apart[:, g].mean(), abs=1e-12)
        assert number.stderr == pytest.approx(apart[:, g].std(ddof=1) / np.sqrt(n_pairs))
    spread = values.max(1) - values.min(1)
    assert found["x_spread", ""].value == pytest.approx(spread.mean())
    assert found["x_spread_largest", ""].value == pytest.approx(spread.max())
    assert found == of_pairs(random.Random(seed).sample(samples, len(samples)))


def test_pairs_without_a_partner_are_left_out_and_told():
    lost = paired("4", "him", error="no answer")
    found = of_pairs([*PAIRS, paired("4", "her", acc=1.0, tox=0.9), lost])
    for key, number in of_pairs(PAIRS).items():
        assert (found[key].value, found[key].n) == (number.value, number.n)
    assert found["acc_spread", ""].failed == found["acc_gap", "him"].failed == 1
    assert found["acc_gap", "her"].failed == 0
    assert found["acc_spread", ""].note.startswith("3 pairs, 1 incomplete left out")
    assert of_pairs([lost]) == {}


def test_samples_without_a_numeric_value_are_refused():
    with pytest.raises(UserError, match="every sample must have the same numeric value, got f1"):
        of_pairs([paired("1", "her", f1=(1, 0)), paired("1", "him", f1=(0, 0))])


# ---- groups


def grouped(name, group, acc, cluster="", error=""):
    values = {} if error else {"acc": acc}
    return Sample("g", name, {}, (), (), values=values, group=group, cluster=cluster, error=error)


def of_groups(samples, seed=0):
    found = groups(samples, task="g", signature="s", seed=seed)
    return {(number.metric, number.group): number for number in found}


def drawn(shares, n, seed):
    rng = random.Random(seed)
    for group, share in shares.items():
        for i in range(n):
            yield grouped(f"{group}{i:03}", group, float(rng.random() < share))


def test_worst_group_and_gap():
    found = of_groups(list(drawn({"a": 0.9, "b": 0.3, "c": 0.8}, 100, 0)))
    by_group = {group: n.value for (name, group), n in found.items() if name == "acc_by_group"}
    worst, gap = found["acc_worst_group", ""], found["acc_group_gap", ""]
    assert (worst.value, worst.note) == (by_group["b"], "it is b")
    assert worst.low < found["acc_by_group", "b"].low  # chosen for being the worst
    assert gap.value == pytest.approx(max(by_group.values()) - by_group["b"])
    assert 0 < gap.low < 0.6 < gap.high
    assert gap.note.endswith("p = 0.001")
    assert gap.detectable == pytest.approx(2.8016 * gap.stderr, rel=1e-3)
    assert found["acc_group_gap_by_chance", ""].value < 0.2


def test_equal_groups_are_not_called_different():
    """Of equal groups the gap is always positive, and its interval nearly always holds 0."""
    values, covered, chances, rare = [], 0, [], 0
    for seed in range(40):
        found = of_groups(list(drawn(dict.fromkeys("abcd", 0.5), 40, seed)))
        gap = found["acc_group_gap", ""]
        values.append(gap.value)
        covered += gap.low == 0.0
        chances.append(found["acc_group_gap_by_chance", ""].value)
        rare += float(gap.note.rsplit("= ")[-1]) <= 0.05
    assert min(values) > 0
    assert covered >= 35  # 95 % are 38, of 800 draws they were 94 %
    assert rare <= 5
    assert np.mean(values) == pytest.approx(np.mean(chances), abs=0.03)


def test_of_two_groups_the_shuffles_are_scipys():
    rng = np.random.default_rng(0)
    x, y = (rng.random(30) < 0.7).astype(float), (rng.random(20) < 0.45).astype(float)
    labels = np.repeat([0, 1], [30, 20])
    gap, draws = shuffled_gaps(np.concatenate([x, y]), labels, [str(i) for i in range(50)])

    def statistic(x, y, axis):
        return np.abs(x.mean(axis) - y.mean(axis))

    theirs = permutation_test((x, y), statistic, alternative="greater", n_resamples=4000, rng=1)
    assert gap == theirs.statistic
    assert np.mean(draws >= gap - 1e-12) == pytest.approx(theirs.pvalue, abs=0.04)


def test_documents_of_a_cluster_are_shuffled_together():
    values = np.repeat([1.0, 0.0, 1.0, 0.0], 10)  # four passages of ten questions
    labels = np.repeat([0, 1, 0, 1], 10)
    passages = [str(i) for i in np.repeat(range(4), 10)]
    gap, draws = shuffled_gaps(values, labels, passages)
    assert gap == 1.0
    assert np.mean(draws == 1.0) == pytest.approx(1 / 3, abs=0.05)  # of six ways, two
    crossed = np.tile([0, 1], 20)  # both groups in each passage: shuffled inside
    gap, draws = shuffled_gaps(values, crossed, passages)
    assert gap == draws.max() == 0.0


def test_the_interval_of_two_groups_is_newcombes():
    """His table II, method 10, 56/70 against 48/80."""
    a, b = mean_estimate([1] * 56 + [0] * 14), mean_estimate([1] * 48 + [0] * 32)
    assert range_interval([a, b]) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    alone = mean_estimate([1])
    assert range_interval([a, alone]) == (None, None)


def test_errors_one_group_and_order():
    samples = list(drawn({"a": 0.9, "b": 0.4}, 20, 1))
    assert of_groups(samples) == of_groups(random.Random(0).sample(samples, 40))
    lost = grouped("lost", "b", 0.0, error="no answer")
    found, whole = of_groups([*samples, lost]), of_groups(samples)
    assert found["acc_by_group", "b"].value == whole["acc_by_group", "b"].value
    assert found["acc_by_group", "b"].failed == found["acc_group_gap", ""].failed == 1
    assert found["acc_by_group", "a"].failed == 0
    assert of_groups([s for s in samples if s.group == "a"]) == {}
    only_lost = of_groups([*(s for s in samples if s.group == "a"), lost])
    assert only_lost["acc_by_group", "b"].value is None
    assert ("acc_group_gap", "") not in only_lost
