"""The judging of papers/2022-latent-diffusion."""

import numpy as np
import pytest
import scipy.linalg
import torch
from test_scripts import load

from shared import records
from shared.run import Run

PAPER = records.ROOT / "papers" / "2022-latent-diffusion" / "reproduce.py"
paper = load(PAPER)
SIZE = paper.Size(2, 2, 2, 8, 12, 5)


def found(pixels=2.0, two=1.0, four=0.9, eight=1.5, real=0.1):
    samples = {1: pixels, 2: two, 4: four, 8: eight}
    return {
        "samples": {f: [value, value * 1.01] for f, value in samples.items()},
        "alone": dict.fromkeys(samples, 0.2),
        "real": real,
        "seconds": {f: [8 / f, 8 / f, 80 / f] for f in samples},
    }


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({}, ["reproduced", "reproduced"]),
        ({"pixels": 0.5}, ["not reproduced", "reproduced"]),
        ({"eight": 0.8}, ["reproduced", "not reproduced"]),
        ({"two": 0.2}, ["reproduced", "reproduced"]),
        ({"pixels": 0.95}, ["not reproduced", "reproduced"]),
        ({"two": 3.0}, ["reproduced", "reproduced"]),
    ],
)
def test_judging_by_made_up_distances(values, wanted, tmp_path, monkeypatch):
    monkeypatch.setattr(paper, "distances", lambda *arguments: found(**values))
    run = Run(PAPER, out=tmp_path, quiet=True)
    paper.main(run)
    assert [claim["verdict"] for claim in run.claims] == wanted
    assert run.falsifiers[0]["broken"]
    metrics = {m["name"]: m["value"] for m in run.metrics}
    assert metrics["time per step, f = 1 over f = 4"] == 4
    assert metrics["distance, f = 8"] == pytest.approx(1.005 * values.get("eight", 1.5))


def test_each_factor_has_its_code_and_one_is_the_image():
    draw = torch.Generator().manual_seed(0)
    data = paper.enlarged_digits(draw)
    assert (data.x.shape, data.x_test.shape) == ((1297, 1, 16, 16), (500, 1, 16, 16))
    assert data.x.min() >= -1
    assert data.x.max() <= 1
    for f, channels in ((1, 1), (2, 2), (8, 3)):
        stage = paper.first_stage(f, channels, data, SIZE, draw)
        latents = stage.to_latents(data.x[:5], draw)
        assert latents.shape == (5, channels, 16 // f, 16 // f)
        assert stage.to_images(latents).shape == (5, 1, 16, 16)
        if f == 1:
            assert torch.equal(latents, data.x[:5])
        else:
            assert stage.scale != 1
            assert not any(p.requires_grad for p in stage.parameters())
            spread = float(stage.to_latents(data.x[:1000], draw).std())
            assert 0.9 < spread < 1.1


def test_judge_is_fitted_and_near_images_are_nearer():
    draw = torch.Generator().manual_seed(0)
    data = paper.enlarged_digits(draw)
    judge = paper.Judge(data, draw, 150)
    with torch.no_grad():
        found = judge.head(judge.body(data.x[:300])).argmax(1)
    assert (found == data.y[:300]).double().mean() > 0.8
    near, far = data.x[:300], data.x[:300] + torch.randn(300, 1, 16, 16, generator=draw)
    assert judge.distance(near, data.x_test) < judge.distance(far, data.x_test)
    a, b = (judge.body(x).detach().double() for x in (far, data.x_test))
    c, d = np.cov(a.T.numpy()), np.cov(b.T.numpy())
    root = np.trace(scipy.linalg.sqrtm(c @ d).real)
    theirs = float((a.mean(0) - b.mean(0)).square().sum()) + np.trace(c) + np.trace(d) - 2 * root
    assert judge.distance(far, data.x_test) == pytest.approx(theirs, abs=1e-4)


def test_the_same_network_for_each_factor():
    draw, counts = torch.Generator().manual_seed(0), []
    for channels, side in ((1, 16), (1, 2)):
        latents = torch.randn(8, channels, side, side, generator=draw)
        model = paper.denoiser(latents, SIZE, draw)
        counts.append(sum(p.numel() for p in model.parameters()))
    assert counts[0] == counts[1]
