"""Our transformer against those of torch and transformers, and what places are worth to it."""

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared import plots
from shared.study import PositiveInt, Run
from week09.schedules import one_cycle
from week10.cnn_ablations import accuracy
from week25.evidence.vit_twins import (
    encoder_twin,
    flat,
    from_transformers,
    gradients,
    library_twins,
    randomize,
    torch_names,
)
from week25.shrunk_mnist import Split, split
from week25.vit import ViT, ViTConfig, patches_of, resize_positions, rollout, rope_2d, train

KINDS = ("learned", "rope", "none")


def main(
    run: Run, *, seeds: PositiveInt = 3, steps: PositiveInt = 350, n: PositiveInt = 4000
) -> None:
    """Check the parts, then train with and without places.

    Parameters
    ----------
    seeds
        Splits of MNIST, each with networks of its own.
    steps
        Of each training, on batches of 32.
    n
        Training pictures.
    """
    run.rounding(0.05, "some hundred steps in float32")
    check_patches(run)
    check_encoder(run)
    check_rope(run)
    check_rollout(run)
    if run.mode != "quick":  # its import alone takes longer than a quick run
        check_transformers(run)
    seeds = run.budget(quick=2, default=max(seeds, 2), full=max(seeds, 8))
    steps = run.budget(quick=6, default=steps, full=10 * steps)
    learn(run, seeds, steps, n=run.budget(quick=60, default=n, full=10 * n))


# ---- checks


def check_patches(run: Run) -> None:
    """A strided convolution is a linear map of patches."""
    g = run.generator()
    images = torch.randn(2, 3, 12, 12, generator=g, dtype=torch.double)
    found = patches_of(images, 4)
    theirs = F.unfold(images, 4, stride=4).transpose(1, 2)
    run.check("patches", found, theirs, against="F.unfold", why="the same numbers are moved")
    model = ViT(ViTConfig(12, 4, channels=3, d_model=8, n_heads=2), g).double()
    slow = found @ model.embed.weight.flatten(1).T + model.embed.bias
    fast = model.embed(images).flatten(2).mT
    why = {"against": "patches times a matrix", "why": "float64 rounding", "atol": 1e-12}
    run.check("convolution of stride 4", fast, slow, kind="consistency", **why)


def check_encoder(run: Run) -> None:
    """The stream after all layers, and its gradients, by torch's own pre-norm layers."""
    g = run.generator(1)
    model = randomize(ViT(ViTConfig(8, 4, d_model=12, n_heads=3, d_ff=20)), g).double()
    images = torch.randn(3, 1, 8, 8, generator=g, dtype=torch.double)
    theirs = encoder_twin(model)
    ours, reference = model.hidden_states(images)[-1], theirs(model.tokens(images).detach())
    same = run.against("nn.TransformerEncoder(norm_first=True)", atol=1e-9, why="float64 rounding")
    same("the stream after two layers", ours, reference)
    direction = torch.randn(ours.shape, generator=g, dtype=torch.double)
    inner = nn.ModuleDict({"blocks": model.blocks, "norm": model.norm})
    mine = torch_names(gradients(inner, (ours * direction).sum()))
    their = gradients(theirs, (reference * direction).sum())
    same("gradients of its layers", flat(mine), flat(their))


def check_rope(run: Run) -> None:
    """Turned by row and column as complex numbers; scores by relative places alone."""
    g = run.generator(2)
    q, k = torch.randn(2, 1, 1, 1, 8, generator=g, dtype=torch.double)
    grid = [rope_2d(x.expand(1, 1, 25, 8), 5, n_special=0)[0, 0] for x in (q, k)]
    row, column = (p.flatten() for p in torch.meshgrid(*[torch.arange(5)] * 2, indexing="ij"))
    theta = 100 ** -torch.tensor([0.0, 0.5], dtype=torch.double)

    def as_complex(x: Tensor) -> Tensor:
        return torch.complex(x[..., [0, 1, 4, 5]], x[..., [2, 3, 6, 7]])

    angles = torch.cat([row[:, None] * theta, column[:, None] * theta], dim=1)
    reference = as_complex(q[0, 0]) * torch.polar(torch.ones_like(angles), angles)
    exact = run.against("a closed form", kind="theorem", atol=1e-6, why="angles in float32")
    turned = torch.view_as_real(as_complex(grid[0]))
    exact("queries on a 5 × 5 grid", turned, torch.view_as_real(reference))
    scores = (grid[0] @ grid[1].T).view(5, 5, 5, 5)
    moved = scores[1:, 2:, 1:, 2:]
    exact("scores after moving all by (1, 2)", moved, scores[:-1, :-2, :-1, :-2].clone())


