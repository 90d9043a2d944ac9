"""Mochi's parts against diffusers, and what must not matter: padding, neighbors, resolution."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import records
from shared.run import Run
from week23.flow_matching import integrate
from week26.diffusers_twin import gradients_of, twin_of
from week26.evidence import mochi as judge
from week26.mochi import AsymmDiT, MochiConfig, TextToVideo, encoded, n_frames, n_tokens
from week26.mochi_blocks import AttentionPool, Block, JointAttention, positions, rms, turned
from week26.moving_digits import Reader, caption

warnings.filterwarnings("ignore", message="In CPU autocast")


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomized(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    for p in module.parameters():
        torch.nn.init.normal_(p, std=0.3, generator=draw(seed + p.numel()))
    return module


def network(seed: int = 0, n_layers: int = 2, **options) -> AsymmDiT:
    shape = {"channels": 3, "d_model": 32, "d_text": 16, "n_heads": 4, "d_caption": 16}
    shape |= {"d_time": 8, "n_layers": n_layers} | options
    return randomized(AsymmDiT(MochiConfig(**shape)), seed)


def batch(frames: int = 2, height: int = 4, width: int = 6, lengths: tuple = (2, 4), seed: int = 1):
    n, g = len(lengths), draw(seed)
    video = torch.randn(n, 3, frames, height, width, generator=g)
    words = torch.randn(n, 4, 16, generator=g)
    keep = torch.arange(4) < torch.tensor(lengths)[:, None]
    return video, words, keep, 1000 * torch.rand(n, generator=g)


# ---- against diffusers


@given(
    seed=st.integers(0, 10**6),
    frames=st.integers(1, 3),
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
    lengths=st.tuples(st.integers(0, 4), st.integers(1, 4)),
    n_layers=st.integers(1, 2),
)
@settings(max_examples=4)
def test_velocities_and_gradients_are_those_of_diffusers(
    seed, frames, rows, columns, lengths, n_layers
):
    ours = network(seed % 1000, n_layers)
    theirs = twin_of(ours)
    video, words, keep, t = batch(frames, 2 * rows, 2 * columns, lengths, seed)
    found = ours(video, words, keep, t)
    expected = theirs(video, words, t, keep).sample
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    for y in (found, expected):
        y.square().mean().backward()
    gradients, other = gradients_of(theirs, ours)
    assert len(gradients) == len(dict(theirs.named_parameters()))
    for name, gradient in gradients.items():
        scale = float(other[name].abs().max()) + 1e-6
        torch.testing.assert_close(gradient, other[name], atol=1e-3 * scale, rtol=1e-3)


def test_mochi_1_has_as_many_weights_as_diffusers_says():
    from diffusers import MochiTransformer3DModel

    counts = []
    with torch.device("meta"):
        for layers in (1, 2):
            ours = AsymmDiT(MochiConfig(n_layers=layers))
            theirs = MochiTransformer3DModel(num_layers=layers)
            counts.append([sum(p.numel() for p in m.parameters()) for m in (ours, theirs)])
    assert counts[0][0] == counts[0][1]
    assert counts[1][0] == counts[1][1]


@given(frames=st.integers(1, 4), height=st.integers(1, 5), width=st.integers(1, 5))
@settings(max_examples=10)
def test_positions_are_centers_in_units_of_one_area(frames, height, width):
    from diffusers.models.transformers.transformer_mochi import MochiRoPE

    place = positions(frames=frames, height=height, width=width)
    theirs = MochiRoPE()._get_positions(frames, height, width, dtype=torch.float32)
    torch.testing.assert_close(place, theirs, atol=1e-4, rtol=1e-5)
    assert place[:, 1:].mean(0).abs().max() < 1e-4
    sides = [float(place[:, i].max() - place[:, i].min()) for i in (1, 2)]
    unit = 192 / (height * width) ** 0.5
    assert sides == pytest.approx([(height - 1) * unit, (width - 1) * unit], abs=1e-3)


def test_frames_of_a_causal_autoencoder():
    from diffusers import AutoencoderKLMochi

    assert [n_frames(k) for k in (1, 2, 28)] == [1, 7, 163]
    tiny = AutoencoderKLMochi(
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
        latent_channels=2,
        layers_per_block=(1, 1, 1, 1, 1),
        add_attention_block=(False, False, False, False, False),
        latents_mean=None,
        latents_std=None,
    )
    with torch.no_grad():
        film = tiny.decode(torch.zeros(1, 2, 2, 2, 2)).sample
    assert film.shape[2] == n_frames(2)
    assert n_tokens(frames=film.shape[2], height=16, width=32) == 2 * 1 * 2


# ---- rotations


def test_scores_depend_on_differences_of_places():
    w = 0.1 * torch.randn(3, 2, 4, generator=draw())
    q, k = torch.randn(2, 1, 1, 2, 8, generator=draw(1)).expand(2, 1, 18, 2, 8)
    place = positions(frames=2, height=3, width=3)
    angle = torch.einsum("na,ahf->nhf", place, w)
    q, k = (turned(x, angle.cos(), angle.sin())[0] for x in (q, k))
    scores = torch.einsum("ihd,jhd->hij", q, k)
    by_difference: dict = {}
    for i in range(18):
        for j in range(18):
            key = tuple((place[j] - place[i]).round().int().tolist())
            by_difference.setdefault(key, []).append(scores[:, i, j])
    assert len(by_difference) == 3 * 5 * 5
    for values in by_difference.values():
        torch.testing.assert_close(
            torch.stack(values), values[0].expand(len(values), 2), atol=1e-3, rtol=1e-3
        )


def test_a_turn_keeps_lengths_and_a_quarter_is_a_quarter():
    x, angle = torch.randn(2, 5, 3, 8, generator=draw()), torch.randn(5, 3, 4, generator=draw(1))
    y = turned(x, angle.cos(), angle.sin())
    torch.testing.assert_close(y.norm(dim=-1), x.norm(dim=-1))
    quarter = turned(torch.tensor([[[[1.0, 2.0]]]]), torch.zeros(1, 1, 1), torch.ones(1, 1, 1))
    assert quarter.flatten().tolist() == [-2.0, 1.0]


# ---- what must not matter


def test_padding_is_never_read_and_nobody_knows_his_neighbors():
    model = network()
    video, words, keep, t = batch()
    found = model(video, words, keep, t)
    other = model(video, words + 9 * ~keep[:, :, None], keep, t)
    assert torch.equal(found, other)
    for i, length in enumerate((2, 4)):
        rows = slice(i, i + 1)
        alone = model(video[rows], words[rows, :length], keep[rows, :length], t[rows])
        torch.testing.assert_close(found[rows], alone, atol=1e-4, rtol=1e-4)
    changed = words.clone()
    changed[0, 1] += 1
    assert not torch.allclose(model(video, changed, keep, t)[0], found[0], atol=1e-3)


def test_the_text_learns_from_the_video_but_not_in_the_last_block():
    g = draw()
    video, text = torch.randn(1, 4, 32, generator=g), torch.randn(1, 3, 16, generator=g)
    time, keep = torch.randn(1, 32, generator=g), torch.ones(1, 3, dtype=torch.bool)
    turn = torch.randn(4, 4, 4, generator=g)
    for last in (False, True):
        block = randomized(Block(32, 16, 4, last=last))
        _, a = block(video, text, time, keep, turn.cos(), turn.sin())
        _, b = block(video + 1, text, time, keep, turn.cos(), turn.sin())
        assert torch.equal(a, b) == last
        assert torch.equal(a, text) == last


def test_gates_start_shut():
    model = AsymmDiT(network().config, draw())
    video, words, keep, t = batch()
    assert (model(video, words, keep, t) == 0).all()
    block, x = model.blocks[0], torch.randn(2, 6, 32, generator=draw(1))
    text, time = torch.randn(2, 4, 16, generator=draw(2)), torch.randn(2, 32)
    one = torch.ones(6, 4, 4)
    a, b = block(x, text, time, keep, one, 0 * one)
    assert torch.equal(a, x)
    assert torch.equal(b, text)


def test_root_mean_square_is_one_and_a_pool_of_nothing_is_finite():
    x = 5 * torch.randn(4, 64, generator=draw())
    torch.testing.assert_close(rms(x).square().mean(-1), torch.ones(4), atol=1e-4, rtol=0)
    pool = AttentionPool(16, 8, 2)
    words = torch.randn(2, 3, 16, generator=draw())
    none = torch.zeros(2, 3, dtype=torch.bool)
    a, b = pool(words, none), pool(words + 7, none)
    assert a.isfinite().all()
    assert torch.equal(a, b)


# ---- flow, captions and guidance


def small(seed: int = 0) -> TextToVideo:
    return randomized(TextToVideo(draw(seed), d_model=32, n_layers=1), seed)


def test_the_loss_is_the_squared_error_of_the_velocity():
    model = small()
    video, ids = torch.randn(3, 8, 12, 12, generator=draw()), encoded(["a one moves up"] * 3)
    g = draw(4)
    t = torch.rand(3, 1, generator=g)
    noise = torch.empty(3, 8 * 144).normal_(generator=g)
    for dropped, heard in ((0.0, ids), (1.0, 0 * ids)):
        x = (1 - t) * noise + t * video.flatten(1)
        target = video.flatten(1) - noise
        expected = (model.velocity(x, t, heard) - target).square().mean()
        found = model.loss(video, ids, draw(4), dropped=dropped)
        torch.testing.assert_close(found, expected)


def test_guidance_is_the_way_from_the_empty_caption():
    model, ids = small(), encoded(["a one moves up", "a seven moves left"])
    noise = torch.randn(2, 8 * 144, generator=draw(3))
    with torch.no_grad():
        for w in (0.0, 1.0, 2.5):

            def velocity(x, t, w=w):
                u, c = model.velocity(x, t, 0 * ids), model.velocity(x, t, ids)
                return (1 - w) * u + w * c

            expected = integrate(velocity, noise, steps=3).view(2, 8, 12, 12)
            found = model.draw(ids, draw(3), guidance=w, steps=3)
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert model.draw(ids, draw(3), steps=1, frames=3).shape == (2, 3, 12, 12)


# ---- the judge


def test_combinations_of_the_judge_are_those_of_training():
    data = judge.Source(0)
    known, new = judge.combinations()
    assert len(known) == 12
    assert len(new) == 4
    seen = data.fresh(400, draw())
    pairs = {*zip(seen.digit.tolist(), seen.direction.tolist(), strict=True)}
    assert pairs == set(known)
    every = data.test(400, draw())
    assert {*zip(every.digit.tolist(), every.direction.tolist(), strict=True)} == {*known, *new}
    assert torch.equal(judge.captions_of(seen)[0], encoded([caption(*_first(seen))])[0])


def _first(seen):
    return int(seen.digit[0]), int(seen.direction[0])


class Painter(TextToVideo):
    """Draws what it is asked for, from real clips; or something else in the direction's place."""

    def __init__(self, data, *, wrong: bool = False):
        super().__init__(draw(), d_model=16, n_layers=1)
        self.every, self.wrong, self.seen = data.test(400, draw()), wrong, []

    def draw(self, ids, generator, *, guidance, steps):
        self.seen.append(guidance)
        texts = {tuple(row): i for i, row in enumerate(judge.captions_of(self.every).tolist())}
        rows = torch.tensor([texts[tuple(row)] for row in ids.tolist()])
        video = self.every.video[rows]
        return video.flip(1) if self.wrong else video


