"""The judging of papers/2020-vit and papers/2020-simclr."""

import pytest
import torch
from test_scripts import load

from shared import records
from shared.run import Run
from week25.shrunk_mnist import Split
from week25.simclr import SimCLR

VIT, SIMCLR = (
    records.ROOT / "papers" / name / "reproduce.py" for name in ("2020-vit", "2020-simclr")
)
vit_paper, simclr_paper = load(VIT), load(SIMCLR)


# ---- ViT


def vit_judged(tmp_path, monkeypatch, gaps, permuted):
    """The judge with made-up accuracies: gaps by size of each split, then with permuted pixels."""

    def one_split(seed, sizes, *options):
        found = {n: {"CNN": 90 + g, "ViT": 90.0} for n, g in zip(sizes, gaps[seed], strict=True)}
        return found | {"permuted": {"CNN": 80.0 + permuted[seed], "ViT": 80.0}}

    monkeypatch.setattr(vit_paper, "check", lambda run: None)
    monkeypatch.setattr(vit_paper, "one_split", one_split)
    run = Run(VIT, out=tmp_path, quiet=True)
    vit_paper.main(run)
    return run


def test_a_gap_that_closes_is_seen(tmp_path, monkeypatch):
    gaps = [[8.0, 5.0, 1.0], [8.2, 4.0, 2.0], [7.9, 5.0, 1.5]]
    run = vit_judged(tmp_path, monkeypatch, gaps, [0.0, -1.0, 0.5])
    assert [c["verdict"] for c in run.claims] == ["reproduced", "reproduced"]
    assert run.claims[0]["mean"] == pytest.approx(24.1 / 3)
    assert run.claims[1]["mean"] < -0.9
    assert run.falsifiers[0]["broken"]
    assert run.falsifiers[0]["mean"] == pytest.approx(-0.5 / 3)


def test_a_gap_that_grows_or_stays_with_permuted_pixels_is_seen(tmp_path, monkeypatch):
    gaps = [[-8.0, 5.0, 9.0], [-8.2, 4.0, 9.5], [-7.9, 5.0, 9.0]]
    run = vit_judged(tmp_path, monkeypatch, gaps, [8.0, 8.1, 8.2])
    assert [c["verdict"] for c in run.claims] == ["not reproduced", "not reproduced"]
    assert not run.falsifiers[0]["broken"]
    assert run.falsifiers[0]["mean"] == pytest.approx(8.1)


def test_pixels_are_permuted_alike():
    x = torch.arange(2 * 16.0).view(2, 1, 4, 4)
    found = vit_paper.permuted(x, 1)
    assert torch.equal(found[1] - found[0], torch.full((1, 4, 4), 16.0))
    assert not torch.equal(found, x)
    assert torch.equal(found.flatten(1).sort(1).values, x.flatten(1))
    assert torch.equal(found, vit_paper.permuted(x, 1))


def test_both_networks_see_the_same_and_few_are_a_part_of_many(monkeypatch):
    x, y = torch.rand(12, 1, 16, 16), torch.arange(12)
    seen = []
    monkeypatch.setattr(vit_paper, "split", lambda *sizes, rim: Split(x, y, x[:3], y[:3]))
    monkeypatch.setattr(vit_paper, "accuracy", lambda net, x, y: float(len(x)))

    def train(net, x, y, *, lr, steps, generator):
        seen.append((type(net).__name__, len(x), lr, generator.initial_seed(), x.sum().item()))

    monkeypatch.setattr(vit_paper, "train", train)
    found = vit_paper.one_split(4, [6, 12], 3, 5, {"CNN": 0.3, "ViT": 0.1})
    assert found == {n: {"CNN": 3.0, "ViT": 3.0} for n in (6, 12, "permuted")}
    kinds, sizes, rates, chances, _ = zip(*seen, strict=True)
    assert kinds == ("SmallCNN", "ViT") * 3
    assert sizes == (6, 6, 12, 12, 6, 6)
    assert rates == (0.3, 0.1) * 3
    assert set(chances) == {1004}


def test_the_layer_of_the_check_is_torchs():
    net = vit_paper.ViT(vit_paper.CONFIG, torch.Generator().manual_seed(1)).double()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3, generator=torch.Generator().manual_seed(p.numel()))
    tokens = torch.rand(2, 17, 32, dtype=torch.double)
    torch.testing.assert_close(net.blocks[0](tokens), vit_paper.torch_layer(net)(tokens))


