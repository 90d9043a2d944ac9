"""The formula of papers/2018-gpipe, and that its falsifier breaks it."""

import pytest
from test_scripts import load

from shared import records
from week17.pipeline_parallel import bubble, schedule

paper = load(records.ROOT / "papers/2018-gpipe/reproduce.py")


def test_the_formula_is_a_share_of_all_time():
    assert paper.formula(4, 1) == 0.75  # one micro-batch: each stage works a quarter of the time
    assert paper.formula(1, 7) == 0


@pytest.mark.parametrize(("k", "m"), [(2, 4), (3, 3), (3, 12)])
def test_unequal_stages_break_the_formula(k, m):
    tasks = schedule("gpipe", k, m)
    assert bubble(tasks) == pytest.approx(paper.formula(k, m), abs=1e-12)
    assert bubble(tasks, [1.0, 1.5, 1.0][:k]) > paper.formula(k, m) + 0.03
