"""The judging of the DPO paper: distances, and shares of what can be reached."""

import numpy as np
import pytest
import torch
from test_scripts import load

from shared import records

dpo = load(records.ROOT / "papers/2023-dpo/reproduce.py")


def test_minimum_is_the_optimum_only_with_the_reference():
    assert dpo.distance(3, [0.5]) < 1e-5
    assert dpo.distance(3, [0.5], with_reference=False) > 0.01


def test_the_largest_distance_counts():
    each = [dpo.distance(3, [beta], with_reference=False) for beta in (0.1, 1.0)]
    assert dpo.distance(3, [0.1, 1.0], with_reference=False) == pytest.approx(max(each), abs=1e-6)


def test_share_is_one_at_the_optimum_and_zero_at_the_reference():
    betas = [0.3, 1.0]
    law = dpo.log_law(dpo.Reviewer(torch.Generator().manual_seed(0))).detach()
    best = [dpo.regularized_optimum(law, dpo.rewards().expand_as(law), b) for b in betas]
    found = {
        "points": {
            "best": np.array([[dpo.divergence(p, law), dpo.expected_reward(p)] for p in best]),
            "same": np.array([[0.0, dpo.expected_reward(law)]] * 2),
        },
        "start": dpo.expected_reward(law),
        "best": np.array([float(b * (law + dpo.rewards() / b).logsumexp(1).mean()) for b in betas]),
    }
    assert dpo.reached(found, "best", betas) == pytest.approx(1, abs=1e-3)
    assert dpo.reached(found, "same", betas) == pytest.approx(0, abs=1e-6)


def test_ppo_with_the_true_reward_gains():
    reference = dpo.Reviewer(torch.Generator().manual_seed(0)).requires_grad_(False)
    law = dpo.log_law(reference)
    generator = torch.Generator().manual_seed(1)
    policy = dpo.by_ppo(reference, law, dpo.rewards(), 0.3, 3e-3, 20, generator)
    with torch.no_grad():
        after = dpo.log_law(policy)
    assert dpo.expected_reward(after) > dpo.expected_reward(law) + 0.1
