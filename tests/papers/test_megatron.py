"""What papers/2019-megatron-lm counts, and its falsifier."""

import pytest
import torch
from test_scripts import load

from shared import records

paper = load(records.ROOT / "papers/2019-megatron-lm/reproduce.py")


@pytest.mark.parametrize("seed", range(3))
def test_a_matrix_cut_by_rows_needs_a_third_sum(seed):
    assert paper.cut_by_rows(seed) > 0.01
    assert paper.cut_by_rows(seed, world=1) < 1e-12  # nothing is cut


def test_both_ways_are_counted():
    sent = {"forward": {"allreduce": 5}, "loss": {"allreduce": 2}, "backward": {"allgather": 3}}
    assert paper.counts([{"collectives": sent}]) == {"allreduce": 5, "allgather": 3}


def test_distance_is_relative():
    ours, theirs = torch.tensor([1.0, -4.0]), torch.tensor([1.0, -5.0])
    assert paper.distance(ours, theirs) == pytest.approx(0.2)
