"""Checkpoints to and from transformers, and one line for everything that can be wrong with one."""

import json
import math
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from shared import artifacts
from shared.errors import UserError
from week18.llama3 import Llama, LlamaConfig
from week18.pretrained import (
    config_from_hugging_face,
    hugging_face_config,
    load_pretrained,
    save_pretrained,
)
from week18.rotary import RopeScaling
from week18.transformers_twin import randomize, transformers_twin

SCALING = RopeScaling(4.0, 1.0, 4.0, 16)
SIZES = {"head_dim": 4, "d_ff": 20, "context": 64}
CONFIG = LlamaConfig(13, 18, 2, 6, 2, **SIZES, rope_base=900.0, rope_scaling=SCALING)
TIED = LlamaConfig(13, 12, 1, 2, tied=True)
TOKENS = torch.randint(13, (2, 40), generator=torch.Generator().manual_seed(0))


def a_model(config=CONFIG, dtype=torch.float32):
    return randomize(Llama(config), std=0.1).to(dtype)


def plain_folder(path, config=CONFIG):
    """A checkpoint as others write it: no manifest of ours."""
    save_pretrained(a_model(config), path)
    (path / artifacts.MANIFEST).unlink()
    return path


def rewrite(path, change):
    tensors = load_file(path / "model.safetensors")
    change(tensors)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


def edit_config(path, **changes):
    content = json.loads((path / "config.json").read_text()) | changes
    content = {name: value for name, value in content.items() if value is not ...}
    (path / "config.json").write_text(json.dumps(content))


