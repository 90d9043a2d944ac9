"""Stages are the block, inputs are those of the compressed model, one Hessian lives at a time."""

import copy
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compress.artifact import folder
from compress.artifact.folder import load, save
from compress.artifact.packing import unpack
from compress.methods.matrix import compress_matrix
from compress.methods.rounding import rtn
from compress.models.testing import tiny_model
from compress.pipeline import passes
from compress.pipeline.recipe import Recipe, recipe_from
from compress.pipeline.run import compress
from compress.pipeline.stages import READ, begin, head_reads, looked_at, measure, stages
from compress.pipeline.steps import Pass, Quantize, Structured
from compress.pipeline.structured import influence, shrink
from shared.errors import UserError
from week18.llama3 import Llama, LlamaConfig
from week19.folding import LAYERS, READERS
from week19.layer_inputs import block_inputs
from week27.structured_pruning import head_scores, neuron_scores

FULL = [{"quantize": {"bits": 4, "group_size": 16}}]


@given(st.integers(0, 99), st.sampled_from([1, 2, 4]), st.integers(1, 3), st.integers(1, 9))
def test_stages_are_the_block(seed, n_kv_heads, batch, seq):
    config = LlamaConfig(13, 16, 1, 4, n_kv_heads, d_ff=12)
    model = Llama(config, torch.Generator().manual_seed(seed))
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, seq, 16, generator=g)
    waves = model.waves(torch.arange(seq), None)
    *read, (_, y) = stages(model.blocks[0], x, *waves, weighted=False)
    expected, inputs = block_inputs(model.blocks[0], x, *waves)
    torch.testing.assert_close(y, expected, rtol=0, atol=0)
    assert [name for name, _ in read] == list(READ)
    for name, seen in read:
        ours, theirs = (
            measure(seen.split(1)),
            inputs["q_proj" if name in ("k_proj", "v_proj") else name],
        )
        for field in ("h", "mean", "most"):
            torch.testing.assert_close(getattr(ours, field), getattr(theirs, field))


def test_layers_that_come_next_may_be_changed_between_stages():
    opened, text = tiny_model(0)
    block = opened.model.blocks[0]
    xs, waves = begin(opened.model, text.ids[:1], text.ids.shape[1])
    running = stages(block, xs[0], *waves)
    for _, names in READ.items():
        next(running)
        for name in names:
            block.get_submodule(name).weight.data.mul_(0.5)
    assert torch.equal(next(running)[1], block(xs[0], *waves))


def test_each_layer_is_compressed_by_what_it_reads_in_the_compressed_model(monkeypatch):
    opened, text = tiny_model(0)
    seen = {}

    def spy(w, inputs, **options):
        weight, record = compress_matrix(w, inputs, **options)
        seen[len(seen)] = inputs.h.clone()
        return weight, record

    monkeypatch.setattr(passes, "compress_matrix", spy)
    plain = [{"quantize": FULL[0]["quantize"] | {"weighted": False}}]
    done = compress(opened, recipe_from(plain), text)
    x, waves = done.model.embed(text.ids), done.model.waves(torch.arange(24), None)
    number = 0
    for block in done.model.blocks:
        x, inputs = block_inputs(block, x, *waves)  # of the finished model
        for reader, names in READERS.items():
            for _ in names:
                torch.testing.assert_close(seen[number], inputs[reader].h, rtol=1e-4, atol=1e-5)
                number += 1
    assert number == len(seen) == 2 * len(LAYERS)


def test_one_hessian_is_alive_at_a_time(monkeypatch):
    alive = []

    def spy(read):
        assert not any(ref() is not None for ref in alive)
        inputs = measure(read)
        alive.append(weakref.ref(inputs.h))
        return inputs

    monkeypatch.setattr(passes, "measure", spy)
    opened, text = tiny_model(0)
    step = {"prune": {"method": "sparsegpt"}, "quantize": {"bits": 4, "group_size": 16}}
    compress(opened, recipe_from([step]), text)
    assert len(alive) == 2 * len(READ)


