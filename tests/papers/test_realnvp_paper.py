"""The judges of papers/2017-realnvp see a wrong density."""

import pytest
import torch
from test_scripts import load

from shared import records
from week22.realnvp import real_nvp, standard_normal

paper = load(records.ROOT / "papers/2017-realnvp/reproduce.py")


def flow():
    g = torch.Generator().manual_seed(0)
    made = real_nvp(2, n_couplings=4, width=8, generator=g).double()
    with torch.no_grad():
        for p in made.parameters():
            p += 0.2 * torch.randn(p.shape, generator=g, dtype=torch.float64)
    return made.requires_grad_(False)


def test_a_density_has_mass_one_and_one_without_log_det_has_not():
    made = flow()
    assert paper.mass_error(made.log_prob, 200) < 1e-3
    assert paper.mass_error(lambda x: standard_normal(made(x)[0]), 200) > 0.02
    half = paper.mass_error(lambda x: made.log_prob(x) - torch.log(torch.tensor(2.0)), 200)
    assert half == pytest.approx(0.5, abs=1e-3)


def test_a_wrong_log_determinant_shows():
    made, x = flow(), torch.randn(5, 2, dtype=torch.float64)
    assert paper.jacobian_error(made, x) < 1e-12
    right = made.forward
    made.forward = lambda x: (right(x)[0], right(x)[1] + 0.01)
    assert paper.jacobian_error(made, x) == pytest.approx(0.01)


def test_train_and_test_moons_differ_and_are_standardized():
    a, b = paper.moons(4000, 0), paper.moons(4000, 1)
    assert not torch.equal(a, b)
    assert torch.allclose(a.mean(0), torch.zeros(2), atol=0.05)
    assert torch.allclose(a.std(0), torch.ones(2), atol=0.05)


def test_a_flow_that_trained_is_better_than_one_that_did_not():
    train = paper.moons(500, 0)
    scores = [float(paper.fitted(train, steps, 0).log_prob(train).mean()) for steps in (1, 60)]
    assert scores[1] > scores[0] + 0.1