def one_line(path):
    with pytest.raises(UserError) as caught:
        load_pretrained(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---- what must work


@pytest.mark.parametrize("config", [CONFIG, TIED], ids=["untied", "tied"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_round_trip_through_transformers_is_exact(tmp_path, config, dtype):
    from transformers import LlamaForCausalLM

    ours = a_model(config, dtype)
    save_pretrained(ours, tmp_path / "a")
    theirs = LlamaForCausalLM.from_pretrained(tmp_path / "a", dtype="auto").eval()
    assert theirs.dtype == dtype
    if dtype == torch.float32:
        torch.testing.assert_close(ours(TOKENS), theirs(TOKENS).logits, rtol=1e-5, atol=1e-5)
    theirs.save_pretrained(tmp_path / "b")
    again = load_pretrained(tmp_path / "b")
    assert again.config == config
    save_pretrained(again, tmp_path / "c")
    for folder in "bc":
        loaded = load_pretrained(tmp_path / folder)
        assert loaded.config == config
        for (name, p), (_, q) in zip(
            ours.named_parameters(), loaded.named_parameters(), strict=True
        ):
            assert p.dtype == q.dtype
            assert torch.equal(p, q), name
        assert torch.equal(ours(TOKENS), loaded(TOKENS))
    assert (again.head.weight is again.embed.weight) == config.tied
    first, last = (tmp_path / f / "model.safetensors" for f in "ac")
    assert first.read_bytes() == last.read_bytes()


def test_shards_with_an_index_are_accepted(tmp_path):
    theirs = transformers_twin(a_model())
    theirs.save_pretrained(tmp_path, max_shard_size="2KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    ours = load_pretrained(tmp_path)
    torch.testing.assert_close(ours(TOKENS), theirs(TOKENS).logits, rtol=1e-5, atol=1e-5)


@given(
    n_layers=st.integers(1, 2),
    kv=st.sampled_from([1, 2, 4]),
    head_dim=st.sampled_from([2, 6]),
    scaling=st.sampled_from([None, RopeScaling(2.0, 1.5, 3.0, 7)]),
    tied=st.booleans(),
)
@settings(max_examples=20)
def test_config_round_trip(n_layers, kv, head_dim, scaling, tied):
    config = LlamaConfig(
        9, 8, n_layers, 4, kv, head_dim, 12, 33, 1e4, scaling, norm_eps=1e-3, tied=tied
    )
    written = json.loads(json.dumps(hugging_face_config(config)))
    assert config_from_hugging_face(written) == config


OLD = {"vocab_size": 13, "hidden_size": 24, "num_hidden_layers": 2}
OLD |= {"num_attention_heads": 6, "intermediate_size": 20}


def test_old_configs_are_read():
    """Before transformers 5: `rope_theta` and `rope_scaling` at the top, many keys absent."""
    rope = {"type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope |= {"original_max_position_embeddings": 16}
    old = {"model_type": "llama", **OLD, "rope_theta": 900.0, "rope_scaling": rope}
    config = config_from_hugging_face(old)
    assert (config.n_kv_heads, config.head_dim, config.context) == (6, 4, 2048)
    assert config.rope_base == 900
    assert config.rope_scaling == SCALING


@pytest.mark.parametrize(
    ("given", "base"),
    [
        ({"rope_theta": None}, 10_000),
        ({"rope_parameters": {"rope_theta": None}}, 10_000),
        ({"rope_parameters": {"rope_theta": None}, "rope_theta": 900}, 900),
        ({"rope_parameters": None, "rope_scaling": None, "partial_rotary_factor": None}, 10_000),
    ],
)
def test_null_is_as_absent(given, base):
    assert config_from_hugging_face({"model_type": "llama", **OLD, **given}).rope_base == base


def test_absent_keys_mean_what_transformers_says():
    from transformers import LlamaConfig as TheirConfig

    theirs = hugging_face_config(config_from_hugging_face({"model_type": "llama", **OLD}))
    defaults = TheirConfig(**OLD).to_dict()
    names = [name for name in theirs if name in defaults and name != "architectures"]
    assert {"rms_norm_eps", "head_dim", "max_position_embeddings"} <= set(names)
    assert {n: theirs[n] for n in names} == {n: defaults[n] for n in names}


def test_a_copied_tied_head_and_old_buffers_are_ignored(tmp_path):
    path = plain_folder(tmp_path / "a", TIED)

    def change(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(3)

    rewrite(path, change)
    expected = a_model(TIED)(TOKENS)
    assert torch.equal(load_pretrained(path)(TOKENS), expected)


# ---- what must not, in one line each


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.norm.weight"), "misses weight model.norm.weight"),
        (
            lambda t: (t.pop("model.norm.weight"), t.pop("lm_head.weight")),
            "misses weight lm_head.weight and 1 more",
        ),
        (lambda t: t.update({"model.bias": torch.ones(2)}), "has unknown weight model.bias"),
        (
            lambda t: t.update({"model.norm.weight": torch.ones(17)}),
            "model.norm.weight must have shape (18,), got (17,)",
        ),
        (
            lambda t: t.update({name: w.to(torch.int8) for name, w in t.items()}),
            "weights must be of bfloat16, float16, float32, float64, got int8",
        ),
    ],
)
def test_wrong_weights(tmp_path, change, message):
    path = plain_folder(tmp_path / "a")
    rewrite(path, change)
    assert one_line(path).endswith(message)


@pytest.mark.parametrize("keep", [0, 400])
def test_torn_file(tmp_path, keep):
    path = plain_folder(tmp_path / "a")
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    assert "model.safetensors cannot be read" in one_line(path)


def test_altered_file_of_ours(tmp_path):
    save_pretrained(a_model(), tmp_path / "a")
    file = tmp_path / "a" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert "model.safetensors" in one_line(tmp_path / "a")


def test_missing_files(tmp_path):
    assert "config.json cannot be read" in one_line(tmp_path / "nowhere")
    path = plain_folder(tmp_path / "a")
    (path / "model.safetensors").unlink()
    assert "model.safetensors cannot be read" in one_line(path)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ('{"weight_map": {"a": "../b/model.safetensors"}}', "not a file of its folder"),
        ('{"weight_map": {"a": 5}}', "not a file of its folder"),
        ('{"weight_map": {"a": "missing.safetensors"}}', "missing.safetensors cannot be read"),
        ('{"weight_map": ["a"]}', "is not an index of weights"),
        ("{", "is not an index of weights"),
    ],
)
def test_bad_index(tmp_path, index, message):
    path = plain_folder(tmp_path / "a")
    plain_folder(tmp_path / "b")
    os.remove(path / "model.safetensors")
    (path / "model.safetensors.index.json").write_text(index)
    assert message in one_line(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mistral"}, "model_type must be 'llama', got 'mistral'"),
        ({"hidden_act": "gelu"}, "hidden_act must be 'silu', got 'gelu'"),
        ({"attention_bias": True}, "attention_bias must be False, got True"),
        ({"mlp_bias": True}, "mlp_bias must be False, got True"),
        ({"hidden_size": ...}, "does not say hidden_size"),
        ({"hidden_size": "18"}, "hidden_size must be a number of its kind, got '18'"),
        ({"hidden_size": 18.5}, "hidden_size must be a number of its kind, got 18.5"),
        ({"num_key_value_heads": 4}, "n_kv_heads must divide n_heads = 6, got 4"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "'dynamic' or 'yarn', got 'longrope'"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "does not say factor"),
        ({"rope_parameters": "llama3"}, "is not that of a LLaMA"),
        ({"rope_parameters": {"rope_theta": "1e4"}}, "rope_theta must be above 0, got '1e4'"),
        ({"rope_parameters": {"rope_theta": True}}, "rope_theta must be above 0, got True"),
        ({"rope_parameters": {"rope_theta": 0}}, "rope_theta must be above 0, got 0"),
        ({"rope_parameters": {"rope_theta": math.nan}}, "rope_theta must be above 0, got nan"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor must be 1, got 0.5"),
    ],
)
def test_bad_config(tmp_path, changes, message):
    path = plain_folder(tmp_path / "a")
    edit_config(path, **changes)
    assert message in one_line(path)


@pytest.mark.parametrize("text", [b"", b"[]", b'"llama"', b"\xff\xfe"])
def test_config_that_is_none(tmp_path, text):
    path = plain_folder(tmp_path / "a")
    (path / "config.json").write_bytes(text)
    assert "config.json" in one_line(path)


def test_nothing_else_is_overwritten(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "diary.txt").write_text("mine")
    with pytest.raises(UserError):
        save_pretrained(a_model(), tmp_path / "a")
    assert (tmp_path / "a" / "diary.txt").read_text() == "mine"
