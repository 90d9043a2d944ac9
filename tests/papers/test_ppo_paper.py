"""The arms differ in the clip alone, and one step per batch never meets it."""

import importlib.util
from pathlib import Path

import pytest
import torch

from week21.small_mdp import random_mdp, walk

PATH = Path(__file__).parents[2] / "papers" / "2017-ppo" / "reproduce.py"
SPEC = importlib.util.spec_from_file_location("paper_ppo", PATH)
paper = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(paper)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_one_step_per_batch_never_meets_the_clip():
    mdp = random_mdp(generator(0))
    runs = [paper.improve(mdp, arm, 1, 10.0, generator(1), 5) for arm in paper.ARMS]
    assert all(run == runs[0] for run in runs)


def test_many_steps_do_and_the_score_is_between_uniform_and_best():
    mdp = random_mdp(generator(0))
    score, kl = paper.improve(mdp, "no clip", 40, 3.0, generator(1), 10)
    clipped, near = paper.improve(mdp, "clip 0.1", 40, 3.0, generator(1), 10)
    assert near < kl
    assert 0 < clipped <= 1
    assert score <= 1


def test_divergence_is_that_of_the_states_seen():
    old, new = torch.tensor([[0.5, 0.5], [0.9, 0.1]]), torch.tensor([[0.25, 0.75], [0.5, 0.5]])
    found = paper.divergence(old.log(), new.log(), torch.tensor([0, 0, 0]))
    assert found.item() == pytest.approx(0.1438410, abs=1e-6)  # ln(2) - ln(3) / 2


def test_estimates_average_to_the_advantages():
    mdp = random_mdp(generator(2), n_states=2, n_actions=2)
    policy = torch.full((2, 2), 0.5, dtype=torch.float64)
    states, actions = walk(mdp, policy, 5000, 20, generator(3))
    found = paper.estimated(mdp, mdp.values(policy), states, actions)[0]
    exact = mdp.advantages(policy)
    for s in range(2):
        for a in range(2):
            here = found[(states[0] == s) & (actions[0] == a)]
            assert abs(here.mean() - exact[s, a]) < 4 * here.std() / len(here) ** 0.5
