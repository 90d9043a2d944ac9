"""The acceptance rules of the LoRA paper's reproduction."""

import pytest
from test_scripts import load

from shared import records

reproduce = load(records.ROOT / "papers/2021-lora/reproduce.py")


BEST = {"full": 0.003, "head": 0.1, ("queries", 1): 0.1, ("queries", 64): 0.01}


class Fake:
    """Accuracies that are best at a known rate, another one for each arm."""

    def plain(self, part, lr):
        return -abs(lr - BEST[part])

    def corrected(self, arm, r, lr):
        return -abs(lr - BEST.get((arm, r), 0.03))


def test_each_arm_gets_its_own_best_rate():
    rates = {"full": [0.001, 0.003], "head": [0.1, 0.01], "lora": [0.01, 0.03, 0.1]}
    found = reproduce.tuned(Fake(), [1, 64], rates)
    assert found["full"] == 0.003
    assert found["head"] == 0.1
    assert found["queries", 1] == 0.1
    assert found["queries", 64] == 0.01
    assert found["queries and values", 1] == 0.03


def test_what_rank_one_lacks():
    one = {"queries": {1: 60.0, 8: 75.0, 64: 80.0}}
    assert reproduce.lacks(one, "queries") == pytest.approx(20)


def test_share_of_the_gain():
    one = {"frozen": 20.0, "full": 80.0}
    assert reproduce.share(one, 65.0) == pytest.approx(0.75)
