"""Autoencoder, text encoder and pipeline against the libraries; guidance, scale, dropped words."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from week23.autoencoder import Autoencoder, AutoencoderConfig, Posterior
from week23.diffusers_twin import autoencoder_twin, run_pipeline, text_twin
from week23.glyphs import (
    COLORS,
    END,
    GROUNDS,
    SHAPES,
    Reader,
    Scene,
    caption,
    combinations,
    decoded,
    encoded,
    render,
)
from week23.schedules import sample_ddim
from week23.score_matching import fit
from week23.stable_diffusion import LatentDiffusion, drop_captions, guided
from week23.text_encoder import TextConfig, TextEncoder, at_end, quick_gelu


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomized(model: nn.Module, seed: int = 0) -> nn.Module:
    """As after some training: nothing is zero any more."""
    draw = generator(seed)
    with torch.no_grad():
        for p in model.parameters():
            scale = p[0].numel() ** -0.5 if p.ndim > 1 else 0.3
            p.add_(scale * torch.randn(p.shape, generator=draw).to(p.dtype))
    return model


@given(
    config=st.sampled_from(
        [
            AutoencoderConfig(3, 2, (4, 8, 12), n_layers=2, n_groups=4),
            AutoencoderConfig(1, 4, (6,), n_layers=1, n_groups=3),
            AutoencoderConfig(2, 1, (8, 4), n_layers=1, n_groups=2),
        ]
    ),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=6)
def test_autoencoder_is_diffusers(config, seed):
    ours = randomized(Autoencoder(config, generator(seed)).double(), seed)
    theirs, draw = autoencoder_twin(ours), generator(seed)
    x = torch.randn(2, config.channels, 4, 8, generator=draw).double().requires_grad_()
    own, their = ours.encode(x), theirs.encode(x).latent_dist
    torch.testing.assert_close(own.mean, their.mean)
    torch.testing.assert_close(own.log_variance, their.logvar)
    torch.testing.assert_close(own.kl(), their.kl())
    decoded = ours.decode(own.mean), theirs.decode(their.mean).sample
    torch.testing.assert_close(*decoded)
    gradients = [torch.autograd.grad(y.square().sum(), x)[0] for y in decoded]
    torch.testing.assert_close(*gradients)


def test_as_many_parameters_as_stable_diffusions_autoencoder():
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        ours = Autoencoder(AutoencoderConfig())
        theirs = AutoencoderKL(
            latent_channels=4,
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        )
    counts = [sum(p.numel() for p in model.parameters()) for model in (ours, theirs)]
    assert counts[0] == counts[1] == 83_653_863


def test_divergence_and_draws_of_the_code():
    draw = generator()
    mean, log_variance = (torch.randn(3, 2, 4, 4, generator=draw) for _ in range(2))
    posterior = Posterior(mean, log_variance)
    normal = torch.distributions.Normal(mean, (log_variance / 2).exp())
    standard = torch.distributions.Normal(torch.zeros(()), torch.ones(()))
    exact = torch.distributions.kl_divergence(normal, standard).flatten(1).sum(1)
    torch.testing.assert_close(posterior.kl(), exact)
    many = Posterior(torch.full((1, 1, 200, 200), 3.0), torch.full((1, 1, 200, 200), 4.0).log())
    sample = many.sample(draw)
    assert abs(float(sample.mean()) - 3) < 0.05
    assert abs(float(sample.std()) - 2) < 0.05


def test_loss_weighs_the_divergence_and_counts_per_pixel():
    model = randomized(Autoencoder(AutoencoderConfig(1, 2, (4, 8), 1, 2), generator()))
    x = torch.randn(3, 1, 8, 8, generator=generator(1))
    one = model.encode(x)
    error = (x - model.decode(one.sample(generator(2)))).square().sum() / 2
    by_hand = (error + 0.3 * one.kl().sum()) / x.numel()
    torch.testing.assert_close(model.loss(x, 0.3, generator(2)), by_hand)


def test_scale_makes_deviation_one_and_images_come_back():
    model = randomized(Autoencoder(AutoencoderConfig(1, 2, (4, 8), 1, 2), generator()))
    x = torch.randn(50, 1, 8, 8, generator=generator(1))
    assert model.fit_scale(x, generator(2)) == model.scale != 1
    latents = model.to_latents(x, generator(2))
    assert abs(float(latents.std()) - 1) < 1e-5
    codes = model.encode(x).sample(generator(2))
    torch.testing.assert_close(model.to_images(latents), model.decode(codes), atol=1e-4, rtol=1e-4)


@given(seed=st.integers(0, 10**6), n_layers=st.integers(1, 2), n=st.integers(1, 7))
@settings(max_examples=6)
def test_text_encoder_is_clips(seed, n_layers, n):
    ours = TextEncoder(TextConfig(11, 7, 12, n_heads=3, n_layers=n_layers, d_ff=20))
    ours, draw = randomized(ours.double(), seed), generator(seed)
    ids = torch.randint(4, 11, (3, n), generator=draw)
    ids[:, -1] = 3
    ids[0, n // 2 :] = 3  # filled up with ends: the first one counts
    theirs = text_twin(ours, end=3)(ids)
    torch.testing.assert_close(ours(ids), theirs.last_hidden_state)
    torch.testing.assert_close(at_end(ours(ids), ids, 3), theirs.pooler_output)


def test_words_do_not_see_later_ones():
    model = randomized(TextEncoder(TextConfig(11, 6, 8, 2, 2, 16), generator()))
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    other = torch.tensor([[1, 2, 3, 9, 5]])
    torch.testing.assert_close(model(ids)[:, :3], model(other)[:, :3])
    assert not torch.allclose(model(ids)[:, 4], model(other)[:, 4])


def test_quick_gelu_is_not_gelu():
    x = torch.linspace(-4, 4, 200)
    difference = (quick_gelu(x) - nn.functional.gelu(x)).abs().max()
    assert 0.015 < difference < 0.0205


@pytest.mark.parametrize(("kind", "guidance", "steps"), [("epsilon", 1.5, 4), ("v", 4.0, 2)])
def test_pipeline_is_diffusers_step_by_step(kind, guidance, steps):
    model = randomized(LatentDiffusion.small(generator()))
    model.autoencoder.scale, model.kind = 0.4, kind
    ids = encoded(["a red plus on white", "on gray a blue disc"])
    noise = torch.randn(2, *model.latent_shape, generator=generator(1))
    theirs, images = run_pipeline(model, ids, noise, guidance=guidance, steps=steps)
    seen, memory = [], model.text_encoder(ids)
    inner = guided(model.unet, memory, model.text_encoder(model.empty), guidance)
    watched = lambda x, t: seen.append(x) or inner(x, t)  # noqa: E731
    last = sample_ddim(watched, model.schedule, noise, steps=steps, kind=kind)
    torch.testing.assert_close(
        torch.stack([*seen[1:], last]), torch.stack(theirs), atol=1e-4, rtol=1e-4
    )
    ours = model.generate(ids, noise, guidance=guidance, steps=steps)
    torch.testing.assert_close((ours / 2 + 0.5).clamp(0, 1), images, atol=1e-4, rtol=1e-4)


def test_guidance_adds_what_the_caption_changes_w_times():
    unet = lambda x, t, memory: memory.mean((1, 2))[:, None, None, None] * x  # noqa: E731
    memory, empty = torch.full((2, 3, 4), 5.0), torch.ones(1, 3, 4)
    x, t = torch.ones(2, 1, 2, 2), torch.tensor([3, 4])
    for w, wanted in ((0.0, 1.0), (1.0, 5.0), (3.0, 13.0)):
        found = guided(unet, memory, empty, w)(x, t)
        torch.testing.assert_close(found, wanted * x)


def test_without_guidance_captions_change_nothing():
    model = randomized(LatentDiffusion.small(generator()))
    ids = encoded(["a red plus on white", ""])
    noise = torch.randn(1, *model.latent_shape, generator=generator(1)).expand(2, -1, -1, -1)
    for w, same in ((0.0, True), (1.0, False)):
        images = model.generate(ids, noise, guidance=w, steps=2)
        assert torch.allclose(images[0], images[1], atol=1e-5) == same


def test_captions_that_are_all_dropped_teach_nothing():
    model = randomized(LatentDiffusion.small(generator()))
    latents = torch.randn(4, *model.latent_shape, generator=generator(1))
    ids = encoded([caption(Scene(i, i, i)) for i in range(4)])
    losses = [model.loss(latents, i, generator(2), dropped=1.0) for i in (ids, ids.flip(0))]
    torch.testing.assert_close(*losses)
    losses[0].backward()
    used = model.text_encoder.tokens.weight.grad.any(dim=1)
    assert used.nonzero().flatten().tolist() == [0, END]
    heard = [model.loss(latents, i, generator(2), dropped=0.0) for i in (ids, ids.flip(0))]
    assert not torch.allclose(*heard)


def test_a_share_of_captions_is_dropped_whole():
    ids, empty = encoded([caption(Scene(1, 2, 3))] * 2000), encoded([""])
    found = drop_captions(ids, empty, 0.1, generator())
    gone = (found == empty).all(dim=1)
    assert torch.equal(gone, ~(found == ids).all(dim=1))
    assert 0.08 < float(gone.float().mean()) < 0.12
    assert torch.equal(drop_captions(ids, empty, 0.0, generator()), ids)


@pytest.mark.parametrize("kind", ["epsilon", "v"])
def test_loss_is_that_of_the_prediction_at_its_time(kind):
    model = randomized(LatentDiffusion.small(generator()))
    model.kind = kind
    latents = torch.randn(3, *model.latent_shape, generator=generator(1))
    ids, draw = encoded(["a red plus on white"] * 3), generator(2)
    t = torch.randint(1000, (3,), generator=draw)
    noise = torch.empty_like(latents).normal_(generator=draw)
    a = model.schedule.alphas_bar[t].float()[:, None, None, None]
    x = a.sqrt() * latents + (1 - a).sqrt() * noise
    target = noise if kind == "epsilon" else a.sqrt() * noise - (1 - a).sqrt() * latents
    by_hand = (model.unet(x, t, model.text_encoder(ids)) - target).square().mean()
    torch.testing.assert_close(model.loss(latents, ids, generator(2), dropped=0.0), by_hand)


def test_training_leaves_the_first_stage_alone_and_lowers_the_loss():
    model = LatentDiffusion.small(generator())
    model.autoencoder.requires_grad_(False)
    before = [p.clone() for p in model.autoencoder.parameters()]
    latents, draw = torch.ones(16, *model.latent_shape), generator(1)
    ids = encoded([""] * 16)
    losses = fit(model, lambda: model.loss(latents, ids, draw), steps=40, lr=1e-2)
    assert 0.8 < losses[0] < 1.2  # a new U-Net says zero; v² has mean 1 here
    assert sum(losses[-5:]) / 5 < 0.7
    assert all(map(torch.equal, before, model.autoencoder.parameters()))


def test_glyphs_are_what_they_are_said_to_be():
    scenes, held_out = combinations(generator())
    assert len(set(scenes) | set(held_out)) == 64
    assert not set(scenes) & set(held_out)
    images = (render(scenes + held_out, generator(1)) + 1) / 2
    assert images.min() == 0
    assert images.max() <= 1
    for image, scene in zip(images, scenes + held_out, strict=True):
        edge = torch.cat([image[:, 0], image[:, -1], image[:, :, 0], image[:, :, -1]], dim=1)
        ground = edge.median(dim=1).values
        glyph = (image - ground[:, None, None]).abs().amax(0) > 0.05
        rows, columns = glyph.nonzero().T
        assert rows.max() - rows.min() == columns.max() - columns.min() == 11
        cell = glyph[rows.min() :: 2, columns.min() :: 2][:6, :6]
        wanted = [[c == "#" for c in row] for row in list(SHAPES.values())[scene.shape].split()]
        assert cell.tolist() == wanted
        for found, kind, number in (
            (image[:, glyph].mean(1), COLORS, scene.color),
            (ground, GROUNDS, scene.ground),
        ):
            color = torch.tensor(list(kind.values())[number])
            light = found.max() if color.max() > 0 else 1.0
            torch.testing.assert_close(found / light, color / max(float(color.max()), 0.5))
    texts = [caption(scene, i % 2) for i, scene in enumerate(scenes)]
    assert decoded(encoded(texts)) == texts


def test_the_reader_reads():
    scenes, held_out = combinations(generator())
    reader = Reader(generator(1)).learn(scenes + held_out, 80, generator(2))
    right = reader.right(render(held_out, generator(3)), held_out)
    assert float(right.mean()) > 0.9
    wrong = [s._replace(color=(s.color + 1) % 4) for s in held_out]
    moved = reader.right(render(held_out, generator(3)), wrong).mean(0)
    assert moved[0] < 0.1
    assert moved[2] > 0.9


def test_bad_input():
    with pytest.raises(ValueError, match=r"share must be in \[0, 1\], got 1.5"):
        drop_captions(encoded([""]), encoded([""]), 1.5)
    with pytest.raises(ValueError, match="widths must be multiples of n_groups = 3"):
        AutoencoderConfig(1, 1, (4,), n_groups=3)
    model = Autoencoder(AutoencoderConfig(1, 1, (4, 4, 4), 1, 2), generator())
    with pytest.raises(ValueError, match=r"multiples of 4, got \(8, 6\)"):
        model.encode(torch.zeros(1, 1, 8, 6))
    text = TextEncoder(TextConfig(5, 3, 4, 1, 1, 4))
    with pytest.raises(ValueError, match="ids must have at most 3 columns, got 4"):
        text(torch.zeros(1, 4, dtype=torch.long))
    with pytest.raises(ValueError, match="every row must have the end-of-text id 2"):
        at_end(torch.zeros(2, 2, 3), torch.tensor([[2, 0], [0, 1]]), 2)