class Oracle(Reader):
    """Reads what is written into the clips' rows: the truth of the painter's own clips."""

    def __init__(self, every):
        super().__init__(draw())
        self.every = every

    def right(self, video, digit, direction):
        found = []
        for clip, k, w in zip(video, digit, direction, strict=True):
            i = int((self.every.video - clip).abs().sum((1, 2, 3)).argmin())
            exact = torch.equal(self.every.video[i], clip)
            found.append(
                (exact and self.every.digit[i] == k, exact and self.every.direction[i] == w)
            )
        return torch.tensor(found)


def test_shares_are_per_combination():
    data = judge.Source(0)
    painter = Painter(data)
    oracle = Oracle(painter.every)
    known, _ = judge.combinations()
    right = judge.shares(painter, oracle, known[:3], 3.0, 2)
    assert right.shape == (3, 3)
    assert (right == 1).all()
    assert painter.seen == [3.0]
    wrong = judge.shares(Painter(data, wrong=True), oracle, known[:3], 3.0, 2)
    assert (wrong[:, 2] == 0).all()

    class Half(Oracle):
        """Never finds the direction."""

        def right(self, video, digit, direction):
            return super().right(video, digit, direction) & torch.tensor([True, False])

    half = judge.shares(painter, Half(painter.every), known[:3], 3.0, 2)
    assert half.tolist() == [[1.0, 0.0, 0.0]] * 3


