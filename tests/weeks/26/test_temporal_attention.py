"""Who sees whom, by torch's attention; what it costs; what one frame cannot know."""

import copy

import pytest
import torch
from enforce import plain
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from shared import records
from shared.run import Run
from week13.attention import MultiHeadAttention
from week13.positional_encodings import apply_rope
from week26.evidence import temporal_attention as judge
from week26.evidence.attention_by_torch import by_torch, forward_by_torch
from week26.moving_digits import DIRECTIONS, clips, split
from week26.temporal_attention import (
    ARMS,
    Block,
    VideoConfig,
    VideoTransformer,
    attend,
    attention_flops,
    flops,
    masked,
    patches,
    pixels,
    sees,
)

PLAIN = plain("26", "temporal_attention")  # without the checks of its annotations
KINDS = ("spatial", "temporal", "joint")


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def net_of(arm: str = "factorized", seed: int = 0, **options) -> VideoTransformer:
    return judge.random_net(VideoConfig(arm, d_model=8, n_layers=1, **options), draw(seed))


def video_of(frames: int = 4, seed: int = 1) -> torch.Tensor:
    return torch.randn(2, frames, 12, 12, generator=draw(seed), dtype=torch.double)


# ---- attention


@given(
    seed=st.integers(0, 10**6),
    frames=st.integers(1, 5),
    places=st.integers(1, 4),
    kind=st.sampled_from(KINDS),
    causal=st.booleans(),
)
@settings(max_examples=20)
def test_attention_is_torchs_under_its_mask(seed, frames, places, kind, causal):
    torch.manual_seed(seed)
    attention = MultiHeadAttention(8, 2).double()
    x = torch.randn(2, frames, places, 8, generator=draw(seed), dtype=torch.double)
    theirs = by_torch(attention, x, kind, is_causal=causal)
    for ours in (attend, masked):
        found = ours(attention, x, kind, is_causal=causal)
        torch.testing.assert_close(found, theirs, atol=1e-6, rtol=1e-6)


def test_masks_pair_by_pair():
    tokens = [(t, s) for t in range(3) for s in range(2)]
    for kind in KINDS:
        for causal in (False, True):
            mask = sees(kind, frames=3, places=2, is_causal=causal)
            for i, (t, s) in enumerate(tokens):
                for j, (u, r) in enumerate(tokens):
                    same = {"spatial": t == u, "temporal": s == r, "joint": True}[kind]
                    assert mask[i, j].item() == (same and (u <= t or not causal))


