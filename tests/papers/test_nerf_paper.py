"""The judging of papers/2020-nerf."""

import importlib.util
import sys

import numpy as np
import pytest
import torch
from enforce import ROOT

from shared import papers
from shared.run import Run
from week26.nerf import positional_encoding

FILE = ROOT / "papers" / "2020-nerf" / "reproduce.py"


def load():
    spec = importlib.util.spec_from_file_location("paper_nerf", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


paper = load()


def judged(tmp_path, scene, photo):
    run = Run(FILE, out=tmp_path, quiet=True)
    arms = ("4 octaves", "0 octaves", "no waves")
    of_scene = {arm: np.array(v, float) for arm, v in zip(arms, scene, strict=True)}
    of_photo = {n: np.array(v, float) for n, v in zip(paper.OCTAVES, photo, strict=True)}
    paper.verdicts(run, papers.load(FILE), of_scene, of_photo)
    return run


HILL = [(18, 18.1, 18), (20, 20, 20), (21, 22.3, 21), (22, 21, 22), (15, 15.1, 15)]


def test_the_rules_see_the_gain_and_the_hill(tmp_path):
    run = judged(tmp_path, [(22, 22.1, 22), (17, 17, 17.1), (17, 17.2, 17)], HILL)
    assert [c["verdict"] for c in run.claims] == ["reproduced"] * 3
    assert [c["mean"] for c in run.claims] == pytest.approx([5, 4 + 0.2 / 3, 7 + 0.2 / 3])
    assert run.falsifiers[0]["broken"]
    assert all(c["paper"] for c in run.claims)


def test_the_rules_see_no_gain_and_a_slope(tmp_path):
    up = [(20, 20, 20.1), (20, 20, 20), (20, 20, 20), (20, 20, 20), (21, 21, 21.1)]
    run = judged(tmp_path, [(17, 17, 17.1), (17, 17, 17), (22, 22, 22.1)], up)
    assert [c["verdict"] for c in run.claims] == ["not reproduced"] * 3
    assert not run.falsifiers[0]["broken"]


def test_the_arms_differ_in_what_they_are_told_alone():
    fields = {
        arm: paper.scene_network(arm, torch.Generator().manual_seed(0))
        for arm in ("4 octaves", "0 octaves", "no waves")
    }
    points = torch.rand(7, 3) * 2 - 1
    torch.testing.assert_close(fields["4 octaves"].encode(points), positional_encoding(points, 4))
    torch.testing.assert_close(fields["0 octaves"].encode(points), points)
    told = fields["no waves"].encode(points)
    assert told.shape == (7, 27)
    torch.testing.assert_close(fields["no waves"].encode(3 * points), 3 * told)  # linear
    assert torch.linalg.matrix_rank(told) == 3
    sizes = [sum(p.numel() for p in fields[arm].parameters()) for arm in ("4 octaves", "no waves")]
    assert sizes[0] == sizes[1]


def test_the_photograph_is_judged_on_pixels_that_were_not_seen(monkeypatch):
    seen = {}
    original = torch.randperm

    def remembered(n, generator):
        seen["order"] = original(n, generator=generator)
        return seen["order"]

    flat = np.full((427, 640, 3), 128, np.uint8)
    monkeypatch.setattr(torch, "randperm", remembered)
    monkeypatch.setattr(paper, "photographs", lambda: {"flower": flat})
    found = paper.measure_photograph(0, 40, 8)
    assert len(seen["order"]) == 64
    assert set(found) == {0, 2, 4, 6, 10}
    assert min(found.values()) > 18  # one gray is learned from any half
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (427, 640, 3), dtype=np.uint8)
    noise = noise[::4, ::4].repeat(4, 0).repeat(4, 1)[:427, :640]  # a gray of its own per pixel
    monkeypatch.setattr(paper, "photographs", lambda: {"flower": noise})
    assert max(paper.measure_photograph(0, 100, 8).values()) < 13  # and noise from none
