"""The rules and the falsifier of papers/2022-flashattention, and what its counts are made of."""

import numpy as np
import pytest
from test_scripts import load

from shared import papers, records
from week19.flash_attention import online_update
from week19.flash_measures import slope, standard_accesses, without_maximum, without_rescaling

paper = load(records.ROOT / "papers/2022-flashattention/reproduce.py")
MATTER = papers.load(paper.__file__).matter


@pytest.mark.parametrize("seed", range(4))
def test_falsifier_fails_where_the_algorithm_passes(seed):
    most, scores = 1e-5, MATTER["scores"]
    assert paper.error_with(online_update, scores, seed) <= most
    assert np.isnan(paper.error_with(without_maximum, scores, seed))
    assert paper.error_with(without_rescaling, scores, seed) > 1e-2


def test_without_maximum_is_right_while_scores_are_small():
    """So that it is the overflow that fails, and not the code."""
    assert paper.error_with(without_maximum, 10.0, 0) <= 1e-5


def test_standard_counts():
    n, d = 128, paper.DIM
    assert standard_accesses(n) == 4 * n * n + 4 * n * d
    assert standard_accesses(n, backward=True) == 11 * n * n + 12 * n * d


def test_slope():
    x = np.array([1.0, 2.0, 4.0])
    assert slope(x, 3 * x**-1.5) == pytest.approx(-1.5)
