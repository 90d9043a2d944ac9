"""The judging of papers/2014-nuts, by made-up chains."""

from types import SimpleNamespace

import numpy as np
import pytest
from test_scripts import load

from shared import papers, records
from shared.run import Run
from week24.jax_twins import summary

SCRIPT = records.ROOT / "papers/2014-nuts/reproduce.py"
paper = load(SCRIPT)


@pytest.fixture
def run(tmp_path):
    return Run(SCRIPT, out=tmp_path, quiet=True)


def verdicts(run):
    return {claim["name"]: claim["verdict"] for claim in run.claims}


def moments(run, targets, *size):
    return {name: {} for name in targets}


@pytest.mark.parametrize(
    ("cost", "best", "median"),
    [
        (10, "reproduced", "reproduced"),
        (15, "reproduced", "not reproduced"),
        (30, *["not reproduced"] * 2),
    ],
)
def test_prices_are_judged_against_the_best_and_the_median(cost, best, median, run, monkeypatch):
    """HMC pays 8, 9, 12, 20 and 40 gradients for what NUTS has for `cost`."""
    costs = dict(zip([0.3, 0.8, 1.6, 3.2, 6.4], [40, 9, 8, 12, 20], strict=True)) | {"NUTS": cost}

    def sampled(target, start, kernel, n_warmup, n_draws, rng):
        draws = np.zeros((len(start), n_draws, start.shape[1]))
        n_leapfrogs = np.full(draws.shape[:2], costs[kernel])
        return SimpleNamespace(draws=draws, n_leapfrogs=n_leapfrogs)

    monkeypatch.setattr(paper, "nuts", lambda: "NUTS")
    monkeypatch.setattr(paper, "hmc", lambda length: length)
    monkeypatch.setattr(paper, "sample_chains", sampled)
    monkeypatch.setattr(paper, "summary", lambda draws: {"ess": draws.size})
    monkeypatch.setattr(paper, "moments_of_numpyro", moments)
    monkeypatch.setattr(paper, "judge_correctness", lambda *args: None)
    monkeypatch.setattr(paper, "draw", lambda *args: None)
    paper.main(run)
    assert verdicts(run) == {"half the best HMC or more": best, "the median HMC or more": median}


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_one_moment_that_is_wrong_is_enough(shift, run, monkeypatch):
    rng = np.random.default_rng(0)
    targets = {"gaussian": (None, 2, {"covariance": np.eye(2).tolist()})}
    draws = {name: rng.normal(size=(4, 500, 2)) for name in ("gaussian", "schools")}
    numpyro = {"schools": summary(rng.normal(size=(4, 500, 2)))}
    draws["schools"][..., 1] += shift

    def ranks(kernel, replicates, rng):
        found = rng.integers(0, 20, size=(replicates, 3))
        return np.maximum(found, 5) if kernel is paper.unweighted else found

    monkeypatch.setattr(paper, "ranks", ranks)
    paper.judge_correctness(run, papers.load(str(SCRIPT)), targets, draws, numpyro)
    expected = {"chains agree": "reproduced", "ranks of the truth are uniform": "reproduced"}
    expected["means and spreads are right"] = "not reproduced" if shift else "reproduced"
    assert verdicts(run) == expected
    assert run.falsifiers[0]["broken"]


def test_the_schools_are_compared_in_theta():
    draws = np.random.default_rng(0).normal(size=(2, 3, 10))
    theta = draws[..., :1] + np.exp(draws[..., 1:2]) * draws[..., 2:]
    np.testing.assert_allclose(paper.in_their_terms("schools", draws)[..., 2:], theta)
    np.testing.assert_array_equal(paper.in_their_terms("schools", draws)[..., :2], draws[..., :2])