# ---- SimCLR


def test_turns_are_told_as_they_were_made():
    x = torch.rand(30, 1, 5, 5)
    found, quarters = simclr_paper.turned(x, torch.Generator().manual_seed(0))
    for picture, turned, k in zip(x, found, quarters.tolist(), strict=True):
        assert torch.equal(turned, picture.rot90(k, (1, 2)))
    assert sorted(set(quarters.tolist())) == [0, 1, 2, 3]


def test_probes_read_h_and_z(monkeypatch):
    g = torch.Generator().manual_seed(0)
    x, y = torch.rand(8, 1, 14, 14, generator=g), torch.arange(8) % 2
    model = SimCLR("mlp", dim=5, generator=g)
    seen = []
    monkeypatch.setattr(
        simclr_paper,
        "linear_probe",
        lambda h, y, h_test, y_test: seen.append((h, y, h_test, y_test)) or float(len(seen)),
    )
    found = simclr_paper.probes(model, Split(x, y, x[:3], y[:3]), 6, g)
    assert found == {"digits from h": 1.0, "turns from h": 2.0, "turns from z": 3.0}
    assert [part[0].shape for part in seen] == [(6, 32), (6, 32), (6, 5)]
    assert [part[2].shape for part in seen] == [(3, 32), (3, 32), (3, 5)]
    assert torch.equal(seen[0][0], model.frozen(x[:6])[0])
    assert torch.equal(seen[0][3], y[:3])
    assert torch.equal(seen[1][1], seen[2][1])
    assert not torch.equal(seen[1][1], y[:6])


def test_arms_have_their_heads_and_augmentations(monkeypatch):
    seen = []

    def train(model, x, augment, *, lr, steps, generator):
        seen.append((len(model.head), augment.turns, generator.initial_seed()))

    monkeypatch.setattr(simclr_paper, "train", train)
    monkeypatch.setattr(simclr_paper, "probes", lambda model, data, n, g: {})
    x, y = torch.rand(4, 1, 14, 14), torch.arange(4)
    for arm in simclr_paper.ARMS:
        simclr_paper.measure(arm, Split(x, y, x, y), 3, 2, 4)
    assert seen == [(3, 4, 1003), (1, 4, 1003), (0, 4, 1003), (3, 1, 1003)]


PERCENT = {  # digits from h, turns from h, turns from z
    "mlp": (80.0, 75.0, 50.0),
    "linear": (78.0, 70.0, 60.0),
    "none": (50.0, 40.0, 40.0),
    "no turns": (79.0, 76.0, 62.0),
}


@pytest.mark.parametrize(
    ("changed", "verdicts", "broken"),
    [
        ({}, ["reproduced"] * 4, [True, True]),
        ({"mlp": (80.0, 75.0, 74.0)}, ["not reproduced"] * 2 + ["reproduced"] * 2, [True, True]),
        (
            {"none": (90.0, 60.0, 50.0)},
            ["reproduced"] * 2 + ["not reproduced", "reproduced"],
            [False, True],
        ),
        ({"linear": (85.0, 1.0, 1.0)}, ["reproduced"] * 3 + ["not reproduced"], [True, True]),
        (
            {"no turns": (79.0, 90.0, 51.0)},
            ["reproduced", "not reproduced"] + ["reproduced"] * 2,
            [True, False],
        ),
    ],
)
def test_judging_by_made_up_probes(tmp_path, monkeypatch, changed, verdicts, broken):
    percent = PERCENT | changed

    def measure(arm, data, seed, steps, n):
        return {a: p + 0.1 * seed for a, p in zip(simclr_paper.ASKED, percent[arm], strict=True)}

    monkeypatch.setattr(simclr_paper, "check", lambda run: None)
    monkeypatch.setattr(simclr_paper, "draw", lambda *found: None)
    monkeypatch.setattr(simclr_paper, "split", lambda *sizes: None)
    monkeypatch.setattr(simclr_paper, "measure", measure)
    run = Run(SIMCLR, out=tmp_path, quiet=True)
    simclr_paper.main(run)
    assert [c["verdict"] for c in run.claims] == verdicts
    assert [f["broken"] for f in run.falsifiers] == broken
    if not changed:
        assert [c["mean"] for c in run.claims] == pytest.approx([25, 12, 30, 2])
