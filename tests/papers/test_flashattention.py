"""The rules and the falsifier of papers/2022-flashattention, and what its counts are made of."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from shared import papers
from week19.flash_attention import online_update
from week19.flash_measures import (
    flash_accesses,
    predicted_accesses,
    slope,
    standard_accesses,
    without_maximum,
    without_rescaling,
)

PAPER = Path(__file__).parents[2] / "papers" / "2022-flashattention"


def load():
    spec = importlib.util.spec_from_file_location("reproduce_flash", PAPER / "reproduce.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


paper = load()
MATTER = papers.load(PAPER / "reproduce.py").matter


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exactness(dtype):
    ours, theirs = paper.errors(dtype, 5)
    most = {torch.float32: 1e-5, torch.float64: 1e-12}[dtype]
    assert len(ours) == len(theirs) == 8
    assert max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True)) <= most


@pytest.mark.parametrize("seed", range(4))
def test_falsifier_fails_where_the_algorithm_passes(seed):
    most, scores = 1e-5, MATTER["scores"]
    assert paper.error_with(online_update, scores, seed) <= most
    assert np.isnan(paper.error_with(without_maximum, scores, seed))
    assert paper.error_with(without_rescaling, scores, seed) > 1e-2


def test_without_maximum_is_right_while_scores_are_small():
    """So that it is the overflow that fails, and not the code."""
    assert paper.error_with(without_maximum, 10.0, 0) <= 1e-5


@pytest.mark.parametrize("fast", [6144, 51200])
@pytest.mark.parametrize("n", [100, 256])
def test_counts(n, fast):
    assert flash_accesses(n, fast) == predicted_accesses(n, fast)


def test_standard_counts():
    n, d = 128, paper.DIM
    assert standard_accesses(n) == 4 * n * n + 4 * n * d
    assert standard_accesses(n, backward=True) == 11 * n * n + 12 * n * d


def test_slope():
    x = np.array([1.0, 2.0, 4.0])
    assert slope(x, 3 * x**-1.5) == pytest.approx(-1.5)
