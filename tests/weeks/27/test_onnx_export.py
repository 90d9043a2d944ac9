"""Any batch, length and split of a text through one file; integers as onnxruntime's; bad files."""

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from enforce import plain
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.quant_utils import quantize_data

from shared.errors import UserError
from week18.llama3 import LlamaConfig
from week18.long_context import DynamicNTK, YaRN
from week18.smollm2 import continue_greedily
from week19.twins import small_llama
from week27.evidence.onnx_export import moved
from week27.onnx_export import OnnxCache, OnnxLlama, export_llama
from week27.onnx_int8 import dynamic_product, int8_weight, quantize_llama

CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("onnx")


def exported(model, folder, **options):
    path = folder / "model.onnx"
    export_llama(model, path, **options)
    return OnnxLlama(path)


@pytest.fixture(scope="module")
def pair(folder):
    model = small_llama(0, norm_eps=0.1, context=40)
    return model, exported(model, folder)


def random_tokens(*shape, seed=0):
    return torch.randint(61, shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=20)
@given(rows=st.integers(1, 3), parts=st.lists(st.integers(1, 6), min_size=1, max_size=5))
def test_any_split_is_one_pass(pair, rows, parts):
    model, graph = pair
    tokens, cache = random_tokens(rows, sum(parts), seed=len(parts)), OnnxCache()
    logits = [graph(part, cache=cache) for part in tokens.split(parts, dim=1)]
    torch.testing.assert_close(torch.cat(logits, 1), model(tokens), **CLOSE)
    assert cache.length == sum(parts) == cache.arrays["k.0"].shape[2]
    assert list(cache.arrays) == ["k.0", "v.0", "k.1", "v.1"]


@settings(max_examples=10)
@given(lengths=st.lists(st.integers(1, 7), min_size=1, max_size=4), later=st.integers(1, 3))
def test_a_padded_row_is_the_row_alone(pair, lengths, later):
    model, graph = pair
    most = max(lengths)
    tokens = random_tokens(len(lengths), most + later)
    padding, cache = torch.tensor([most - n for n in lengths]), OnnxCache()
    first = graph(tokens[:, :most], cache=cache, padding=padding)
    then = graph(tokens[:, most:], cache=cache, padding=padding)
    assert first.isfinite().all()
    for row, n in enumerate(lengths):
        alone = model(tokens[row : row + 1, most - n :])[0]
        both = torch.cat([first[row, most - n :], then[row]])
        torch.testing.assert_close(both, alone, **CLOSE)


@pytest.mark.parametrize(
    "sizes",
    [
        {"tied": True, "n_kv_heads": 1},
        {"n_kv_heads": 4, "head_dim": 6, "n_layers": 1},
        {"rope_scaling": YaRN(factor=4.0, original_context=16), "context": 64},
    ],
)
def test_kinds_of_models_without_a_cache(folder, sizes):
    model, tokens = small_llama(1, **sizes), random_tokens(2, 30)
    graph = exported(model, folder, cache=False)
    torch.testing.assert_close(graph(tokens), model(tokens), **CLOSE)
    with pytest.raises(ValueError, match="cache must be None: the graph was exported without one"):
        graph(tokens, cache=OnnxCache())


def test_greedy_text(pair):
    model, graph = pair
    for cache in (True, False):
        assert graph.greedy([3, 1, 4], 8, cache=cache) == continue_greedily(model, [3, 1, 4], 8, -1)


def test_a_tied_embedding_is_written_once(folder):
    for tied, copies in ((False, 2), (True, 1)):
        export_llama(small_llama(0, tied=tied), folder / "size.onnx")
        weights = onnx.load(folder / "size.onnx").graph.initializer
        assert sum(sorted(w.dims) == [32, 61] for w in weights) == copies


def test_the_context_ends(pair):
    graph, cache = pair[1], OnnxCache()
    for n in (15, 10):
        graph(random_tokens(1, n), cache=cache)
    with pytest.raises(ValueError, match="tokens must fit in context = 40, got 41"):
        graph(random_tokens(1, 16), cache=cache)


def test_what_cannot_be_exported_is_refused(tmp_path):
    path = tmp_path / "a.onnx"
    with pytest.raises(ValueError, match=r"model must have weights of float32, got torch\.float16"):
        export_llama(small_llama(0).half(), path)
    scaling = DynamicNTK(factor=2.0, original_context=16)
    with pytest.raises(ValueError, match="rope_scaling must be one whose angles do not depend"):
        export_llama(small_llama(0, rope_scaling=scaling, context=32), path)
    assert not path.exists()


