"""Each network against diffusers or transformers, the pipeline step by step; do captions steer?"""

import statistics
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shared import plots
from shared.study import Run
from week23.autoencoder import Autoencoder, AutoencoderConfig
from week23.diffusers_twin import (
    UNET,
    autoencoder_twin,
    renamed,
    run_pipeline,
    text_twin,
    unet_twin,
)
from week23.glyphs import Reader, Scene, caption, combinations, encoded, render
from week23.schedules import sample_ddim
from week23.score_matching import fit
from week23.stable_diffusion import LatentDiffusion, guided
from week23.text_encoder import TextConfig, TextEncoder, at_end
from week23.unet import UNet, UNetConfig

SCALES = (0.0, 1.0, 3.0, 6.0)
STEERING, ATTRIBUTES = 3.0, ("color", "shape", "ground")


def main(run: Run) -> None:
    """Compare with the libraries, then train on captioned glyphs, with a control beside."""
    run.rounding(0.2, "samples of a network after few steps, and their classes")
    torch.set_num_threads(1)  # products this small are slower on several threads
    check_networks(run)
    check_pipeline(run)
    scenes, held_out = combinations(run.generator(1))
    reader = Reader(run.generator(2))
    reader.learn(scenes + held_out, run.budget(quick=20, default=150, full=600), run.generator(3))
    every = [scene for scene in scenes + held_out for _ in range(4)]
    right = reader.right(render(every, run.generator(4)), every)
    run.metric("reader right, fresh pictures", float(right.prod(1).mean()), rtol=None)
    steer(run, scenes, held_out, reader)


