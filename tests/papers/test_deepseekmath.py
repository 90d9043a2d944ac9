"""DeepSeekMath's page: what votes and reach measure, and the control."""

import importlib.util

import numpy as np
import pytest
import torch
from enforce import ROOT

from week21.arithmetic import encode, small_llama
from week21.r1 import questions


@pytest.fixture(scope="module")
def page():
    path = ROOT / "papers" / "2024-deepseekmath" / "reproduce.py"
    spec = importlib.util.spec_from_file_location("deepseekmath", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def answers_always(page, monkeypatch, write):
    """Make every policy answer as `write(numbers, i)` says, the i-th time."""

    def sample(policy, prompts, n_answers, **_):
        rows = []
        for prompt in prompts.tolist():
            numbers = [token - 1 for token in prompt if 1 <= token <= 10]
            rows += [encode(write(numbers, i) + "<end>") for i in range(n_answers)]
        return torch.nn.utils.rnn.pad_sequence(list(map(torch.tensor, rows)), batch_first=True)

    monkeypatch.setattr(page, "sample_answers", sample)


def test_within_reach_and_never_voted_for(page, monkeypatch):
    """One right answer in eight, the rest agreeing on 99: pass@8 is 1 and maj@8 is 0."""
    answers_always(page, monkeypatch, lambda x, i: "99" if i % 8 else str(sum(x)))
    found = page.measure(None, 5, 0.7, 0)
    assert found["maj"][page.KS.index(8)] == 0
    assert found["pass"][page.KS.index(32)] == 1
    assert found["pass"][0] == pytest.approx(1 / 8)


def test_one_answer_is_a_vote_and_a_try(page, monkeypatch):
    answers_always(page, monkeypatch, lambda x, i: str(sum(x)) if i % 4 == 0 else str(60 + i))
    found = page.measure(None, 5, 0.7, 0)
    assert found["maj"][0] == pytest.approx(0.25)
    assert found["pass"][0] == pytest.approx(0.25)


def test_shuffled_rewards_are_as_many(page):
    g = torch.Generator().manual_seed(0)
    answers = torch.tensor([encode("5<end>")] * 400)
    plain = questions(page.SUMS, lambda r, a: float(int(a) % 2), g)
    _, reward = page.shuffled(plain, torch.Generator().manual_seed(1))(200)
    found = reward(answers).view(200, 2)
    assert 0.3 < found.mean() < 0.7
    assert bool((found[:, 0] != found[:, 1]).any()), "each question's answers had one reward"


def test_baseline_takes_noise_away(page):
    """Rewards of 1 for all: without a baseline the gradient is noise alone, with it nothing."""
    g = torch.Generator().manual_seed(0)
    policy = small_llama(g, d_model=16)
    batches = questions(page.SUMS, lambda r, a: 1.0, g)
    assert page.gradient_spread(policy, batches, 3, g) == 0
    batches = questions(page.SUMS, lambda r, a: float(np.sign(len(r) - 2)), g)
    assert page.gradient_spread(policy, batches, 4, g) > 0