def test_bad_files_are_told_in_a_line(tmp_path):
    path = tmp_path / "a.onnx"
    with pytest.raises(UserError, match=r"a\.onnx must be a file"):
        OnnxLlama(path)
    export_llama(small_llama(0), path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(UserError, match=r"a\.onnx is not an ONNX file of a Llama"):
        OnnxLlama(path)
    assert LlamaConfig(vocab_size=2).context == 2048


# ---- int8


@settings(max_examples=60)
@given(
    values=st.lists(st.floats(-50, 50, width=32), min_size=4, max_size=4),
    offset=st.sampled_from([0.0, 60.0, -60.0]),
    symmetric=st.booleans(),
    per_channel=st.booleans(),
)
def test_integers_are_those_of_onnxruntime(values, offset, symmetric, per_channel):
    w = torch.tensor(values).reshape(2, 2) + offset
    q, scale, zero = int8_weight(w, symmetric=symmetric, per_channel=per_channel)
    kind = (QuantType.QInt8 if symmetric else QuantType.QUInt8).tensor_type
    columns = w.T.numpy() if per_channel else [w.numpy().ravel()]
    theirs = [quantize_data(column, kind, symmetric) for column in columns]
    assert zero.tolist() == [z.item() for z, _, _ in theirs]
    assert scale.tolist() == [s.item() for _, s, _ in theirs]
    mine = q.T.numpy() if per_channel else [q.numpy().ravel()]
    np.testing.assert_array_equal(mine, np.stack([c for _, _, c in theirs]))


class Int8(torch.nn.Module):
    """A layer as the int8 graph computes it."""

    def __init__(self, weight):
        super().__init__()
        self.parts = int8_weight(weight.T, symmetric=False, per_channel=True)

    def forward(self, x):
        return dynamic_product(x, *self.parts)


@pytest.mark.parametrize("tied", [False, True])
def test_the_int8_graph_computes_with_these_integers(tmp_path, tied):
    model, tokens = small_llama(2, tied=tied), random_tokens(2, 9)
    export_llama(model, tmp_path / "a.onnx")
    quantize_llama(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert (tmp_path / "b.onnx").stat().st_size < 0.7 * (tmp_path / "a.onnx").stat().st_size
    plain_logits, logits = model(tokens), OnnxLlama(tmp_path / "b.onnx")(tokens)
    q, scale, zero = int8_weight(model.embed.weight.T, symmetric=False, per_channel=True)
    head = Int8(model.head.weight)
    for block in model.blocks:
        for name, layer in list(block.named_children()):
            if isinstance(layer, torch.nn.Linear):
                setattr(block, name, Int8(layer.weight))
    table = ((q.float() - zero) * scale).T.contiguous()
    model.embed.weight = torch.nn.Parameter(table, requires_grad=False)
    model.head = head
    # A value on the edge of a step may round another way in float32: seldom, and by one step.
    off = (logits - model(tokens)).abs()
    assert off.median() < 1e-4
    assert off.max() < 0.5 * (logits - plain_logits).abs().max()
    graph = onnx.load(tmp_path / "b.onnx").graph
    kept = {w.name: numpy_helper.to_array(w) for w in graph.initializer}
    assert not any(v.dtype == np.float32 and sorted(v.shape) == [32, 61] for v in kept.values())
    assert (kept["embed.weight.q"] == q.numpy()).all()


def test_a_product_of_whole_numbers():
    x = torch.tensor([[0.0, 1.0, 2.55], [-0.5, 0.0, 0.3]])
    w = torch.eye(3)
    exact = dynamic_product(x, *int8_weight(w, symmetric=True))
    torch.testing.assert_close(exact, x, rtol=0, atol=3.05 / 255 / 2 + 1e-6)


def test_moved_probability():
    a, b = torch.tensor([0.5, 0.5, 0.0]).log(), torch.tensor([0.2, 0.3, 0.5]).log()
    assert moved(a, b) == pytest.approx(0.5)
    assert moved(a, a + 3) == pytest.approx(0)
    assert F.softmax(b, -1).sum() == pytest.approx(1)


def test_padding_must_be_a_row_each():
    model = plain("27", "onnx_export")
    with pytest.raises(UserError, match="must be a file"):
        model.OnnxLlama("nowhere.onnx")
