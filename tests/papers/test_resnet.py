"""Networks, splits and the judging of papers/2015-resnet."""

import pytest
import torch
from test_scripts import load

from shared import papers, records
from shared.run import Run
from week10.cnn_ablations import train

SCRIPT = records.ROOT / "papers/2015-resnet/reproduce.py"
paper = load(SCRIPT)


def test_kinds_start_with_the_same_weights():
    plain, residual = (paper.make(8, kind, 3, width=4) for kind in ("plain", "residual"))
    torch.testing.assert_close(plain.state_dict(), residual.state_dict(), rtol=0, atol=0)
    other = paper.make(8, "plain", 4, width=4)
    assert not torch.equal(plain.conv1.weight, other.conv1.weight)
    x, *_ = paper.pictures(0)
    assert not torch.allclose(plain(x[:8]), residual(x[:8]))


def test_shortcuts_times_zero_are_the_plain_net_to_the_bit():
    x, y, *_ = paper.pictures(0)
    losses = []
    for kind in ("plain", "erased"):
        model, g = paper.make(14, kind, 0, width=4), torch.Generator().manual_seed(0)
        losses.append(train(model, x, y, lr=0.1, steps=4, generator=g, batch_size=8))
    assert torch.equal(*losses)


def test_test_pictures_are_not_trained_on():
    x, y, test_x, test_y = paper.pictures(5)
    assert len(x) + len(test_x) == 1797
    assert (len(x), len(y)) == (1297, 1297)
    assert len(test_x) == len(test_y) == 500
    everything = {p.numpy().tobytes() for p in torch.cat([x, test_x])}
    assert len(everything) == len({p.numpy().tobytes() for p in torch.cat(paper.pictures(6)[::2])})
    assert not {p.numpy().tobytes() for p in x} & {p.numpy().tobytes() for p in test_x}


def test_gradient_share_by_finite_differences():
    x, y, *_ = paper.pictures(0)
    share = paper.gradient_share(8, "plain", x[:8], y[:8], 0)
    model = paper.make(8, "plain", 0)
    loss = torch.nn.functional.cross_entropy(model(x[:8]), y[:8])
    loss.backward()
    norms = [w.grad.norm() for w in (model.conv1.weight, model.layer3[0].conv2.weight)]
    assert share == pytest.approx((norms[0] / norms[1]).item())


def test_judging_by_a_made_up_table(tmp_path):
    run = Run(SCRIPT, out=tmp_path, quiet=True)
    levels = {(20, "plain"): 0.2, (20, "residual"): 0.1, (44, "plain"): 0.9}
    levels |= {(44, "residual"): 0.1, (44, "erased"): 0.9}
    losses = {arm: [torch.full((20,), v + s) for s in (0.0, 0.1)] for arm, v in levels.items()}
    for runs in losses.values():
        runs[0][:10] = 99.0  # only the last ten count
    errors = {arm: [1.0, 3.0] for arm in levels}
    paper.judge(run, papers.load(SCRIPT), losses, errors)
    assert [claim["verdict"] for claim in run.claims] == ["reproduced"] * 3
    assert [claim["mean"] for claim in run.claims] == pytest.approx([0.7, 0.8, 0.0], abs=1e-5)
    assert all(row["broken"] for row in run.falsifiers)
    assert {m["name"]: m["value"] for m in run.metrics}["test error, deep plain"] == 2


def test_wrong_input():
    with pytest.raises(ValueError, match="kind must be one of plain, residual, erased, got none"):
        paper.make(8, "none", 0)
