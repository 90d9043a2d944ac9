"""GGUF: blocks against gguf.quants, files against their reader, and files that lie."""

import struct
import tracemalloc
from dataclasses import replace

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import artifacts
from shared.errors import UserError
from week18.gguf_blocks import LAYOUT, NUMBERS, dequantize
from week18.gguf_file import GGUF
from week18.gguf_llama import cache_dir, config_of, half_split, interleaved, safetensors_of
from week18.gguf_twin import write_gguf
from week18.llama3 import Llama, LlamaConfig
from week18.pretrained import load_pretrained
from week18.transformers_twin import randomize

TOKENS = torch.arange(40)[None]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def a_model(**sizes):
    sizes = {
        "vocab_size": 40,
        "d_model": 64,
        "n_heads": 4,
        "n_kv_heads": 2,
        "d_ff": 96,
        "norm_eps": 2**-17,
    } | sizes
    return randomize(Llama(LlamaConfig(**sizes)))


def a_file(path, kinds=None, **sizes):
    model = a_model(**sizes)
    write_gguf(model, path, kinds)
    return model


def one_line(path):
    with pytest.raises(UserError) as caught:
        load_pretrained(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message.replace(str(path), "")  # pytest names its folders after the test


# ---- blocks


@given(
    kind=st.sampled_from(sorted(LAYOUT)),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 5)),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_bytes_are_blocks(kind, shape, seed):
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, (shape[0], shape[1] * LAYOUT[kind].itemsize), np.uint8)
    ours = dequantize(raw, kind)
    with np.errstate(all="ignore"):
        theirs = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[kind])
    assert ours.dtype == np.float32
    assert ours.shape == (shape[0], shape[1] * NUMBERS[kind])
    np.testing.assert_array_equal(ours, theirs)  # NaN where theirs is


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_weights_come_back_within_half_a_step(kind):
    weights = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
    raw = gguf.quants.quantize(weights, gguf.GGMLQuantizationType[kind])
    steps = {"Q4_0": 15, "Q4_1": 15, "Q5_0": 31, "Q5_1": 31, "Q8_0": 254}[kind]
    width = 2 * np.abs(weights).max() / steps
    assert np.abs(dequantize(raw, kind) - weights).max() <= 1.1 * width


def test_bad_blocks():
    with pytest.raises(ValueError, match=r"kind must be among .* got Q3_K"):
        dequantize(np.zeros(18, np.uint8), "Q3_K")
    with pytest.raises(ValueError, match="whole blocks of 18 bytes in a row, got 17"):
        dequantize(np.zeros(17, np.uint8), "Q4_0")


# ---- files that are true


@given(n_heads=st.integers(1, 4), half=st.integers(1, 3), seed=st.integers(0, 99))
def test_orders_of_rows_undo_each_other(n_heads, half, seed):
    rows = np.random.default_rng(seed).normal(size=(n_heads * 2 * half, 3))
    np.testing.assert_array_equal(half_split(interleaved(rows, n_heads), n_heads), rows)
    first = interleaved(rows, n_heads)[:2]
    np.testing.assert_array_equal(first, rows[[0, half]])  # what is rotated together


@pytest.mark.parametrize("tied", [False, True])
def test_round_trip_is_exact(tmp_path, tied):
    path = tmp_path / "a.gguf"
    model = a_file(path, tied=tied, rope_base=2e4, context=77)
    loaded = load_pretrained(path)
    assert loaded.config == model.config
    assert (loaded.head.weight is loaded.embed.weight) == tied
    assert torch.equal(loaded(TOKENS), model(TOKENS))


def test_reader_agrees_with_theirs(tmp_path):
    path = tmp_path / "a.gguf"
    a_file(path, {"blk.0.ffn_down.weight": "Q5_0", "token_embd.weight": "Q8_0"})
    ours, theirs = GGUF.open(path), gguf.GGUFReader(path)
    assert set(ours.tensors) == {tensor.name for tensor in theirs.tensors}
    for tensor in theirs.tensors:
        array = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_array_equal(ours.array(tensor.name), array)
    for name, value in ours.fields.items():
        assert value == theirs.fields[name].contents()


