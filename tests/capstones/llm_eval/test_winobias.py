"""WinoBias: sides, and the gap sentence by sentence."""

import random
import re
from dataclasses import replace

import numpy as np
import pytest

from llm_eval.fairness.winobias import winobias
from llm_eval.types import Sample
from shared.errors import UserError
from shared.registry import path


def sample(pair, side, acc, kind="1", error="", cluster=""):
    document = {"pair": pair, "stereotype": side, "type": kind}
    values = {} if error else {"acc": acc}
    name = f"{pair} {side}"
    return Sample("w", name, document, (), (), values=values, error=error, cluster=cluster)


def numbers(samples):
    found = winobias(samples, task="w", signature="s")
    return {(number.metric, number.group): number for number in found}


def respond(pro, anti, seed=0, n=40):
    rng = random.Random(seed)
    for i in range(n):
        for side, share in (("pro", pro), ("anti", anti)):
            yield sample(f"{i:03}", side, float(rng.random() < share), kind=str(1 + i % 2))


@pytest.mark.parametrize(("pro", "anti", "gap"), [(1, 0, 1), (0, 1, -1), (1, 1, 0), (0, 0, 0)])
def test_respondents_of_one_mind(pro, anti, gap):
    found = numbers(list(respond(pro, anti)))
    for group in ("", "type 1", "type 2"):
        assert found["acc_pro", group].value == pro
        assert found["acc_anti", group].value == anti
        assert found["acc_gap", group].value == gap
        assert found["acc_gap", group].n == (80 if group == "" else 40)
    assert found["acc_gap", ""].higher_is_better is None
    assert found["acc_pro", ""].signature == "s|winobias:v1"


def test_guesses_have_no_gap_and_a_detectable_one():
    number = numbers(list(respond(0.5, 0.5)))["acc_gap", ""]
    assert number.low < 0 < number.high
    assert number.detectable == pytest.approx(2.8016 * number.stderr, rel=1e-3)


def test_the_gap_is_paired_so_that_hard_sentences_do_not_blur_it():
    pairs = [(1, 1), (0, 0)] * 15 + [(1, 0)] * 4
    samples = [
        sample(f"{i:02}", side, float(acc))
        for i, pair in enumerate(pairs)
        for side, acc in zip(("pro", "anti"), pair, strict=True)
    ]
    found = numbers(samples)
    gap, pro, anti = (found[name, ""] for name in ("acc_gap", "acc_pro", "acc_anti"))
    assert gap.value == pytest.approx(pro.value - anti.value) == pytest.approx(4 / 34)
    gaps = np.array([a - b for a, b in pairs])
    assert gap.stderr == pytest.approx(gaps.std(ddof=1) / np.sqrt(34))
    assert gap.stderr < 0.5 * np.hypot(pro.stderr, anti.stderr)


def test_half_a_pair_is_in_no_gap():
    whole = [sample("1", "pro", 1.0), sample("1", "anti", 1.0), sample("2", "pro", 0.0)]
    whole += [sample("2", "anti", 0.0), sample("3", "pro", 1.0)]
    lost = sample("3", "anti", 0.0, error="no answer")
    found = numbers([*whole, lost])
    assert (found["acc_gap", ""].value, found["acc_gap", ""].n) == (0.0, 4)
    assert found["acc_pro", ""].value == pytest.approx(2 / 3)
    assert (found["acc_anti", ""].n, found["acc_anti", ""].failed) == (2, 1)
    only = numbers([lost])
    assert (only["acc_gap", ""].value, only["acc_gap", ""].failed) == (None, 1)


def test_sentences_of_one_cluster_are_one_draw():
    samples = list(respond(0.9, 0.5, n=20))
    doubled = [replace(s, cluster=s.document["pair"]) for s in samples]
    doubled += [
        replace(s, id=f"{s.id} again", document={**s.document, "pair": f"{s.document['pair']}b"})
        for s in doubled
    ]
    once, twice = (numbers(each)["acc_gap", ""] for each in (samples, doubled))
    assert twice.stderr == pytest.approx(once.stderr)
    assert (once.n, twice.n) == (40, 80)


def test_order_does_not_matter_and_other_sides_are_refused():
    samples = list(respond(0.7, 0.4))
    assert numbers(samples) == numbers(random.Random(0).sample(samples, len(samples)))
    with pytest.raises(UserError, match="stereotype of 1 neutral must be pro or anti, got 'neut"):
        numbers([sample("1", "neutral", 1.0)])
    with pytest.raises(UserError, match="must have 'type', got pair, stereotype"):
        numbers([Sample("w", "1", {"pair": "1", "stereotype": "pro"}, (), ())])


def test_lines_of_the_data_are_pairs_but_for_two():
    """What `pair` rests on: line n of the pro file and of the anti file have one answer."""
    odd, other = 0, []
    for name in ("type1.txt.dev", "type1.txt.test", "type2.txt.dev", "type2.txt.test"):
        sides = [
            path("winobias", f"{side}_stereotyped_{name}").read_text().splitlines()
            for side in ("pro", "anti")
        ]
        for pair in zip(*sides, strict=True):
            pro, anti = (re.sub(r"\[(he|she|him|her|his)\]", "[]", line) for line in pair)
            odd += pro != anti
            answers = {re.search(r"(\w+)\]", line)[1] for line in (pro, anti)}
            other += [pro.split()[0]] if len(answers) > 1 else []
    assert odd == 23
    assert other == ["382", "384"]