def steer(run: Run, scenes: list[Scene], held_out: list[Scene], reader: Reader) -> None:
    """One autoencoder; a denoiser that reads captions, with --full one with others' captions."""
    n, draw = run.budget(quick=128, default=2048, full=8192), run.generator(5)
    rows = [scenes[i] for i in torch.randint(len(scenes), (n,), generator=draw).tolist()]
    images = render(rows, draw)
    ids = encoded([caption(scene, i % 2) for i, scene in enumerate(rows)])
    autoencoder = LatentDiffusion.small(run.generator(6)).autoencoder
    batch = lambda: torch.randint(n, (16,), generator=draw)  # noqa: E731
    steps = run.budget(quick=4, default=950, full=3000)
    fit(autoencoder, lambda: autoencoder.loss(images[batch()], 1e-2, draw), steps=steps, lr=5e-3)
    run.metric("deviation of the latents", 1 / autoencoder.fit_scale(images, draw), rtol=None)
    fresh = [scene for scene in held_out for _ in range(8)]
    coded = autoencoder.to_images(autoencoder.to_latents(render(fresh, draw), draw))
    kept = float(reader.right(coded, fresh).prod(1).mean())
    run.metric("reader right, held-out pictures through the autoencoder", kept, rtol=None)
    latents = autoencoder.requires_grad_(False).to_latents(images, draw)
    spread = float(autoencoder.to_latents(render(rows, draw), draw).std())  # of fresh pictures
    run.claim(
        "scaled latents have deviation 1",
        spread,
        at_least=0.95,
        at_most=1.05,
        deterministic=True,
        rtol=None,
    )
    models, losses = {}, {}
    arms = ("captions", "shuffled captions")
    for name in run.budget(quick=arms, default=arms[:1], full=arms):
        used = ids if name == "captions" else ids[torch.randperm(n, generator=draw)]
        model, draws = LatentDiffusion.small(run.generator(7), autoencoder), run.generator(8)

        def loss(model=model, used=used, draws=draws) -> Tensor:
            i = torch.randint(n, (32,), generator=draws)
            return model.loss(latents[i], used[i], draws)

        steps = run.budget(quick=3, default=450, full=6000)
        losses[name], models[name] = fit(model, loss, steps=steps, lr=4e-3), model
        late = losses[name][-max(len(losses[name]) // 10, 1) :]
        run.metric(f"loss at the end, {name}", statistics.mean(late), rtol=None)
    judge(run, models, scenes, held_out, reader)


def accuracies(
    model: LatentDiffusion, scenes: Sequence[Scene], reader: Reader, guidance: float, each: int
) -> Tensor:
    """Per scene, over `each` pictures and both word orders: color, shape, ground, all three."""
    wanted = [scene for scene in scenes for _ in range(each)]
    ids = encoded([caption(scene, i % 2) for i, scene in enumerate(wanted)])
    draw = torch.Generator().manual_seed(9)  # the same noise for all
    noise = torch.randn(len(wanted), *model.latent_shape, generator=draw)
    right = reader.right(model.generate(ids, noise, guidance=guidance), wanted)
    right = torch.cat([right, right.prod(1, keepdim=True)], dim=1)
    return right.unflatten(0, (len(scenes), each)).mean(1)


def judge(
    run: Run, models: dict, scenes: list[Scene], held_out: list[Scene], reader: Reader
) -> None:
    """Shares of pictures in which a net that knows no captions sees what the caption asked for."""
    each, model = run.budget(quick=2, default=4, full=16), models["captions"]
    scenes = scenes[: run.budget(quick=2, default=26, full=52)]
    seen = {w: accuracies(model, scenes, reader, w, each) for w in SCALES}
    new = {w: accuracies(model, held_out, reader, w, 2 * each) for w in (1.0, STEERING)}
    late = {"quick": False, "rtol": None}
    steers, note = "captions steer the picture", "one denoiser; n combinations; chance is 0.016"
    late["seen_before"] = "0.2 right with two thirds and half as many steps"
    run.claim(steers, seen[STEERING][:, 3], at_least=0.5, note=note, **late)
    if "shuffled captions" in models:
        control = accuracies(models["shuffled captions"], scenes, reader, STEERING, each)
        run.falsifier("captions of other pictures", control[:, 3], breaks=steers)
    run.falsifier("w = 0", seen[0.0][:, 3], breaks=steers)
    combined = "held-out combinations are drawn"
    run.claim(combined, new[STEERING][:, 3], at_least=0.25, note=note, **late)
    more = seen[STEERING][:, 3] - seen[1.0][:, 3]
    run.claim("guidance helps, w = 3 against 1", more, at_least=0.0, **late)
    for i, name in enumerate((*ATTRIBUTES, "all three")):
        run.metric(f"right, {name}", float(seen[STEERING][:, i].mean()), rtol=None)
        run.metric(f"right, {name}, held out", float(new[STEERING][:, i].mean()), rtol=None)
        run.metric(f"right, {name}, w = 0", float(seen[0.0][:, i].mean()), rtol=None)
    title = "Does the picture show what the caption says?"
    with run.figure("guidance", title) as axes:
        lines = {
            name: [float(seen[w][:, i].mean()) for w in SCALES]
            for i, name in enumerate((*ATTRIBUTES, "all three"))
        }
        labels = {"xlabel": "guidance w", "ylabel": "share of pictures", "ylim": (0, 1.05)}
        plots.curves(axes, SCALES, lines, marker="o", reference={"chance of one": 0.25}, **labels)
    draw_pictures(run, model, held_out[:6])


def draw_pictures(run: Run, model: LatentDiffusion, scenes: list[Scene]) -> None:
    """Pictures for captions never seen, at growing guidance, from the same noise."""
    ids = encoded([caption(scene) for scene in scenes])
    noise = torch.randn(1, *model.latent_shape, generator=run.generator(10))
    noise = noise.expand(len(scenes), -1, -1, -1)
    title = "What does one noise become under captions that were never seen?"
    size = {"rows": len(SCALES), "columns": len(scenes), "size": (11, 6.4)}
    with run.figure("pictures", title, **size) as grid:
        for row, w in zip(grid, SCALES, strict=True):
            found = model.generate(ids, noise, guidance=w)
            for axes, image, scene in zip(row, found, scenes, strict=True):
                axes.imshow((image.permute(1, 2, 0) / 2 + 0.5).clamp(0, 1))
                axes.set(xticks=[], yticks=[])
                if w == SCALES[0]:
                    axes.set_title(caption(scene).replace(" on", "\non"), fontsize=8)
            row[0].set_ylabel(f"w = {w:g}")


def random_weights(module: nn.Module, draw: torch.Generator) -> nn.Module:
    """As after some training: nothing is zero any more."""
    with torch.no_grad():
        for p in module.parameters():
            scale = p[0].numel() ** -0.5 if p.ndim > 1 else 0.3
            p.add_(scale * torch.randn(p.shape, generator=draw))
    return module


def check_networks(run: Run) -> None:
    """The same random weights: outputs, and gradients of the U-Net."""
    draw, close = run.generator(11), {"atol": 1e-5, "rtol": 1e-5, "why": "float32 rounding"}
    randn = lambda *shape: torch.randn(shape, generator=draw)  # noqa: E731
    config = UNetConfig(4, (32, 64), (True, False), 1, n_heads=4, memory_dim=32, n_groups=8)
    ours, t = random_weights(UNet(config, draw), draw), torch.tensor([3, 950])
    x, memory, theirs = randn(2, 4, 4, 4), randn(2, 9, 32), unet_twin(ours)
    equal = run.against("diffusers.UNet2DConditionModel", **close)
    outputs = ours(x, t, memory), theirs(x, t, memory).sample
    equal("noise that the U-Net predicts", *outputs)
    for y in outputs:
        y.square().mean().backward()
    their = dict(theirs.named_parameters())
    own = {renamed(name, UNET): p.grad for name, p in ours.named_parameters()}
    flat = [
        torch.cat([g.flatten() for g in grads])
        for grads in (own.values(), (their[name].grad for name in own))
    ]
    equal("gradients of the U-Net", *flat)
    ours = random_weights(Autoencoder(AutoencoderConfig(3, 4, (8, 16), 1, 4), draw), draw)
    theirs, x, z = autoencoder_twin(ours), randn(2, 3, 8, 8), randn(2, 4, 4, 4)
    equal = run.against("diffusers.AutoencoderKL", **close)
    own, their = ours.encode(x), theirs.encode(x).latent_dist
    equal("mean of the code", own.mean, their.mean)
    equal("divergence of the code", own.kl(), their.kl())
    equal("decoded image", ours.decode(z), theirs.decode(z).sample)
    ours = random_weights(TextEncoder(TextConfig(20, 9, 32, 4, 2, 64), draw), draw)
    ids = torch.tensor([[0, 4, 7, 1, 1, 1, 1, 1, 1], [0, 5, 19, 12, 3, 8, 2, 9, 1]])
    theirs, hidden = text_twin(ours, end=1)(ids), ours(ids)
    equal = run.against("transformers.CLIPTextModel", **close)
    equal("memory of captions", hidden, theirs.last_hidden_state)
    equal("vector at the end of the text", at_end(hidden, ids, 1), theirs.pooler_output)


def check_pipeline(run: Run) -> None:
    """Same weights, captions and noise: latents after each step, and the pictures."""
    model = random_weights(LatentDiffusion.small(run.generator(12)), run.generator(13))
    model.autoencoder.scale = 0.7
    ids = encoded(["a red plus on white", "on gray a blue disc"])
    noise = torch.randn(2, *model.latent_shape, generator=run.generator(14))
    steps, images = run_pipeline(model, ids, noise, guidance=3.0, steps=5)
    tolerance = {"atol": 1e-4, "rtol": 1e-4, "why": "float32 rounding over five guided steps"}
    equal = run.against("diffusers.StableDiffusionPipeline", **tolerance)
    seen: list[Tensor] = []
    inner = guided(model.unet, model.text_encoder(ids), model.text_encoder(model.empty), 3.0)
    watched = lambda x, t: seen.append(x) or inner(x, t)  # noqa: E731
    last = sample_ddim(watched, model.schedule, noise, steps=5, kind=model.kind)
    equal("latents after each of five steps", torch.stack([*seen[1:], last]), torch.stack(steps))
    found = (model.generate(ids, noise, guidance=3.0, steps=5) / 2 + 0.5).clamp(0, 1)
    equal("pictures", found, images)