@pytest.mark.parametrize("n_kv_heads", [1, 2, 4])
def test_an_error_of_values_over_attended_inputs_is_that_of_the_heads(n_kv_heads):
    config = LlamaConfig(13, 16, 1, 4, n_kv_heads, d_ff=12)
    model = Llama(config, torch.Generator().manual_seed(0)).double()
    block, g = model.blocks[0], torch.Generator().manual_seed(1)
    x = torch.randn(1, 7, 16, generator=g, dtype=torch.double)
    waves = [wave.double() for wave in model.waves(torch.arange(7), None)]
    change = torch.randn(block.v_proj.weight.shape, generator=g, dtype=torch.double)
    seen = dict(stages(block, x, *waves))["v_proj"][0]
    before = dict(stages(block, x, *waves, weighted=False))["out_proj"]
    block.v_proj.weight.data.add_(change)
    after = dict(stages(block, x, *waves, weighted=False))["out_proj"]
    lost = (after - before).unflatten(-1, (4, 4))[0]  # token, head, size
    of_head = change.unflatten(0, (n_kv_heads, 4)).repeat_interleave(4 // n_kv_heads, 0)
    predicted = seen @ of_head.transpose(1, 2)  # head, token, size
    torch.testing.assert_close(predicted.transpose(0, 1), lost)


def test_what_attention_makes_of_values_is_what_they_are_judged_by(monkeypatch):
    opened, text = tiny_model(0, n_layers=1)
    block, seen = copy.deepcopy(opened.model.blocks[0]), []

    def spy(w, inputs, **options):
        seen.append(inputs.h)
        return compress_matrix(w, inputs, **options)

    monkeypatch.setattr(passes, "compress_matrix", spy)
    skipped = {"*.q_proj": {"bits": None}}
    step = FULL[0]["quantize"] | {"overrides": skipped}
    x, waves = opened.model.embed(text.ids), opened.model.waves(torch.arange(24), None)
    compress(opened, recipe_from([{"quantize": step}]), text)
    attended = dict(stages(block, x, *waves))["k_proj"]
    torch.testing.assert_close(seen[0], measure(attended.split(1)).h, rtol=1e-4, atol=1e-5)
    block.k_proj.weight.data.copy_(opened.model.blocks[0].k_proj.weight)
    attended = dict(stages(block, x, *waves))["v_proj"]
    torch.testing.assert_close(seen[1], measure(attended.split(1)).h, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", ["out_proj", "down_proj"])
def test_an_error_of_a_writer_counts_by_what_a_norm_makes_of_it(layer):
    model = Llama(LlamaConfig(13, 16, 1, 4, 2), torch.Generator().manual_seed(0)).double()
    block, g = model.blocks[0], torch.Generator().manual_seed(1)
    x = torch.randn(1, 7, 16, generator=g, dtype=torch.double) * torch.arange(1.0, 8)[:, None]
    waves = [wave.double() for wave in model.waves(torch.arange(7), None)]
    plain = dict(stages(block, x, *waves, weighted=False))
    stream = plain[""] if layer == "down_proj" else x + block.out_proj(plain["out_proj"])
    change = torch.randn(block.get_submodule(layer).weight.shape, generator=g, dtype=torch.double)
    wrong = plain[layer] @ change.T
    _, moved = torch.func.jvp(
        lambda h: h / h.square().mean(-1, keepdim=True).sqrt(), (stream,), (wrong,)
    )
    along = stream / stream.norm(dim=-1, keepdim=True)
    predicted = dict(stages(block, x, *waves))[layer] @ change.T
    across = predicted - (predicted * along).sum(-1, keepdim=True) * along
    torch.testing.assert_close(moved, across)


def test_a_keys_row_counts_as_much_as_it_moves_attention():
    """The slopes of all weights with respect to one key's own score, by autograd."""
    g = torch.Generator().manual_seed(0)
    q = torch.randn(1, 4, 6, 3, generator=g, dtype=torch.double)
    k = torch.randn(1, 2, 6, 3, generator=g, dtype=torch.double)
    scores = (q @ k.repeat_interleave(2, 1).transpose(-1, -2) / 3**0.5).detach()
    later = torch.ones(6, 6, dtype=torch.bool).triu(1)
    moved = torch.zeros(6, dtype=torch.double)
    for h in range(4):
        for t in range(6):
            row = torch.autograd.functional.jacobian(
                lambda s, t=t: s.masked_fill(later[t], -torch.inf).softmax(-1), scores[0, h, t]
            )
            moved += row.diagonal()
    torch.testing.assert_close(looked_at(q, k)[0], moved / 4)


def test_keys_are_weighed_by_who_looks_at_them_in_the_compressed_block():
    """What `v_proj` reads is $A u$, from which the attention of the block can be told."""
    model = Llama(LlamaConfig(13, 16, 1, 4, 2), torch.Generator().manual_seed(0)).double()
    block, g = model.blocks[0], torch.Generator().manual_seed(1)
    x = torch.randn(2, 7, 16, generator=g, dtype=torch.double)
    waves = [wave.double() for wave in model.waves(torch.arange(7), None)]
    running = stages(block, x, *waves)
    next(running)
    block.q_proj.weight.data.mul_(3)
    keys, attended, u = next(running)[1], next(running)[1], block.attention_norm(x)
    a = attended @ torch.linalg.pinv(u)[:, None]  # batch, head, query, key
    looks = (a * (1 - a)).sum(2).mean(1)
    torch.testing.assert_close(keys, u * looks.sqrt()[..., None])


def test_a_row_of_zeros_counts_for_nothing():
    model = Llama(LlamaConfig(13, 16, 1, 4, 2), torch.Generator().manual_seed(0))
    x = torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(1))
    x[0, 0] = 0  # a token whose embedding is zero, at the start of a window
    read = dict(stages(model.blocks[0], x, *model.waves(torch.arange(5), None)))
    for name in ("out_proj", "down_proj"):
        assert read[name].isfinite().all()
        assert not read[name][0, 0].any()


def test_recipes_without_weights_of_rows_say_so():
    step = {"quantize": {"bits": 4, "weighted": False}}
    assert not recipe_from([step]).steps[0].weighted
    assert recipe_from(FULL).steps[0].weighted


def test_what_is_kept_in_memory_is_packed():
    opened, text = tiny_model(0)
    done = compress(opened, recipe_from(FULL), text)
    n_weights = sum(meta["n_weights"] for meta in done.records)
    n_bytes = sum(packed.n_bytes for packed in done.layers.values())
    assert n_bytes < 0.9 * n_weights  # 4 bits, and a scale of 32 and a zero of 4 per 16


def test_each_record_has_the_error_of_its_layer():
    opened, text = tiny_model(0)
    dense = copy.deepcopy(opened.model)
    done = compress(opened, recipe_from(FULL), text)
    record = done.records[0]
    w, x = dense.blocks[0].q_proj.weight, dense.blocks[0].attention_norm(dense.embed(text.ids))
    lost = x @ (w - unpack(*done.layers["blocks.0.q_proj"]).dense()).T
    expected = lost.square().sum() / (x @ w.T).square().sum()
    assert record["error"] == pytest.approx(expected.item(), rel=1e-3)
    assert [each["layer"] for each in done.records[:3]] == [
        f"blocks.0.{name}" for name in ("q_proj", "k_proj", "v_proj")
    ]


MIXED = {"blocks.0.*": {"bits": None}, "*.up_proj": {"bits": 8}}
RECIPES = [
    [{"quantize": {"bits": 3, "group_size": 7, "embedding_bits": 4}}, {"cast": {}}],
    [{"quantize": {"method": "rtn", "bits": 3, "group_size": 7}}],
    [{"quantize": {"embedding_bits": 4, "embedding_group_size": 8, "embedding_method": "gptq"}}],
    [{"quantize": {"embedding_bits": 4, "embedding_group_size": 7, "embedding_method": "gptq"}}],
    [{"quantize": {"method": "awq", "bits": 4, "group_size": 12}}],
    [{"quantize": {"method": "smoothquant", "bits": 8, "embedding_bits": 8}}],
    [{"quantize": {"method": "hqq", "bits": 2, "group_size": 16}}],
    [{"quantize": {"bits": 4, "group_size": 16, "act_order": True}}],
    [{"prune": {"method": "magnitude", "sparsity": 0.3, "scope": "global"}}],
    [{"prune": {"pattern": "4:8"}, "quantize": {"bits": 4, "group_size": 16}}],
    [{"prune": {"method": "wanda"}}, {"quantize": {"method": "awq", "group_size": 8}}],
    [{"quantize": {"group_size": 16}}, {"prune": {"method": "wanda"}}],
    [{"prune": {"method": "wanda"}}, {"recover": {"steps": 2}}, {"cast": {"dtype": "bfloat16"}}],
    [{"structured": {"heads": 0.5, "neurons": 0.3, "layers": 1}}, {"quantize": {"bits": 8}}],
    [
        {
            "quantize": {
                "bits": 4,
                "overrides": {"blocks.0.*": {"bits": None}, "*.up_proj": {"bits": 8}},
            }
        }
    ],
]


@pytest.mark.parametrize("number", range(len(RECIPES)))
def test_what_is_loaded_computes_what_was_in_memory(number, tmp_path):
    steps = RECIPES[number]
    opened, text = tiny_model(0, tied=bool(number % 2))
    done = compress(opened, recipe_from(steps), text)
    save(done, tmp_path / "a")
    again = load(tmp_path / "a")
    assert torch.equal(again.model(text.ids), done.model(text.ids))
    assert again.model.config == done.model.config
    assert again.tokenizer.encode("hi there") == opened.tokenizer.encode("hi there")
    for name, packed in done.layers.items():
        mask = unpack(*packed).mask
        if mask is not None:
            assert (again.model.get_submodule(name).weight[~mask] == 0).all()


def test_kernels_compute_nearly_the_same(tmp_path):
    sizes = {"d_model": 64, "n_heads": 4, "d_ff": 128}
    for options in ({"bits": 8, "group_size": None}, {"bits": 4, "group_size": 32}):
        opened, text = tiny_model(0, tied=True, **sizes)
        quantize = {"method": "rtn", "symmetric": True, "embedding_bits": 8, **options}
        done = compress(opened, recipe_from([{"quantize": quantize}]), text)
        save(done, tmp_path / "a")
        fast = load(tmp_path / "a", kernels=True).model
        kinds = {type(module).__name__ for module in fast.modules()}
        assert f"Int{options['bits']}Linear" in kinds
        assert type(fast.head).__name__ == "Int8Linear"
        if options["bits"] == 8:  # the very integers and scales
            module = fast.blocks[0].down_proj
            weight = unpack(*done.layers["blocks.0.down_proj"])
            assert torch.equal(module.dequantized(), weight.dense())
        y, expected = fast(text.ids[:1, :5]), done.model(text.ids[:1, :5])
        assert (y - expected).abs().max() < 0.03 * expected.abs().max()


def quantized(folder, *, vocab_size=320, cast="float16", tied=True, **options):
    """An artifact of integers on symmetric grids, and what was in memory."""
    sizes = {"d_model": 64, "n_heads": 4, "d_ff": 128, "vocab_size": vocab_size, "tied": tied}
    opened, text = tiny_model(0, **sizes)
    quantize = {"method": "rtn", "symmetric": True, **options}
    steps = [{"quantize": quantize}, {"cast": {"dtype": cast}}]
    done = compress(opened, recipe_from(steps), text)
    save(done, folder)
    return done, text


def reachable(model):
    """Bytes of the tensors that a model holds, each memory once."""
    found = {}
    for module in model.modules():
        for value in vars(module).values():
            for tensor in value.values() if isinstance(value, dict) else [value]:
                if isinstance(tensor, torch.Tensor):
                    storage = tensor.untyped_storage()
                    found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


INT8, INT4 = {"bits": 8, "group_size": None}, {"bits": 4, "group_size": 64}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("options", [INT8, INT4, INT4 | {"embedding_bits": 8}])
def test_a_model_takes_the_memory_of_its_file(options, tied, tmp_path):
    sizes = {"vocab_size": 4096, "tied": tied}
    done, _ = quantized(tmp_path / "a", **sizes, **options)
    file = (tmp_path / "a" / "tensors.safetensors").stat().st_size
    model = load(tmp_path / "a", kernels=True).model
    assert reachable(model) <= 1.1 * file
    assert reachable(done.model) > 1.5 * file  # what it says of floats


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("embedding_bits", [None, 8, 4])
def test_the_embedding_looks_up_what_the_head_multiplies_by(embedding_bits, tied, tmp_path):
    options = INT8 | {"embedding_bits": embedding_bits}
    done, _ = quantized(tmp_path / "a", **options, tied=tied)
    model, tokens = load(tmp_path / "a", kernels=True).model, torch.tensor([[7, 319], [64, 0]])
    rounding = 2**-8 if embedding_bits == 4 else 0  # scales in bfloat16
    torch.testing.assert_close(model.embed(tokens), done.model.embed(tokens), rtol=rounding, atol=0)
    if tied:
        assert model.embed.layer is model.head
    for rows in (1, 40):  # a new token, a prompt
        x = torch.randn(rows, 64, generator=torch.Generator().manual_seed(rows))
        y, expected = model.head(x), done.model.head(x)
        rounding = 1e-6 if embedding_bits is None or (rows > 16 and embedding_bits == 8) else 0.01
        assert (y - expected).norm() < rounding * expected.norm()
    assert not any(isinstance(module, torch.nn.Embedding) for module in model.modules())


def test_a_head_of_16_bits_computes_the_same_bits(tmp_path):
    done, text = quantized(tmp_path / "a", **INT8, overrides={"*": {"bits": None}})
    again = load(tmp_path / "a", kernels=True).model
    assert again.head.half_weight.dtype == torch.float16
    assert torch.equal(again(text.ids), done.model(text.ids))


def test_rows_of_nibbles_need_whole_blocks(tmp_path):
    options = INT8 | {"embedding_bits": 4, "vocab_size": 272}
    done, _ = quantized(tmp_path / "a", **options)
    model = load(tmp_path / "a", kernels=True).model
    assert torch.equal(model.embed.weight, done.model.embed.weight)


def test_opening_never_holds_two_copies(tmp_path, monkeypatch):
    """Each packed layer is gone when the next one is read."""
    quantized(tmp_path / "a", **INT4)
    alive, seen = [], []

    def spy(tensors, meta):
        seen.append(sum(ref() is not None for ref in alive))
        alive.extend(weakref.ref(tensor) for tensor in tensors.values())
        return unpack(tensors, meta)

    monkeypatch.setattr(folder, "unpack", spy)
    load(tmp_path / "a", kernels=True)
    assert len(seen) == 14
    assert max(seen) <= 2


@pytest.mark.parametrize("tied", [True, False])
def test_gptq_of_the_head_weighs_errors_by_what_it_reads(tied):
    """Less is lost of the logits than by rounding, and the blocks are made for what is embedded."""
    lost = {}
    for method in ("rtn", "gptq"):
        opened, text = tiny_model(0, tied=tied)
        dense = copy.deepcopy(opened.model)
        chosen = {"embedding_bits": 4, "embedding_group_size": 16, "embedding_method": method}
        quantize = {"method": "rtn", "overrides": {"*": {"bits": None}}, **chosen}
        done = compress(opened, recipe_from([{"quantize": quantize}]), text)
        read = dense.norm(torch.cat([x for *_, x in [stream(dense, row) for row in text.ids]]))
        torch.testing.assert_close(torch.cat(list(head_reads(dense, text.ids))), read)
        head = unpack(*done.layers["embed" if tied else "head"])
        assert head.scale.shape == (257, 2)
        assert torch.equal(head.dense(), done.model.head.weight)
        lost[method] = (read @ (head.dense() - dense.head.weight).T).norm().item()
        if tied:
            assert done.model.embed.weight is done.model.head.weight
        else:  # what is looked up has no inputs to be weighed by
            nearest = rtn(dense.embed.weight.detach(), bits=4, group_size=16, symmetric=True)
            assert torch.equal(unpack(*done.layers["embed"]).dense(), nearest.dense())
    assert lost["gptq"] < 0.9 * lost["rtn"]


def stream(model, ids):
    """What each block gives, by the model's own forward."""
    seen = []
    hooks = [block.register_forward_hook(lambda *a: seen.append(a[2])) for block in model.blocks]
    model(ids[None])
    for hook in hooks:
        hook.remove()
    return seen


def test_a_recipe_says_what_it_said_before_there_were_more_choices():
    """An artifact knows itself by its recipe: with another text it would be made again."""
    said = recipe_from([{"quantize": {"embedding_bits": 8}}]).as_json()[0]["quantize"]
    assert "embedding_bits" in said
    assert not {"embedding_group_size", "embedding_method"} & said.keys()
    chosen = {"embedding_bits": 4, "embedding_group_size": 32, "embedding_method": "gptq"}
    assert chosen.items() <= recipe_from([{"quantize": chosen}]).as_json()[0]["quantize"].items()


def test_layers_are_told_apart_by_their_names():
    opened, _ = tiny_model(0)
    overrides = {"*.down_proj": {"bits": 8}, "blocks.1.*": {"bits": None}}
    quantize = Quantize(method="rtn", bits=3, group_size=16, overrides=overrides)
    done = compress(opened, Recipe((Pass(quantize=quantize),)), None)
    bits = {name: packed.meta["bits"] for name, packed in done.layers.items()}
    assert bits["blocks.0.down_proj"] == bits["blocks.1.down_proj"] == 8  # the first that fits
    assert bits["blocks.0.up_proj"] == 3
    assert "blocks.1.up_proj" not in bits


def test_a_recipe_without_text_reads_none_and_one_with_it_must_have_it():
    opened, _ = tiny_model(0)
    with pytest.raises(UserError, match="calibration must be there"):
        compress(opened, recipe_from(FULL), None)


def test_text_longer_than_the_context_is_refused():
    opened, text = tiny_model(0, context=16)
    with pytest.raises(UserError, match="seqlen must be at most the model's context, 16, got 24"):
        compress(opened, recipe_from(FULL), text)


def test_strict_refuses_what_needs_more_damping():
    opened, text = tiny_model(0, n=1, seqlen=8)  # fewer tokens than inputs
    steps = recipe_from([{"quantize": {"damping": 1e-9, "group_size": 16}}])
    with pytest.raises(UserError, match=r"blocks.0.q_proj: its Hessian must be positive") as error:
        compress(opened, steps, text, strict=True)
    assert error.value.status == 1
    done = compress(tiny_model(0)[0], steps, text)
    assert done.records[0]["damping"] > 1e-9


def test_weights_that_are_not_finite_are_named():
    opened, text = tiny_model(0)
    opened.model.blocks[1].k_proj.weight.data[0, 0] = float("nan")
    for method in ("rtn", "gptq", "hqq"):
        steps = recipe_from([{"quantize": {"method": method, "group_size": 16}}])
        model = copy.deepcopy(opened.model)
        with pytest.raises(UserError, match=r"blocks.1.k_proj: "):
            compress(type(opened)(model, opened.tokenizer, "tiny", ""), steps, text)


# ---- smaller matrices


def test_a_smaller_model_is_the_masked_one():
    opened, text = tiny_model(4, n_heads=4, n_kv_heads=2, n_layers=3)
    dense = opened.model
    masked = copy.deepcopy(dense)
    gone = int(influence(dense, text.ids).argmin())
    del masked.blocks[gone]
    smaller = shrink(copy.deepcopy(dense), Structured(heads=0.5, neurons=0.25, layers=1), text.ids)
    for block in masked.blocks:
        kv = head_scores(block).view(2, 2).sum(1)
        heads = slice(0, 16) if kv[0] < kv[1] else slice(16, 32)
        neurons = neuron_scores(block).argsort()[:12]
        with torch.no_grad():
            block.out_proj.weight[:, heads] = 0
            block.down_proj.weight[:, neurons] = 0
    torch.testing.assert_close(smaller(text.ids), masked(text.ids), rtol=1e-6, atol=1e-5)
    assert sum(p.numel() for p in smaller.parameters()) < 0.75 * sum(
        p.numel() for p in dense.parameters()
    )
    c = smaller.config
    again = Llama(c)
    assert {n: p.shape for n, p in again.named_parameters()} == {
        n: p.shape for n, p in smaller.named_parameters()
    }


@pytest.mark.parametrize(
    ("step", "line"),
    [
        ({"layers": 2}, "layers must be fewer than the model's 2"),
        ({"heads": 0.9}, "structured must leave a part of n_kv_heads, got 0"),
        ({"neurons": 0.999}, "structured must leave a part of d_ff, got 0"),
    ],
)
def test_nothing_left_is_refused(step, line):
    opened, text = tiny_model(0)
    with pytest.raises(UserError, match=line):
        compress(opened, recipe_from([{"structured": step}]), text)


# ---- recovery


@pytest.mark.parametrize("method", ["full", "lora"])
def test_recovery_lowers_the_loss_and_keeps_zeros_and_codes(method):
    before, text = tiny_model(0)
    overrides = {"*.down_proj": {"bits": 8}, "*": {"bits": None}}
    steps = [
        {"prune": {"method": "magnitude", "sparsity": 0.6}},
        {"quantize": {"method": "rtn", "overrides": overrides, "bits": 8}},
    ]
    more = [{"recover": {"method": method, "steps": 25, "lr": 3e-3, "r": 4}}]
    plain = compress(before, recipe_from(steps), text)
    done = compress(tiny_model(0)[0], recipe_from(steps + more), text)
    record = done.records[-1]
    assert record["loss_after"] < 0.8 * record["loss_before"]
    for name, packed in done.layers.items():
        weight, was = unpack(*packed), unpack(*plain.layers[name])
        assert torch.equal(weight.mask, was.mask)
        live = done.model.get_submodule(name).weight
        assert torch.equal(live, weight.dense())
        if name.endswith("down_proj"):
            assert torch.equal(live, was.dense())
        else:
            assert not torch.equal(live, was.dense())
            assert int((live == 0).sum()) == weight.n_pruned
    kinds = {type(module).__name__ for module in done.model.modules()}
    assert "MaskedLoRA" not in kinds


def test_the_teacher_is_the_model_as_it_came():
    opened, text = tiny_model(0)
    steps = [{"structured": {"neurons": 0.5}}, {"recover": {"steps": 40, "lr": 5e-3}}]
    dense = copy.deepcopy(opened.model)
    done = compress(opened, recipe_from(steps), text)
    cut = compress(tiny_model(0)[0], recipe_from(steps[:1]), text)
    target = dense(text.ids).log_softmax(-1)
    lost = [
        (target.exp() * (target - each.model(text.ids).log_softmax(-1))).sum(-1).mean()
        for each in (done, cut)
    ]
    assert lost[0] < 0.7 * lost[1]