def test_second_load_takes_the_cache_and_a_damaged_one_is_made_again(tmp_path, monkeypatch):
    path = tmp_path / "a.gguf"
    model = a_file(path)
    load_pretrained(path)
    (folder,) = cache_dir().iterdir()
    before = folder.stat().st_ino
    assert torch.equal(load_pretrained(path)(TOKENS), model(TOKENS))
    assert folder.stat().st_ino == before
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    assert torch.equal(load_pretrained(path)(TOKENS), model(TOKENS))
    assert folder.stat().st_ino != before


def test_unpacking_holds_the_weights_once(tmp_path):
    """Beside what is stored there is one weight at a time, with what it is made from."""
    path = tmp_path / "a.gguf"
    write_gguf(Llama(LlamaConfig(96, 64, 12, 4, 2, d_ff=96)), path)
    file = GGUF.open(path)
    tracemalloc.start()
    data = safetensors_of(file, config_of(file))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.4 * len(data)


def test_two_names_of_one_weight_are_refused(tmp_path):
    path = tmp_path / "a.gguf"
    a_file(path)
    file = GGUF.open(path)
    entry = file.tensors["output_norm.weight"]
    twice = replace(file, tensors=file.tensors | {"model.norm.weight": entry})
    with pytest.raises(UserError, match=r"there must be one weight model\.norm\.weight, got two"):
        safetensors_of(twice, config_of(twice))


def test_another_file_of_the_same_name_is_another_model(tmp_path):
    path = tmp_path / "a.gguf"
    a_file(path)
    first = load_pretrained(path)(TOKENS)
    write_gguf(randomize(a_model(), seed=5), path)
    assert not torch.equal(load_pretrained(path)(TOKENS), first)


def test_writing_to_a_mapped_weight_stays_here(tmp_path):
    path = tmp_path / "a.gguf"
    a_file(path)
    model = load_pretrained(path)
    with torch.no_grad():
        model.embed.weight.zero_()
    assert load_pretrained(path).embed.weight.any()


def test_verify_is_load_without_the_bytes(tmp_path):
    artifacts.save(tmp_path / "a", {"x": b"1234"})
    artifacts.verify(tmp_path / "a")
    (tmp_path / "a" / "x").write_bytes(b"1235")
    with pytest.raises(artifacts.ArtifactError, match="x was altered"):
        artifacts.verify(tmp_path / "a")
    with pytest.raises(artifacts.ArtifactError, match="no artifact"):
        artifacts.verify(tmp_path / "b")


# ---- files that are not


def packed(fields=b"", tensors=b"", *, counts=(0, 0), data=b"", magic=b"GGUF", version=3):
    head = magic + struct.pack("<IQQ", version, *counts) + fields + tensors
    return head + bytes(-len(head) % 32) + data


def string(text):
    return struct.pack("<Q", len(text)) + text


def tensor(name=b"w", dims=(32,), kind=0, offset=0):
    head = string(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims)
    return head + struct.pack("<IQ", kind, offset)


