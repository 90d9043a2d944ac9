"""Folders and files for other programs, read back by those programs."""

import json

import gguf
import numpy as np
import pytest
import tokenizers
import torch
from compressed_tensors.compressors.pack_quantized import helpers
from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationScheme
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, CompressedTensorsConfig

from compress.artifact.folder import save
from compress.export import compressed_tensors
from compress.export.gguf import kinds_of, save_gguf
from compress.export.writing import codes_of, write
from compress.models.opening import open_model
from compress.models.testing import tiny_model
from compress.models.tokenizers import BYTES, CUTS, FLAGS
from compress.pipeline.recipe import recipe_from
from compress.pipeline.run import compress
from shared.errors import UserError
from week18.gguf_file import GGUF
from week18.gguf_tokenizer import GGUFTokenizer
from week18.pretrained import hugging_face_name, load_pretrained

TOKENS = torch.arange(30)[None] * 7 % 257
ROUND = {
    "rtn4": ("rtn", 4, 16, False),
    "sym4": ("rtn", 4, 16, True),
    "int8": ("rtn", 8, None, True),
}
ROUND |= {"gptq3": ("gptq", 3, 16, False), "gptq4": ("gptq", 4, 16, True)}


def made(folder, *steps, **sizes):
    """An artifact of a tiny model, as a reference."""
    opened, text = tiny_model(0, d_ff=64, **sizes)
    save(compress(opened, recipe_from(list(steps)), text), folder)
    return f"compress:{folder}"


def quantized(folder, name, **more):
    method, bits, group, symmetric = ROUND[name]
    options = {"method": method, "bits": bits, "group_size": group, "symmetric": symmetric}
    return made(folder, {"quantize": options | more})


def logits(ref):
    with torch.inference_mode():
        return open_model(ref).model(TOKENS)


def transformers_logits(folder, **options):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options)
    with torch.inference_mode():
        return model(TOKENS).logits


@given(st.integers(1, 5), st.integers(1, 100), st.sampled_from([2, 3, 4, 8]), st.integers(0, 99))
def test_words_are_those_of_compressed_tensors(rows, n, bits, seed):
    codes = torch.randint(0, 2**bits, (rows, n), generator=torch.Generator().manual_seed(seed))
    signed = (codes - 2 ** (bits - 1)).to(torch.int8)
    theirs = helpers.pack_to_int32(signed, bits)
    assert torch.equal(compressed_tensors.pack(codes, bits), theirs)
    assert torch.equal(helpers.unpack_from_int32(theirs, bits, signed.shape), signed)


@pytest.mark.parametrize("name", ROUND)
def test_transformers_reads_our_codes(tmp_path, name):
    ref = quantized(tmp_path / "small", name)
    write(ref, tmp_path / "out", "compressed-tensors")
    told = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    (group,) = told["config_groups"].values()
    assert group["targets"] == ["Linear"]
    assert (told["quant_method"], told["format"]) == ("compressed-tensors", "pack-quantized")
    found = transformers_logits(
        tmp_path / "out", quantization_config=CompressedTensorsConfig(dequantize=True)
    )
    torch.testing.assert_close(found, logits(ref), atol=1e-4, rtol=0)
    if ROUND[name][3]:  # zero points are read only as above, by this version of transformers
        torch.testing.assert_close(
            transformers_logits(tmp_path / "out"), logits(ref), atol=1e-4, rtol=0
        )


def by_their_library(folder):
    """Each quantized layer as the library compressed-tensors unpacks it, by its config."""
    tensors = load_file(folder / "model.safetensors")
    groups = json.loads((folder / "config.json").read_text())["quantization_config"]
    for group in groups["config_groups"].values():
        scheme = QuantizationScheme(**group)
        for name in group["targets"]:
            own = {k.removeprefix(f"{name}."): t for k, t in tensors.items() if name in k}
            yield name, PackedQuantizationCompressor.decompress(own, scheme)["weight"]


def test_pruned_and_mixed_layers_keep_their_numbers(tmp_path):
    overrides = {"blocks.0.*": {"bits": 8}, "*.down_proj": {"bits": None}}
    steps = {"prune": {"method": "magnitude"}}
    steps["quantize"] = {"method": "rtn", "bits": 4, "group_size": 16, "overrides": overrides}
    ref = made(tmp_path / "small", steps)
    write(ref, tmp_path / "out", "compressed-tensors")
    ours = {hugging_face_name(n): p for n, p in open_model(ref).model.named_parameters()}
    found = dict(by_their_library(tmp_path / "out"))
    assert len(found) == 7 + 6  # all of block 0, since the first rule that fits counts
    for name, weight in found.items():
        torch.testing.assert_close(weight, ours[f"{name}.weight"], atol=1e-7, rtol=0)
        assert (weight == 0).float().mean() >= 0.5
    left = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(
        left["model.layers.1.mlp.down_proj.weight"].float(),
        ours["model.layers.1.mlp.down_proj.weight"],
    )


def test_transformers_reads_layers_of_different_bits(tmp_path):
    options = {"method": "gptq", "bits": 4, "group_size": 16, "symmetric": True}
    overrides = {"blocks.0.*": {"bits": 8, "group_size": None}}
    ref = made(tmp_path / "small", {"quantize": options | {"overrides": overrides}})
    write(ref, tmp_path / "out", "compressed-tensors")
    found = transformers_logits(tmp_path / "out")
    torch.testing.assert_close(found, logits(ref), atol=1e-4, rtol=0)


@pytest.mark.parametrize("format", ["compressed-tensors", "hf"])
def test_codes_of_an_embedding_are_written_as_floats(format, tmp_path):
    options = {"method": "rtn", "bits": 4, "group_size": 16, "symmetric": True}
    options |= {"embedding_bits": 4, "embedding_group_size": 8}
    ref = made(tmp_path / "small", {"quantize": options})
    write(ref, tmp_path / "out", format)
    torch.testing.assert_close(
        transformers_logits(tmp_path / "out"), logits(ref), atol=1e-4, rtol=0
    )