def check_rollout(run: Run) -> None:
    """Sums over all paths of three layers, one after another."""
    maps = torch.rand(3, 1, 2, 4, 4, generator=run.generator(3), dtype=torch.double).softmax(-1)
    a = (maps[:, 0].mean(1) + torch.eye(4)) / 2
    paths = torch.zeros(4, 4, dtype=torch.double)
    for i, j, k, m in torch.cartesian_prod(*[torch.arange(4)] * 4).tolist():
        paths[i, m] += a[2, i, j] * a[1, j, k] * a[0, k, m]
    why = {"against": "a sum over paths", "kind": "theorem", "why": "float64 rounding"}
    run.check("rollout", rollout(maps)[0], paths, atol=1e-12, **why)


def check_transformers(run: Run) -> None:
    """Logits, gradients and the first steps of AdamW with copied weights; another resolution."""
    config = ViTConfig(12, 4, channels=3, n_classes=5, d_model=16, n_heads=2, d_ff=24)
    images = torch.randn(6, 3, 12, 12, generator=run.generator(4), dtype=torch.double)
    labels = torch.arange(6) % 5
    why = {"atol": 1e-9, "why": "float64 rounding, which Adam magnifies"}
    same = run.against("transformers ViTForImageClassification", **why)
    ours, theirs = (model.double() for model in library_twins(config, run.seed))
    logits = ours(images), theirs(images).logits
    same("logits", *logits)
    mine = gradients(ours, F.cross_entropy(logits[0], labels))
    their = from_transformers(gradients(theirs, F.cross_entropy(logits[1], labels)))
    same("gradients of all weights", flat(mine), flat(their))
    resized = theirs.vit.embeddings.interpolate_pos_encoding(images.new_zeros(1, 26, 16), 20, 20)[0]
    same("positions for 5 × 5 patches", resize_positions(ours.positions, 5, n_special=1), resized)
    optimizer, order = torch.optim.AdamW(theirs.parameters()), run.generator(5)
    for step in range(3):
        optimizer.param_groups[0]["lr"] = 1e-2 * one_cycle(step, steps=4)
        rows = torch.randint(6, (4,), generator=order)
        optimizer.zero_grad()
        F.cross_entropy(theirs(images[rows]).logits, labels[rows]).backward()
        optimizer.step()
    train(ours, images, labels, lr=1e-2, steps=3, generator=run.generator(5), batch_size=4)
    stepped = from_transformers(dict(theirs.named_parameters()))
    same("weights after three steps", flat(ours.state_dict()), flat(stepped))

    distilled = dataclasses.replace(config, distilled=True)
    ours, theirs = (model.double() for model in library_twins(distilled, run.seed + 1))
    found = theirs(images)
    by_token = torch.stack([found.cls_logits, found.distillation_logits], dim=1)
    deit = run.against("transformers DeiTForImageClassificationWithTeacher", **why)
    deit("logits of both heads", ours.by_token(images), by_token)
    deit("their mean", ours(images), found.logits)


# ---- what places are worth


def shuffled(x: Tensor, generator: torch.Generator) -> Tensor:
    """The patches of each picture in an order of its own."""
    patches = patches_of(x, 4)
    order = torch.rand(patches.shape[:2], generator=generator).argsort(dim=1)
    mixed = patches.gather(1, order[..., None].expand_as(patches))
    return F.fold(mixed.mT, x.shape[2:], 4, stride=4)


def fit(kind: str, data: Split, seed: int, steps: int) -> tuple[ViT, Tensor]:
    """A network of some 18,000 weights and its losses; all see the same batches."""
    config = ViTConfig(16, 4, d_model=32, d_ff=64, positions=kind)
    model = ViT(config, torch.Generator().manual_seed(seed))
    g = torch.Generator().manual_seed(1000 + seed)
    return model, train(model, data.x, data.y, lr=0.01, steps=steps, generator=g)