HUGE = 2**62
BAD = {
    "does not begin with GGUF": packed(magic=b"GGML"),
    "its version must be 2 or 3": packed(version=1),
    "got 50331648": packed(version=3 << 24),  # big-endian
    "are announced at byte 24": packed(counts=(HUGE, 0))[:24],
    f"{HUGE} bytes are announced": packed(struct.pack("<Q", HUGE), counts=(0, 1)),
    "unknown type 99": packed(string(b"a") + struct.pack("<I", 99), counts=(0, 1)),
    f"{8 * HUGE} bytes are announced": packed(
        string(b"a") + struct.pack("<IIQ", 9, 10, HUGE), counts=(0, 1)
    ),
    "the value at byte": packed(string(b"a") + struct.pack("<IIQ", 9, 9, 1), counts=(0, 1)),
    "no UTF-8": packed(string(b"\xff"), counts=(0, 1)),
    "two fields 'a'": packed((string(b"a") + struct.pack("<IB", 0, 1)) * 2, counts=(0, 2)),
    "two tensors 'w'": packed(b"", tensor() * 2, counts=(2, 0)),
    "1 to 4 dimensions, got 9": packed(b"", tensor(dims=(1,) * 9), counts=(1, 0)),
    "tensors of type 10 are not known": packed(b"", tensor(kind=10), counts=(1, 0)),
    "not whole blocks of 32": packed(b"", tensor(dims=(33, 2), kind=2), counts=(1, 0)),
    "[0] of a F32 tensor": packed(b"", tensor(dims=(0,)), counts=(1, 0)),
    "not aligned": packed(b"", tensor(offset=4), counts=(1, 0), data=bytes(256)),
    "ends at": packed(b"", tensor(dims=(HUGE, HUGE)), counts=(1, 0), data=bytes(256)),
    "overlap": packed(
        b"", tensor(dims=(64,)) + tensor(b"v", offset=32), counts=(2, 0), data=bytes(512)
    ),
    "a power of 2": packed(string(b"general.alignment") + struct.pack("<II", 4, 33), counts=(0, 1)),
    "general.architecture must be 'llama', got None": packed(),
}


@pytest.mark.parametrize("message", BAD)
def test_lies_are_named(tmp_path, message):
    path = tmp_path / "bad.gguf"
    path.write_bytes(BAD[message])
    assert message in one_line(path)
    assert not cache_dir().exists()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "a.gguf"
    a_file(path, {"blk.0.ffn_up.weight": "Q4_0"}, n_layers=1)
    return path.read_bytes()


@settings(max_examples=60)
@given(data=st.data())
def test_torn_and_altered_headers_give_one_line(whole, data):
    content = bytearray(whole)
    end = data.draw(st.integers(0, len(content)), "cut")
    for _ in range(data.draw(st.integers(0, 3), "changes")):
        content[data.draw(st.integers(0, 2000), "place")] = data.draw(st.integers(0, 255), "byte")
    try:
        file = GGUF.parse(bytes(content[:end]), "bad.gguf")
    except UserError as error:
        first, *more = str(error).splitlines()
        if more or not first.startswith("bad.gguf is not a GGUF file"):
            raise
    else:
        assert all(entry.start + entry.n_bytes <= end for entry in file.tensors.values())


@pytest.mark.parametrize("cut", [1, 1000, 30_000])
def test_torn_file(tmp_path, whole, cut):
    path = tmp_path / "torn.gguf"
    path.write_bytes(whole[:-cut])
    assert "bytes" in one_line(path)


def edited(path, **changes):
    """A file whose fields say something else."""
    model = a_model(n_layers=1)
    writer_of = gguf.GGUFWriter

    class Liar(writer_of):
        def add_key_value(self, key, val, vtype, sub_type=None):
            super().add_key_value(key, changes.pop(key.split(".", 1)[1], val), vtype, sub_type)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf, "GGUFWriter", Liar)
        write_gguf(model, path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("block_count", 2**31, "n_layers of at most 12, got 2147483648"),
        ("block_count", 2, "misses weight model.layers.1"),
        ("attention.head_count", 0, "head_count must be at least 1"),
        ("attention.head_count", 3, "llama.rope.dimension_count must be 21, got 16"),
        ("embedding_length", 2**31, "dimension_count must be 536870912, got 16"),
        ("feed_forward_length", 64, "mlp.gate_proj.weight must have shape (64, 64), got (96, 64)"),
        ("rope.dimension_count", 8, "llama.rope.dimension_count must be 16, got 8"),
        ("architecture", "qwen2", "general.architecture must be 'llama', got 'qwen2'"),
    ],
)
def test_fields_that_contradict_the_weights(tmp_path, field, value, message):
    path = tmp_path / "a.gguf"
    edited(path, **{field: value})
    assert message in one_line(path)


def test_missing_file(tmp_path):
    assert "cannot be read" in one_line(tmp_path / "nowhere.gguf")
    (tmp_path / "empty.gguf").write_bytes(b"")
    assert "cannot be read" in one_line(tmp_path / "empty.gguf")