def judged(tmp_path, **changed):
    run = Run(records.ROOT / "weeks/26/mochi.py", out=tmp_path, quiet=True)
    values = {"w = 0": (0.25, 0.25, 0.06), "w = 1": (0.5, 0.5, 0.3), "told": (0.4, 0.001)}
    values |= {"w = 3": (0.9, 0.8, 0.7), "new": (0.6, 0.6, 0.6)} | changed
    found = [
        {name: k * torch.tensor(value) for name, value in values.items()} for k in (0.99, 1, 1.01)
    ]
    judge.judge(run, found)
    return {c["name"]: c["verdict"] for c in run.claims}, [f["broken"] for f in run.falsifiers]


def test_shares_of_clips_are_judged(tmp_path):
    verdicts, broken = judged(tmp_path)
    assert set(verdicts.values()) == {"holds"}
    assert broken == [True] * 3
    bad = {"w = 3": (0.9, 0.3, 0.9), "new": (0.9, 0.9, 0.1), "told": (0.001, 0.4)}
    verdicts, broken = judged(tmp_path, **bad)
    assert verdicts == {
        "the right caption lowers the loss": "fails",
        "captions choose the digit": "holds",
        "captions choose the direction": "fails",
        "held-out combinations come out": "fails",
    }
    assert broken == [False, True, True]