def fallen(losses: Tensor) -> float:
    """By which share the loss has fallen, from the first tenth of steps to the last."""
    n = max(1, len(losses) // 10)
    return float(1 - losses[-n:].mean() / losses[:n].mean())


def learn(run: Run, seeds: int, steps: int, n: int) -> None:
    """A table of places, turned ones and none; shuffled patches; labels that say nothing."""
    right: dict[str, list[float]] = {kind: [] for kind in (*KINDS, "shuffled")}
    falls, control = [], []
    for seed in run.progress(range(run.seed, run.seed + seeds), "splits"):
        g = torch.Generator().manual_seed(2000 + seed)
        data = split(seed, n, run.budget(quick=50, default=1000, full=5000), rim=1)
        mixed = data._replace(x=shuffled(data.x, g), x_test=shuffled(data.x_test, g))
        strangers = data._replace(y=data.y[torch.randperm(n, generator=g)])
        models = {}
        for kind in KINDS:
            models[kind], losses = fit(kind, data, seed, steps)
            right[kind].append(accuracy(models[kind], data.x_test, data.y_test))
            if kind == "learned":
                falls.append(fallen(losses))
        model, _ = fit("learned", mixed, seed, steps)
        right["shuffled"].append(accuracy(model, mixed.x_test, data.y_test))
        control.append(fallen(fit("learned", strangers, seed, steps)[1]))
    late = {"quick": False, "rtol": None}
    falling = "the loss falls by more than half"
    run.claim(falling, falls, at_least=0.5, each=True, **late)
    run.falsifier("with labels of other rows", control, breaks=falling)
    points = {name: torch.tensor(values).double() for name, values in right.items()}
    places = "a table of places is worth five points"
    run.claim(places, points["learned"] - points["none"], at_least=5, unit="points", **late)
    run.falsifier("patches shuffled", points["shuffled"] - points["none"], breaks=places)
    gain = points["rope"] - points["learned"]
    run.claim("2-D RoPE is ahead of the table", gain, at_least=0, unit="points", **late)
    for name, values in points.items():
        run.metric(f"right, {name}", values.mean(), "%", rtol=None)
    with run.figure("places", "What is it worth to know where a patch stands?") as axes:
        names = dict(
            zip(right, ("table", "2-D RoPE", "none", "table, patches shuffled"), strict=True)
        )
        bars = {names[kind]: values for kind, values in points.items()}
        limits = {"xlim": (0, 100), "xlabel": "right, % of test digits (each split a dot)"}
        plots.bars(axes, bars, reference={"chance": 10}, **limits)
    blind(run, models["none"], data.x_test, g)
    look(run, models["learned"], data.x_test)


@torch.no_grad()
def blind(run: Run, model: ViT, x: Tensor, generator: torch.Generator) -> None:
    """Without places a picture and its shuffled patches are one and the same."""
    x = x[:10]
    mixed = shuffled(x, generator)
    why = {"against": "those of shuffled patches", "kind": "theorem", "why": "float32 rounding"}
    run.check("logits without places", model(x), model(mixed), atol=1e-4, **why)
    with run.figure(
        "blind", "Without places, these are the same to it", 2, 10, size=(9, 2.5)
    ) as axes:
        said = model(x).argmax(1).tolist()
        for ax, picture, digit in zip(axes.flat, torch.cat([x, mixed]), said * 2, strict=True):
            ax.imshow(picture[0], cmap="gray_r", vmin=0, vmax=1)
            ax.set_title(f"“{digit}”", size=10)
            ax.set_axis_off()


@torch.no_grad()
def look(run: Run, model: ViT, x: Tensor) -> None:
    """Where the class token takes from, through both layers."""
    x = x[:10]
    seen = rollout(model.attention_maps(x))[:, 0, 1:].view(-1, 1, 4, 4)
    ink = patches_of(x, 4).sum(-1).view_as(seen) > 0.1
    run.metric("rollout on patches with ink", float((seen * ink).sum() / seen.sum()), rtol=None)
    run.metric("patches with ink", float(ink.double().mean()))
    with run.figure("rollout", "Where does the class token look?", 2, 10, size=(9, 2.5)) as axes:
        for i in range(10):
            axes[0, i].imshow(x[i, 0], cmap="gray_r", vmin=0, vmax=1)
            axes[1, i].imshow(seen[i, 0], cmap="Blues", vmin=0, vmax=float(seen.max()))
        for ax in axes.flat:
            ax.set_axis_off()
