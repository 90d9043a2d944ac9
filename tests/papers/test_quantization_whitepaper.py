"""Networks, folding, unequal channels and the judging of papers/2018-quantizing-whitepaper."""

import pytest
import torch
from test_scripts import load
from torch import nn

from shared import papers, records
from shared.run import Run

SCRIPT = records.ROOT / "papers/2018-quantizing-whitepaper/reproduce.py"
paper = load(SCRIPT)


def trained_like(kind, seed=0):
    model = paper.make(kind, seed, width=4)
    for layer in model:
        if isinstance(layer, nn.BatchNorm2d):
            for p in (layer.weight, layer.running_var):
                nn.init.uniform_(p, 0.5, 2.0)
            for p in (layer.bias, layer.running_mean):
                nn.init.normal_(p)
    return model.eval()


@pytest.mark.parametrize("kind", ["depthwise", "plain"])
def test_folding_keeps_the_function_and_the_original(kind):
    model = trained_like(kind)
    x, *_ = paper.pictures(0)
    before = model(x[:32])
    small = paper.folded(model)
    torch.testing.assert_close(small(x[:32]), before, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model(x[:32]), before)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in small)


@torch.no_grad()
def test_unequal_channels_hurt_a_layer_and_not_a_channel():
    model = paper.folded(trained_like("depthwise"))
    other = paper.unequal(model, 0)
    x, *_ = paper.pictures(0)
    assert torch.equal(other(x[:64]), model(x[:64]))
    assert not torch.equal(other[0].weight, model[0].weight)

    def error(net, granularity):
        rounded = paper.quantized(net, 8, granularity, False)
        return (rounded(x[:64]) - net(x[:64])).square().mean().item()

    assert error(other, "tensor") > 100 * error(model, "tensor")
    torch.testing.assert_close(
        paper.quantized(other, 8, "channel", False)(x[:64]),
        paper.quantized(model, 8, "channel", False)(x[:64]),
    )


def test_networks_of_one_seed_are_the_same_and_know_their_kind():
    a, b = (paper.make("depthwise", 3, width=4) for _ in "ab")
    torch.testing.assert_close(a.state_dict(), b.state_dict(), rtol=0, atol=0)
    assert {c.groups for c in a if isinstance(c, nn.Conv2d)} == {1, 4, 8}
    assert {c.groups for c in paper.make("plain", 3) if isinstance(c, nn.Conv2d)} == {1}
    with pytest.raises(ValueError, match="kind must be depthwise or plain, got round"):
        paper.make("round", 0)


def test_test_pictures_are_not_trained_on():
    x, y, test_x, test_y = paper.pictures(5)
    assert (len(x), len(y), len(test_x), len(test_y)) == (1297, 1297, 500, 500)
    assert not {p.numpy().tobytes() for p in x} & {p.numpy().tobytes() for p in test_x}


def judged(tmp_path, layer, channel, plain_layer, unequal_layer):
    """Verdicts for made-up losses of accuracy at 8, 6, 5, 4 and 3 bits, the same for two seeds."""
    run = Run(SCRIPT, out=tmp_path, quiet=True)

    def table(per_layer, per_channel):
        rows = dict.fromkeys(paper.SCHEMES, [0.0] * 5)
        rows |= {"per layer, asymmetric": per_layer, "per channel, asymmetric": per_channel}
        return [rows, rows]

    lost = {"depthwise": table(layer, channel), "plain": table(plain_layer, [0.0] * 5)}
    lost |= {"unequal": table(unequal_layer, channel), "equal": table(layer, channel)}
    paper.judge(run, papers.load(SCRIPT), lost, [8, 6, 5, 4, 3])
    return {c["name"]: c["verdict"] for c in run.claims}, run


def test_judging_looks_where_the_depthwise_net_first_moves(tmp_path):
    layer, channel = [0.0, 1, 9, 50, 60], [0.0, 0, 1, 8, 30]
    verdicts, run = judged(tmp_path, layer, channel, [0.0, 0, 1, 20, 50], [70.0] * 5)
    assert set(verdicts.values()) == {"reproduced"}
    assert all(row["broken"] for row in run.falsifiers)
    at = next(m for m in run.metrics if m["name"] == "bits at which the depthwise net moves")
    assert at["value"] == 5


def test_judging_of_a_net_that_moves_per_channel_too(tmp_path):
    layer = [3.0, 20, 40, 50, 60]
    verdicts, _ = judged(tmp_path, layer, layer, [0.0] * 5, layer)
    expected = ["not reproduced", "not reproduced", "reproduced", "not reproduced"]
    assert list(verdicts.values()) == expected
