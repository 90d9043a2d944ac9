"""The vision transformer against torch's and transformers', 2-D RoPE, rollout, and its judge."""

import dataclasses
import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from shared.run import Run
from week09.schedules import one_cycle
from week25.evidence import vit as judge
from week25.evidence.vit_twins import (
    encoder_twin,
    flat,
    from_transformers,
    gradients,
    library_twins,
    randomize,
    torch_names,
)
from week25.shrunk_mnist import Split, halve, split
from week25.vit import (
    ViT,
    ViTConfig,
    distillation_loss,
    patches_of,
    resize_positions,
    rollout,
    rope_2d,
    train,
)

seeds = st.integers(0, 9999)
SMALL = ViTConfig(12, 4, channels=3, n_classes=5, d_model=16, n_heads=2, d_ff=24)


def chance(seed):
    return torch.Generator().manual_seed(seed)


def pictures(config, n, seed):
    shape = (n, config.channels, config.image_size, config.image_size)
    return torch.randn(shape, generator=chance(seed), dtype=torch.double)


# ---- patches and positions


@given(seeds, st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_patches_are_those_of_unfold(seed, size, rows, columns, channels):
    shape = (2, channels, size * rows, size * columns)
    x = torch.randn(shape, generator=chance(seed))
    assert torch.equal(patches_of(x, size), F.unfold(x, size, stride=size).mT)


@given(seeds, st.sampled_from([(8, 2), (9, 3), (6, 6)]))
def test_embedding_is_a_linear_map_of_patches(seed, sizes):
    config = ViTConfig(*sizes, channels=2, d_model=8, n_heads=2)
    model, x = ViT(config, chance(seed)).double(), pictures(config, 3, seed)
    slow = patches_of(x, config.patch_size) @ model.embed.weight.flatten(1).T + model.embed.bias
    tokens = model.tokens(x)
    torch.testing.assert_close(tokens[:, 1:] - model.positions[1:], slow)
    front = (model.special + model.positions[:1]).expand(3, 1, 8)
    torch.testing.assert_close(tokens[:, :1], front)


@given(seeds, st.integers(1, 5), st.integers(1, 6), st.integers(1, 2))
def test_positions_at_another_resolution(seed, old, new, special):
    table = torch.randn(special + old**2, 3, generator=chance(seed))
    found = resize_positions(table, new, n_special=special)
    assert torch.equal(found[:special], table[:special])
    grid = table[special:].view(1, old, old, 3).permute(0, 3, 1, 2)
    reference = F.interpolate(grid, (new, new), mode="bicubic")[0].permute(1, 2, 0).flatten(0, 1)
    torch.testing.assert_close(found[special:], reference)
    if old == new:
        torch.testing.assert_close(found, table, atol=1e-5, rtol=1e-5)


@given(seeds, st.integers(2, 5), st.integers(0, 3), st.integers(0, 3))
def test_turned_scores_depend_on_relative_places(seed, side, down, right):
    down, right = down % side, right % side
    q, k = torch.randn(2, 1, 2, 1, 8, generator=chance(seed), dtype=torch.double)
    turned = [rope_2d(x.expand(1, 2, side**2, 8), side, n_special=0)[0] for x in (q, k)]
    scores = (turned[0] @ turned[1].mT).view(2, side, side, side, side)
    moved = scores[:, down:, right:, down:, right:]
    stay = scores[:, : side - down, : side - right, : side - down, : side - right]
    torch.testing.assert_close(moved, stay, atol=1e-5, rtol=1e-5)


def test_rows_and_columns_turn_different_halves():
    x = torch.ones(1, 1, 10, 8)
    found = rope_2d(x, 3, n_special=1)[0, 0]
    assert torch.equal(found[0], x[0, 0, 0])  # the class token stands nowhere
    grid = found[1:].view(3, 3, 8)
    assert torch.equal(grid[1, 0, :4], grid[1, 2, :4])  # one row, one turn of the first half
    assert torch.equal(grid[0, 2, 4:], grid[1, 2, 4:])
    assert not torch.allclose(grid[0, 0, :4], grid[1, 0, :4])
    assert not torch.allclose(grid[0, 0, 4:], grid[0, 1, 4:])
    angle = torch.tensor(1.0)
    expected = angle.cos() - angle.sin()
    torch.testing.assert_close(grid[1, 0, 0], expected)  # first pair: one radian per row
    slow = torch.tensor(0.1)  # 100 ** -(1/2) per row for the second of two pairs
    torch.testing.assert_close(grid[1, 0, 1], slow.cos() - slow.sin())


# ---- the model


@settings(max_examples=8)
@given(seeds, st.integers(1, 3), st.sampled_from([1, 2, 4]), st.sampled_from([None, 5]))
def test_the_stream_is_that_of_torch(seed, layers, heads, d_ff):
    config = ViTConfig(8, 4, d_model=8, n_layers=layers, n_heads=heads, d_ff=d_ff)
    model, x = randomize(ViT(config), chance(seed)).double(), pictures(config, 3, seed)
    theirs = encoder_twin(model)
    ours, reference = model.hidden_states(x)[-1], theirs(model.tokens(x).detach())
    torch.testing.assert_close(ours, reference, atol=1e-8, rtol=1e-8)
    direction = torch.randn(ours.shape, generator=chance(seed + 1), dtype=torch.double)
    inner = nn.ModuleDict({"blocks": model.blocks, "norm": model.norm})
    mine = torch_names(gradients(inner, (ours * direction).sum()))
    their = gradients(theirs, (reference * direction).sum())
    torch.testing.assert_close(flat(mine), flat(their), atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize("distilled", [False, True])
def test_equals_transformers(distilled):
    config = dataclasses.replace(SMALL, distilled=distilled)
    ours, theirs = (model.double() for model in library_twins(config, 3))
    x, y = pictures(config, 6, 1), torch.arange(6) % 5
    logits = ours(x), theirs(x).logits
    torch.testing.assert_close(*logits, atol=1e-9, rtol=1e-9)
    losses = [F.cross_entropy(z, y) for z in logits]
    mine, their = gradients(ours, losses[0]), from_transformers(gradients(theirs, losses[1]))
    torch.testing.assert_close(flat(mine), flat(their), atol=1e-9, rtol=1e-7)
    if distilled:
        found = theirs(x)
        by_token = torch.stack([found.cls_logits, found.distillation_logits], 1)
        torch.testing.assert_close(ours.by_token(x), by_token, atol=1e-9, rtol=1e-9)
    else:
        states = theirs.vit(x)
        torch.testing.assert_close(
            ours.hidden_states(x)[-1], states.last_hidden_state, atol=1e-9, rtol=1e-9
        )


def test_first_steps_are_those_of_torchs_adamw():
    ours, theirs = (model.double() for model in library_twins(SMALL, 4))
    x, y, g = pictures(SMALL, 7, 2), torch.arange(7) % 5, chance(5)
    optimizer, losses = torch.optim.AdamW(theirs.parameters()), []
    for step in range(3):
        optimizer.param_groups[0]["lr"] = 0.02 * one_cycle(step, steps=4)
        rows = torch.randint(7, (4,), generator=g)
        loss = F.cross_entropy(theirs(x[rows]).logits, y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    found = train(ours, x, y, lr=0.02, steps=3, generator=chance(5), batch_size=4)
    torch.testing.assert_close(found, torch.stack(losses), atol=1e-9, rtol=1e-9)
    stepped = from_transformers(dict(theirs.named_parameters()))
    torch.testing.assert_close(flat(ours.state_dict()), flat(stepped), atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize("positions", ["learned", "rope", "none"])
def test_a_picture_in_a_batch_is_as_alone(positions):
    model = ViT(dataclasses.replace(SMALL, positions=positions), chance(0)).double()
    x = pictures(SMALL, 4, 3)
    alone = torch.cat([model(x[[i]]) for i in range(4)])
    torch.testing.assert_close(model(x), alone)


@pytest.mark.parametrize(
    ("positions", "same"), [("none", True), ("learned", False), ("rope", False)]
)
def test_only_without_places_shuffled_patches_are_the_same(positions, same):
    config = ViTConfig(16, 4, d_model=16, n_heads=2, positions=positions)
    model, x = randomize(ViT(config), chance(1)).double(), pictures(config, 3, 4)
    mixed = judge.shuffled(x, chance(5))
    assert torch.equal(patches_of(mixed, 4).sort(1)[0].sum(), patches_of(x, 4).sort(1)[0].sum())
    assert not torch.equal(mixed, x)
    assert torch.allclose(model(x), model(mixed), atol=1e-8) == same


def test_seeds_decide_all_weights():
    first, second, other = (flat(ViT(SMALL, chance(s)).state_dict()) for s in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


# ---- rollout


@settings(max_examples=10)
@given(seeds, st.integers(1, 3), st.integers(2, 4))
def test_rollout_sums_over_paths(seed, layers, tokens):
    shape = (layers, 2, 3, tokens, tokens)
    maps = torch.randn(shape, generator=chance(seed), dtype=torch.double).softmax(-1)
    half = (maps.mean(2) + torch.eye(tokens)) / 2
    expected = torch.zeros(2, tokens, tokens, dtype=torch.double)
    for path in itertools.product(range(tokens), repeat=layers + 1):  # from the output down
        steps = zip(reversed(range(layers)), itertools.pairwise(path), strict=True)
        weight = torch.stack([half[layer, :, i, j] for layer, (i, j) in steps]).prod(0)
        expected[:, path[0], path[-1]] += weight
    found = rollout(maps)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found.sum(-1), torch.ones(2, tokens, dtype=torch.double))


def test_attention_maps_are_what_the_blocks_average_with():
    config = dataclasses.replace(SMALL, positions="rope")
    model, x = randomize(ViT(config), chance(2)).double(), pictures(SMALL, 2, 5)
    maps, states = model.attention_maps(x), model.hidden_states(x)
    assert maps.shape == (2, 2, 2, 10, 10)
    block = model.blocks[1]
    h = block.residuals[0].norm(states[1])
    v = block.self_attention.v_proj(h).unflatten(-1, (2, 8)).transpose(1, 2)
    mixed = block.self_attention.out_proj((maps[1] @ v).transpose(1, 2).flatten(2))
    x = states[1] + mixed
    end = model.norm(x + block.feed_forward(block.residuals[1].norm(x)))
    torch.testing.assert_close(end, states[2])


# ---- distillation, data, bad input


def test_each_head_has_its_teacher():
    by_token = torch.tensor([[[2.0, 0.0], [0.0, 3.0]]])
    y, teacher = torch.tensor([0]), torch.tensor([[0.1, 0.2]])
    right, alike = torch.tensor(-2.0).exp().log1p(), torch.tensor(-3.0).exp().log1p()
    torch.testing.assert_close(distillation_loss(by_token, y, teacher), (right + alike) / 2)
    away = distillation_loss(by_token, y, -teacher)
    torch.testing.assert_close(away, (right + 3 + alike) / 2)


def test_mnist_is_halved_and_framed():
    data = split(0, 30, 20, rim=1)
    assert data.x.shape == (30, 1, 16, 16)
    assert data.x_test.shape == (20, 1, 16, 16)
    assert data.x[:, :, 0].abs().max() == 0
    assert 0.8 < data.x.max() <= 1
    assert torch.equal(split(0, 30, 20).x, data.x[:, :, 1:-1, 1:-1])
    images = torch.arange(2 * 4 * 6, dtype=torch.uint8).view(2, 4, 6)
    mean = images[1, 2:4, 4:6].float().mean() / 255
    torch.testing.assert_close(halve(images)[1, 0, 1, 2], mean)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: ViTConfig(14, 4), "patch_size must divide image_size = 14, got 4"),
        (lambda: ViTConfig(8, 4, n_layers=0), "n_layers must be at least 1, got 0"),
        (lambda: ViTConfig(8, 4, positions="fixed"), 'positions must be "learned", "rope" or'),
        (lambda: ViT(ViTConfig(8, 4, d_model=6)), "n_heads must divide d_model = 6, got 4"),
        (lambda: ViT(SMALL)(torch.zeros(1, 3, 16, 16)), r"of shape \(3, 12, 12\) each, got"),
        (lambda: patches_of(torch.zeros(1, 1, 6, 8), 4), r"size must divide height and width"),
        (lambda: patches_of(torch.zeros(6, 8), 2), "images must be floats of shape"),
        (
            lambda: rope_2d(torch.zeros(1, 1, 5, 8), 2, n_special=0),
            r"n_special \+ side² tokens, got 5",
        ),
        (lambda: rope_2d(torch.zeros(1, 1, 4, 6), 2, n_special=0), "multiple of 4, got 6"),
        (lambda: resize_positions(torch.zeros(4, 2), 2, n_special=1), "a square of patches, got 3"),
        (lambda: split(0, 0, 5), "n must be between 1 and 60000, got 0"),
    ],
)
def test_bad_input_is_named(call, match):
    with pytest.raises(ValueError, match=match):
        call()


# ---- the judge


def made_up(x, y):
    return Split(x, y, x, y)


def test_the_loss_has_fallen_by_a_share():
    assert judge.fallen(torch.linspace(2.0, 0.2, 10)) == pytest.approx(0.9)
    assert judge.fallen(torch.ones(30)) == 0


def judged(tmp_path, monkeypatch, right):
    """The judge with accuracies that are made up, by kind and in the order of its calls."""
    left, names = {k: list(v) for k, v in right.items()}, []

    def fit(kind, data, seed, steps):
        shuffled_labels = not torch.equal(data.y, data.y_test)
        kind = "control" if shuffled_labels else "shuffled" if kind in names[-3:] else kind
        names.append(kind)
        flat_losses = torch.ones(10)
        falling = torch.linspace(2, 0.5, 10)
        return kind, flat_losses if kind == "control" else falling

    x, y = torch.zeros(40, 1, 16, 16), torch.arange(40) % 10
    monkeypatch.setattr(judge, "fit", fit)
    monkeypatch.setattr(judge, "split", lambda seed, n, n_test, rim: made_up(x, y))
    monkeypatch.setattr(judge, "accuracy", lambda kind, x, y: left[kind].pop(0))
    monkeypatch.setattr(judge, "blind", lambda *found: None)
    monkeypatch.setattr(judge, "look", lambda *found: None)
    run = Run(judge_file(), out=tmp_path, quiet=True)
    judge.learn(run, 3, 10, 40)
    return run


def judge_file():
    from shared import records

    return records.ROOT / "weeks" / "25" / "vit.py"


def test_judging_by_made_up_accuracies(tmp_path, monkeypatch):
    right = {"learned": [90, 91, 92], "rope": [93, 95, 94], "none": [80, 80, 81]}
    run = judged(tmp_path, monkeypatch, right | {"shuffled": [80, 81, 80]})
    falls, places, rope = run.claims
    assert [c["verdict"] for c in run.claims] == ["holds", "holds", "holds"]
    assert falls["mean"] == pytest.approx(0.75)
    assert places["mean"] == pytest.approx(32 / 3)
    assert rope["mean"] == pytest.approx(3)
    assert all(f["broken"] for f in run.falsifiers)
    assert run.falsifiers[1]["mean"] == pytest.approx(0)