def test_joint_attention_that_may_not_leave_the_frame_is_spatial():
    attention, x = MultiHeadAttention(8, 2), torch.randn(2, 4, 3, 8, generator=draw())
    apart = attend(attention, x, "joint", apart=True)
    torch.testing.assert_close(apart, attend(attention, x, "spatial"), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("arm", ["factorized", "joint"])
def test_the_future_is_not_seen_and_the_past_is(arm):
    net, video = net_of(arm, is_causal=True), video_of(5)
    for j in range(5):
        moved = video.clone()
        moved[:, j] += 1.0
        difference = (net(moved) - net(video)).abs().amax((0, 2, 3))
        assert (difference[:j] == 0).all()
        assert (difference[j:] > 1e-6).all()


def test_frames_know_each_other_by_their_distance_only():
    """Relative positions: the same two frames, at the start of a clip and later."""
    attention, x = MultiHeadAttention(8, 2), torch.randn(1, 2, 3, 8, generator=draw())
    once = attend(attention, x, "temporal")
    later = torch.cat([torch.zeros(1, 3, 3, 8), x], dim=1)
    eye = torch.eye(5, dtype=torch.bool)
    eye[3, 4] = eye[4, 3] = True
    flat = later.transpose(1, 2).flatten(0, 1)
    found = attention(flat, rope=apply_rope, mask=eye)[:, 3:]
    torch.testing.assert_close(found, once[0].transpose(0, 1), atol=1e-5, rtol=1e-5)
    turned = attend(attention, x.flip(1), "temporal").flip(1)
    assert not torch.allclose(turned, once, atol=1e-3)  # but their order matters


@pytest.mark.parametrize("arm", ARMS)
def test_the_network_is_that_of_torchs_layers(arm):
    net, video = net_of(arm, seed=7, is_causal=True), video_of(3)
    torch.testing.assert_close(net(video), forward_by_torch(net, video), atol=1e-5, rtol=1e-5)


# ---- images


@pytest.mark.parametrize("arm", ARMS)
def test_images_in_a_row_are_as_if_alone(arm):
    net, video = net_of(arm), video_of()
    alone = torch.cat([net(frame) for frame in video.split(1, dim=1)], dim=1)
    torch.testing.assert_close(net(video, apart=True), alone, atol=1e-9, rtol=1e-9)
    if arm != "spatial":
        assert not torch.allclose(net(video), alone, atol=1e-3)


def test_temporal_layers_that_start_at_zero_leave_the_image_model():
    video = video_of()
    net, image = net_of(seed=3), net_of("spatial", seed=3)
    for model in (net, image):
        for block in model.blocks:
            torch.nn.init.zeros_(block.attentions[1].out_proj.weight)
            torch.nn.init.zeros_(block.attentions[1].out_proj.bias)
    torch.testing.assert_close(net(video), image(video), atol=1e-9, rtol=1e-9)


def test_attention_and_head_start_at_zero():
    net = VideoTransformer(VideoConfig(), draw())
    assert (net(torch.randn(2, 3, 12, 12)) == 0).all()
    block = Block(8, 2, ("spatial", "temporal"))
    names = {name for name, p in net.named_parameters() if p.ndim > 1 and not p.any()}
    assert names == {
        *(f"blocks.{i}.attentions.{j}.out_proj.weight" for i in range(2) for j in range(2)),
        "head.weight",
    }
    assert block.kinds == ("spatial", "temporal")


def test_the_arms_start_alike():
    weights = [VideoTransformer(VideoConfig(arm), draw(5)).state_dict() for arm in ARMS]
    for other in weights[1:]:
        assert list(other) == list(weights[0])
        assert all(torch.equal(other[name], weights[0][name]) for name in other)


def test_the_time_is_heard_row_by_row():
    net, video = net_of(), video_of()
    t = torch.tensor([0.2, 0.7], dtype=torch.double)
    both = net(video, t)
    alone = torch.cat([net(video[i : i + 1], t[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(both, alone, atol=1e-9, rtol=1e-9)
    assert not torch.allclose(both, net(video, t.flip(0)), atol=1e-3)


@given(
    side=st.integers(1, 3), patch=st.integers(1, 4), frames=st.integers(1, 3), n=st.integers(1, 2)
)
@settings(max_examples=10)
def test_patches_are_squares_row_by_row(side, patch, frames, n):
    size = side * patch
    video = torch.arange(n * frames * size**2).view(n, frames, size, size).float()
    cut = patches(video, patch)
    for row in range(side):
        for column in range(side):
            square = video[
                :, :, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch
            ]
            assert torch.equal(cut[:, :, row * side + column], square.flatten(2))
    assert torch.equal(pixels(cut, size), video)


# ---- cost


@given(
    frames=st.integers(1, 9),
    arm=st.sampled_from(list(ARMS)),
    d=st.sampled_from([4, 8]),
    layers=st.integers(1, 2),
    patch=st.sampled_from([3, 4, 6]),
)
@settings(max_examples=12)
def test_operations_are_those_that_torch_counts(frames, arm, d, layers, patch):
    config = VideoConfig(arm, patch=patch, d_model=d, n_layers=layers)
    net = VideoTransformer(config)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(1, frames, 12, 12))
    assert flops(config, frames) == counter.get_total_flops()
    products = counter.get_flop_counts()["Global"][torch.ops.aten.bmm]
    assert layers * attention_flops(arm, frames, config.places, d_model=d) == products


# ---- judges


def test_the_floor_is_the_best_of_whoever_sees_one_frame():
    data = split(0)
    video = clips(data.x, data.y, 300, draw()).video
    least = judge.floor(video)
    ways = torch.stack([video[:, :-1].roll(s, dims=(2, 3)) for s in DIRECTIONS.values()])
    weights = (0.25, 0.25, 0.25, 0.25), (0.3, 0.3, 0.2, 0.2), (1.0, 0.0, 0.0, 0.0)
    found = [
        float(judge.errors((torch.tensor(w).view(4, 1, 1, 1, 1) * ways).sum(0), video))
        for w in weights
    ]
    assert found[0] == pytest.approx(least)
    assert least < found[1] < found[2]
    assert float(judge.errors(video[:, 1:], video)) == 0
    assert least < float(judge.errors(video[:, :-1], video))


def test_errors_leave_out_what_nobody_can_know():
    video = video_of().float()
    found = video[:, 1:].clone()
    found[:, 0] += 5
    assert judge.errors(found, video) == 0
    found[:, 1:] += 2
    assert judge.errors(found, video).item() == pytest.approx(4)


def test_frame_by_frame_is_as_at_once_where_the_mask_is_there():
    video = video_of()
    for causal, equal in ((True, True), (False, False)):
        net = net_of(is_causal=causal)
        at_once = judge.predict(net, video[:, :-1])
        assert torch.allclose(judge.one_by_one(net, video), at_once, atol=1e-9) == equal


def test_it_learns_motion_and_without_order_it_does_not():
    config = VideoConfig(n_layers=1, d_model=16, is_causal=True)
    losses = [judge.learn(config, 50, 40, shuffled=shuffled)[1] for shuffled in (False, True)]
    falls = [sum(line[-10:]) / sum(line[:10]) for line in losses]
    assert falls[0] < 0.85, falls
    assert sum(losses[0][-10:]) < 0.8 * sum(losses[1][-10:])
    assert losses[0][0] < losses[1][0]  # what follows in any order is farther off
    first = judge.learn(config, 50, 3)[1]
    assert judge.learn(config, 50, 3)[1] == first


def judged(tmp_path, monkeypatch, share):
    """The claims, for networks whose errors are given as shares of the floor."""
    run = Run(records.ROOT / "weeks/26/temporal_attention.py", out=tmp_path, quiet=True)
    named = {name: copy.copy(value) for name, value in share.items()}
    asked = []

    def learn(config, seed, steps, *, shuffled=False):
        asked.append("shuffled frames" if shuffled else config.arm)
        return asked[-1], [1.0] * steps

    monkeypatch.setattr(judge, "learn", learn)
    monkeypatch.setattr(judge, "floor", lambda video: 2.0)
    monkeypatch.setattr(judge, "predict", lambda net, video: net)
    monkeypatch.setattr(judge, "errors", lambda net, video: 2.0 * named[net].pop(0))
    monkeypatch.setattr(judge, "draw", lambda *args: None)
    monkeypatch.setattr(judge, "leak", lambda *args: None)
    judge.foresee(run, 3, 40)
    return {c["name"]: c["verdict"] for c in run.claims}, run.falsifiers


def test_shares_of_the_floor_are_judged(tmp_path, monkeypatch):
    share = {"factorized": [0.5, 0.51, 0.52], "joint": [0.6, 0.61, 0.62]}
    share |= {"spatial": [1.05, 1.06, 1.07], "shuffled frames": [1.5, 1.6, 1.7]}
    verdicts, falsifiers = judged(tmp_path, monkeypatch, share)
    assert set(verdicts.values()) == {"holds"}
    assert all(f["broken"] for f in falsifiers)
    share |= {"factorized": [0.9, 0.91, 0.92], "joint": [0.6, 0.61, 0.62]}
    share |= {"spatial": [0.6, 0.61, 0.62]}
    verdicts, falsifiers = judged(tmp_path, monkeypatch, share)
    assert verdicts["factorized attention foresees motion"] == "fails"
    assert verdicts["so does joint attention"] == "holds"
    assert verdicts["who sees one frame is not below its least"] == "fails"
    assert verdicts["factorized attention has learned more by then"] == "fails"
    assert [f["broken"] for f in falsifiers] == [False, True]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: PLAIN.VideoConfig("full"),
            "arm must be one of spatial, factorized, joint, got full",
        ),
        (lambda: VideoConfig(patch=5), "patch must divide size = 12, got 5"),
        (lambda: PLAIN.sees("causal", frames=1, places=1), "kind must be spatial, .*, got causal"),
        (lambda: patches(torch.zeros(1, 2, 12, 10), 4), "patch must divide"),
        (
            lambda: patches(torch.zeros(2, 12, 12), 4),
            r"video must be floats of shape \(batch, frames, height, width\), got torch.float32",
        ),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(call, message):
    with pytest.raises(ValueError, match=message):
        call()
