"""The judging of papers/2013-stochastic-variational-inference."""

import numpy as np
import pytest
from test_scripts import load

from shared import papers, records
from shared.run import Run
from week24.latent_dirichlet import learning_rate, start, step

SCRIPT = records.ROOT / "papers" / "2013-stochastic-variational-inference" / "reproduce.py"
paper = load(SCRIPT)
CELL = (64, 0.7)


def path(*values, end=None):
    passes = np.arange(1, len(values) + 1.0)
    return paper.Path(passes if end is None else passes * end / len(values), np.array(values))


def judged(tmp_path, found):
    run = Run(SCRIPT, out=tmp_path, quiet=True)
    paper.judge(run, papers.load(SCRIPT), found, CELL)
    return run


def made_up(fast, end, no_decay=-5.0):
    whole = path(*np.linspace(-4.9, -4.0, 40))
    near = path(*[-6.0] * fast, -4.01, end, end=8.0 * (fast + 2) / 40)
    other = path(-5.0, no_decay)
    return {
        "batch VB": [whole] * 3,
        "ceiling": [-3.9] * 3,
        "no decay": [other] * 3,
        CELL: [near] * 3,
    }


def test_rules_by_made_up_paths(tmp_path):
    run = judged(tmp_path, made_up(3, -4.0))
    assert [claim["verdict"] for claim in run.claims] == ["reproduced", "reproduced"]
    assert run.falsifiers[0]["broken"]
    run = judged(tmp_path, made_up(3, -4.05))
    assert [claim["verdict"] for claim in run.claims] == ["reproduced", "not reproduced"]
    run = judged(tmp_path, made_up(75, -4.0))
    assert [claim["verdict"] for claim in run.claims] == ["not reproduced", "reproduced"]
    run = judged(tmp_path, made_up(3, -4.0, no_decay=-4.01))
    assert not run.falsifiers[0]["broken"]


def test_passes_until_a_level():
    rising = path(-3.0, -2.0, -1.0, -2.5)
    assert paper.passes_until(rising, -2.0) == 2.0
    assert paper.passes_until(rising, -0.5) == 8.0  # never: as if it took twice as long
    share = judged_share(path(-3.0, -1.0, end=0.5), path(-3.0, -2.0, -1.0))
    assert share == pytest.approx(0.5 / 3)


def judged_share(ours, whole):
    level = whole.values[-1] - paper.NEAR
    return paper.passes_until(ours, level) / paper.passes_until(whole, level)


def test_heldout_halves_and_ceiling():
    data = paper.corpus(0, 100, 3, 30)
    assert len(data.counts) == 100
    assert len(data.seen) == 20
    assert (data.seen >= 0).all()
    assert (data.hidden >= 0).all()
    assert abs(data.seen.sum() / (data.seen + data.hidden).sum() - 0.5) < 0.05
    lam = start(3, 30, np.random.default_rng(0))
    end = paper.batch_vb(data, lam, 15).values[-1]
    assert end < data.ceiling + 0.02
    assert data.ceiling < 0


def test_stochastic_passes_are_the_weeks_steps():
    data = paper.corpus(1, 60, 3, 20)
    lam = start(3, 20, np.random.default_rng(0))
    found = paper.stochastic(data, lam, 2, 20, 0.7, 1.0, 5)
    rng, t = np.random.default_rng(5), 0
    for _ in range(2):
        order = rng.permutation(60)
        for i in range(0, 60, 20):
            t += 1
            batch = data.counts[order[i : i + 20]]
            lam = step(lam, batch, 60, learning_rate(t, 1.0, 0.7), paper.PRIORS)
    value = paper.heldout(data.seen, data.hidden, lam, paper.PRIORS.alpha)
    assert found.passes[-1] == 2.0
    assert found.values[-1] == pytest.approx(value)


def test_batch_vb_is_a_stochastic_pass_with_all_documents():
    data = paper.corpus(2, 60, 3, 20)
    lam = start(3, 20, np.random.default_rng(0))
    whole = paper.batch_vb(data, lam, 3)
    same = paper.stochastic(data, lam, 3, 60, 0.0, 1.0, 0)
    np.testing.assert_allclose(same.values[-1], whole.values[-1], rtol=1e-9)