def test_the_right_caption_is_compared_with_wrong_ones(monkeypatch):
    data = judge.Source(0)

    def loss(self, video, ids, generator, *, dropped):
        assert dropped == 0
        real = data.test(30, draw(1000))
        assert torch.equal(video, real.video)
        return 1.0 + (ids != judge.captions_of(real)).any(1).float().mean()

    monkeypatch.setattr(TextToVideo, "loss", loss)
    gain, nothing = judge.told(data, small(), 0, 30)
    assert gain > 0.3
    assert abs(nothing) < gain / 2


def test_training_lowers_the_loss_and_each_weight_has_one_optimizer():
    model, losses = judge.trained(judge.Source(0), 0, 25)
    first, _ = judge.trained(judge.Source(0), 0, 1)
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    still = [
        name
        for (name, a), (_, b) in zip(
            model.named_parameters(), first.named_parameters(), strict=True
        )
        if torch.equal(a, b)
    ]
    assert not [name for name in still if "text_norms.0" not in name and "qkv.0" not in name]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: JointAttention(30, 16, 4), "n_heads must divide d_model = 30, got 4"),
        (lambda: AttentionPool(30, 16, 4), "n_heads must divide d_in = 30, got 4"),
        (lambda: positions(frames=0, height=1, width=1), "must be at least 1"),
        (lambda: n_frames(0), "latent_frames must be at least 1, got 0"),
        (
            lambda: n_tokens(frames=24, height=480, width=848),
            "frames must be 1 more than a multiple of 6, got 24",
        ),
        (
            lambda: n_tokens(frames=25, height=480, width=850),
            "height and width must be multiples of 16, got 480 and 850",
        ),
        (
            lambda: network()(*batch(height=3)),
            "height and width must be multiples of 2, got 3 and 6",
        ),
        (
            lambda: small().draw(encoded(["a"]), draw(), guidance=-1.0),
            "guidance must be at least 0, got -1.0",
        ),
        (
            lambda: small().loss(torch.zeros(1, 8, 12, 12), encoded(["a"]), draw(), dropped=2.0),
            r"dropped must be in \[0, 1\], got 2.0",
        ),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(call, message):
    with pytest.raises(ValueError, match=message):
        call()