def test_floats_of_sixteen_bits_stay_so(tmp_path):
    options = {"method": "rtn", "bits": 4, "group_size": 16}
    ref = made(tmp_path / "small", {"quantize": options}, {"cast": {"dtype": "float16"}})
    write(ref, tmp_path / "out", "compressed-tensors")
    embedding = load_file(tmp_path / "out" / "model.safetensors")["model.embed_tokens.weight"]
    assert embedding.dtype == torch.float16
    assert torch.equal(embedding.float(), open_model(ref).model.embed.weight)


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        ({"quantize": {"method": "hqq", "bits": 4, "group_size": 16}}, "whole zero points"),
        ({"quantize": {"bits": 4, "group_size": 16, "act_order": True}}, "groups of neighbors"),
        ({"quantize": {"bits": 4, "group_size": 24}}, "groups of neighbors"),
        ({"prune": {"method": "magnitude"}}, "layers with codes"),
    ],
)
def test_what_the_format_does_not_have_is_refused(tmp_path, steps, says):
    ref = made(tmp_path / "small", steps)
    with pytest.raises(UserError, match=says):
        write(ref, tmp_path / "out", "compressed-tensors")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_floats(tmp_path):
    ref = quantized(tmp_path / "small", "rtn4")
    found = write(ref, tmp_path / "out", "hf")
    assert found["bytes"] == sum(file.stat().st_size for file in (tmp_path / "out").iterdir())
    torch.testing.assert_close(
        transformers_logits(tmp_path / "out"), logits(ref), atol=1e-4, rtol=0
    )
    assert torch.equal(load_pretrained(tmp_path / "out")(TOKENS), logits(ref))


def test_rounded_inputs_are_not_lost_silently(tmp_path):
    ref = quantized(tmp_path / "small", "int8", int8_inputs=True)
    for format, out in (("hf", "out"), ("onnx", "out.onnx"), ("gguf", "out.gguf")):
        with pytest.raises(UserError, match="must not round its inputs"):
            write(ref, tmp_path / out, format)
    write(ref, tmp_path / "out", "compressed-tensors")
    told = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    (group,) = told["config_groups"].values()
    assert group["input_activations"]["strategy"] == "token"
    assert group["input_activations"]["dynamic"] is True


# ---- GGUF


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1"])
def test_gguf_is_read_by_transformers_and_by_our_reader(tmp_path, kind):
    opened, _ = tiny_model(1, d_ff=64)
    path = tmp_path / "model.gguf"
    save_gguf(opened.model, path, kind=kind)
    ours = load_pretrained(path)
    for name, p in opened.model.named_parameters():
        if "_proj" in name:
            number = gguf.GGMLQuantizationType[kind]
            blocks = gguf.quants.quantize(p.detach().numpy(), number)
            there = dict(ours.named_parameters())[name].detach().numpy()
            np.testing.assert_array_equal(there, gguf.quants.dequantize(blocks, number))
    found = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32)
    with torch.inference_mode():
        theirs = found(TOKENS).logits
    torch.testing.assert_close(theirs, ours(TOKENS), atol=1e-4, rtol=0)
    assert kinds_of(opened.model, kind)["token_embd.weight"] == "Q8_0"


def test_gguf_carries_the_tokenizer(tmp_path):
    """Of a file for `tokenizers`, read there and from our file."""
    plain = [chr(i) for i in range(33, 127)] + ["Ġ", "Ċ"]
    merged = ["lo", "low", "Ġlow", "<|end|>", "<|im_end|>"]
    content = {
        "version": "1.0",
        "added_tokens": [
            {"id": len(plain) + i, "content": merged[i], **FLAGS, "special": True} for i in (3, 4)
        ],
        "pre_tokenizer": CUTS["smollm"],
        "decoder": BYTES,
        "model": {
            "type": "BPE",
            "vocab": {token: i for i, token in enumerate(plain + merged)},
            "merges": ["l o", "lo w", "Ġ low"],
        },
    }
    files = {"tokenizer.json": json.dumps(content).encode()}
    files["tokenizer_config.json"] = json.dumps({"eos_token": "<|im_end|>"}).encode()
    opened, _ = tiny_model(1, d_ff=64)
    save_gguf(opened.model, tmp_path / "x.gguf", files=files)
    again = GGUFTokenizer.from_gguf(GGUF.open(tmp_path / "x.gguf"))
    theirs = tokenizers.Tokenizer.from_str(files["tokenizer.json"].decode())
    text = "low low 12 o'clock,\n\nlower"
    assert again.encode(text) == theirs.encode(text).ids
    assert again.end == theirs.token_to_id("<|im_end|>")
    assert again.special_tokens.keys() == {"<|end|>", "<|im_end|>"}


def test_gguf_refuses_what_has_no_blocks(tmp_path):
    opened, _ = tiny_model(0)  # d_ff = 48
    with pytest.raises(UserError, match="multiple of 32 inputs"):
        save_gguf(opened.model, tmp_path / "x.gguf", kind="Q4_0")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("format", "out", "says"),
    [("gguf", "x.bin", "end in .gguf"), ("onnx", "x", "end in .onnx")],
)
def test_files_have_their_ending(tmp_path, format, out, says):
    ref = quantized(tmp_path / "small", "sym4")
    with pytest.raises(UserError, match=says):
        write(ref, tmp_path / out, format)


def test_only_artifacts_have_codes():
    with pytest.raises(UserError, match="must be an artifact"):
        codes_of(tiny_model(0)[0])
