"""The judging of papers/2022-video-diffusion."""

import pytest
import torch
from test_scripts import load

from shared import records
from shared.run import Run
from week26.moving_digits import clips, split
from week26.temporal_attention import VideoConfig, VideoTransformer

SCRIPT = records.ROOT / "papers" / "2022-video-diffusion" / "reproduce.py"
paper = load(SCRIPT)
COUNTED = {"spatial": 10, "factorized": 12, "joint": 100}
AT = paper.LEVELS.index(0.4)


def judged(tmp_path, monkeypatch, errors, counted=None):
    rows = {name: iter(values) for name, values in errors.items()}
    monkeypatch.setattr(paper, "check", lambda run: counted or COUNTED)
    monkeypatch.setattr(paper, "trained", lambda name, seed, steps: name)

    def motion_errors(name, seed, n):
        found = [9.0] * len(paper.LEVELS)
        found[AT] = next(rows[name])
        return found

    monkeypatch.setattr(paper, "motion_errors", motion_errors)
    run = Run(SCRIPT, out=tmp_path, quiet=True)
    paper.main(run)
    return [c["verdict"] for c in run.claims], [f["broken"] for f in run.falsifiers]


def errors(spatial=1.0, factorized=0.3, joint=0.3, shuffled=0.9):
    names = ("spatial", "factorized", "joint", paper.SHUFFLED)
    return {
        name: [value, 1.01 * value, 0.99 * value]
        for name, value in zip(names, (spatial, factorized, joint, shuffled), strict=True)
    }


def test_ratios_are_judged_seed_by_seed(tmp_path, monkeypatch):
    verdicts, broken = judged(tmp_path, monkeypatch, errors())
    assert verdicts == ["reproduced"] * 3
    assert broken == [True]


@pytest.mark.parametrize(
    ("changed", "counted", "expected"),
    [
        ({"factorized": 0.6, "joint": 0.6}, None, [0, 1, 1]),
        ({"joint": 0.2}, None, [1, 0, 1]),
        ({}, {"spatial": 10, "factorized": 60, "joint": 100}, [1, 1, 0]),
    ],
)
def test_what_is_missed_is_not_reproduced(tmp_path, monkeypatch, changed, counted, expected):
    verdicts, _ = judged(tmp_path, monkeypatch, errors(**changed), counted)
    assert verdicts == [["not reproduced", "reproduced"][good] for good in expected]


def test_a_falsifier_that_knows_motion_would_be_seen(tmp_path, monkeypatch):
    assert judged(tmp_path, monkeypatch, errors(shuffled=0.3))[1] == [False]


def test_errors_are_pixels_between_what_is_drawn_and_the_truth():
    class Perfect(VideoTransformer):
        """Knows the clips that the judge will show."""

        def forward(self, video, t):
            data, g = split(3), torch.Generator().manual_seed(5003)
            test = clips(data.x_test, data.y_test, len(video), g).video
            return test.roll(self.off, dims=3)

    net = Perfect(VideoConfig())
    for off in (0, 2, 11):
        net.off = off
        assert paper.motion_errors(net, 3, 10) == [min(off, 12 - off)] * len(paper.LEVELS)


def test_noise_and_clip_have_the_weights_of_their_level():
    video, g = torch.ones(4000, 1, 2, 2), torch.Generator().manual_seed(0)
    found = paper.noised(video, torch.full((4000,), 0.4), g)
    assert float(found.mean()) == pytest.approx(0.4, abs=0.03)
    assert float(found.std()) == pytest.approx(0.6, abs=0.03)


def test_a_place_at_random_is_off_by_the_mean_over_all_places():
    pairs = [(y, x) for y in range(12) for x in range(12)]
    far = [(min(y, 12 - y) ** 2 + min(x, 12 - x) ** 2) ** 0.5 for y, x in pairs]
    assert paper.at_random() == pytest.approx(sum(far) / len(far), rel=1e-5)


def test_arms_start_alike_and_the_same_seed_gives_the_same_net():
    nets = [paper.trained(name, 1, 2) for name in ("factorized", "factorized", paper.SHUFFLED)]
    weights = [net.embed.weight for net in nets]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])  # other clips


def test_attentions_own_operations_are_the_batched_products(tmp_path):
    counted = paper.check(Run(SCRIPT, out=tmp_path, quiet=True))
    assert counted["factorized"] / counted["joint"] == pytest.approx((1 / 8 + 1 / 9) / 2)
