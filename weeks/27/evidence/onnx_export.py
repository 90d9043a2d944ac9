"""The graph in onnxruntime and in ONNX's own interpreter against torch; int8 against its maker."""

import copy
import logging
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from shared import datasets, plots
from shared.study import Run
from week18.llama3 import Llama
from week18.rotary import RopeScaling
from week18.smollm2 import SYSTEM, continue_greedily, smollm2
from week19.perplexity import gptq_nats
from week19.quantization import fake_quantize
from week19.twins import small_llama
from week19.wikitext import windows
from week27.onnx_export import OnnxCache, OnnxLlama, cache_names, export_llama
from week27.onnx_int8 import dynamic_product, int8_weight, quantize_llama

SHAPES = ((1, 1, 0), (1, 1, 6), (2, 3, 0), (3, 7, 2), (1, 5, 1))  # rows, new tokens, past
QUESTIONS = (
    *("What is the capital of France?", "Name a large animal.", "Is water wet?"),
    *("What is two plus two?", "Who wrote Hamlet?", "Why is the sky blue?"),
)


def main(run: Run) -> None:
    """Check graphs of small models, then SmolLM2's; judge what int8 and batches do to it."""
    run.rounding(0.5, "one unit of an activation's grid of 256 may round another way")
    with tempfile.TemporaryDirectory() as folder:
        check_graphs(run, Path(folder) / "small.onnx")
        check_int8(run, Path(folder))
        quick = run.mode == "quick"
        model, prompts, texts = small_model(run) if quick else language_model()
        path = Path(folder) / "model.onnx"
        export_llama(model, path)
        graph = OnnxLlama(path, threads=run.threads)
        check_model(run, model, graph, prompts, texts)
        judge_padding(run, graph, prompts)
        judge_int8(run, model, path, graph, prompts, texts)


def tokens_of(run: Run, vocab_size: int, *shape: int, offset: int = 0) -> Tensor:
    """Random tokens."""
    return torch.randint(vocab_size, shape, generator=run.generator(offset))


def small_model(run: Run) -> tuple[Llama, list[list[int]], Tensor]:
    """Random weights, prompts and texts."""
    prompts = [tokens_of(run, 61, n, offset=n).tolist() for n in (5, 9, 7)]
    return small_llama(run.seed), prompts, tokens_of(run, 61, 3, 32)


def language_model() -> tuple[Llama, list[list[int]], Tensor]:
    """SmolLM2, questions in its template, and windows of WikiText-2 that chose nothing here."""
    model, tokenizer = smollm2()
    chats = [[{"role": "user", "content": question}] for question in QUESTIONS]
    text = torch.tensor(tokenizer.encode(datasets.wikitext2("valid")[:60_000]))
    return model, [tokenizer.chat(chat, system=SYSTEM) for chat in chats], windows(text, 6, 192)


# ---- checks


def check_graphs(run: Run, path: Path) -> None:
    """Small models of several shapes: rows, lengths and pasts through one file each."""
    from onnx.reference import ReferenceEvaluator

    models = {
        "two key heads": small_llama(run.seed),
        "tied, one key head": small_llama(run.seed + 1, tied=True, n_kv_heads=1),
        "stretched positions": small_llama(run.seed + 2, rope_scaling=RopeScaling(), head_dim=6),
    }
    close = run.against("week 18 in torch", atol=1e-4, why="float32 in another order of sums")
    again = {"kind": "consistency", "atol": 1e-4, "why": "the same sums"}
    for name, model in models.items():
        export_llama(model, path)
        graph, found, expected, cached = OnnxLlama(path), [], [], []
        for i, (rows, n, past) in enumerate(SHAPES):
            tokens = tokens_of(run, 61, rows, past + n, offset=i)
            cache = OnnxCache()
            if past:
                graph(tokens[:, :past], cache=cache)
            cached.append(graph(tokens[:, past:], cache=cache).flatten())
            found.append(graph(tokens)[:, past:].flatten())
            expected.append(model(tokens)[:, past:].flatten())
        close(f"onnxruntime, {name}: logits", torch.cat(found), torch.cat(expected))
        full = {"against": "the whole text in one pass"} | again
        run.check(f"onnxruntime, {name}: with a cache", torch.cat(cached), torch.cat(found), **full)
        tokens = tokens_of(run, 61, 2, 5)
        feeds = {"tokens": tokens.numpy(), "padding": np.array([0, 2])}
        shape = (2, model.config.n_kv_heads, 0, model.config.head_dim)
        for each in cache_names(model.config.n_layers):
            feeds[f"past_{each}"] = np.zeros(shape, np.float32)
        logits = ReferenceEvaluator(str(path)).run(["logits"], feeds)[0]
        expected = torch.stack([model(tokens[:1])[0, 2:], model(tokens[1:, 2:])[0]])
        close(f"ONNX's interpreter, {name}: padded", logits[:, 2:], expected)


KINDS = [(symmetric, per_channel) for symmetric in (False, True) for per_channel in (False, True)]


def by_onnxruntime(source: Path, made: Path, *, symmetric: bool, per_channel: bool) -> None:
    """What onnxruntime's own quantizer makes of a file's products."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    kind = QuantType.QInt8 if symmetric else QuantType.QUInt8
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # advice to run a step that these graphs do not need
    options = {"op_types_to_quantize": ["MatMul"], "per_channel": per_channel}
    quantize_dynamic(source, made, weight_type=kind, **options)
    logging.disable(disabled)


def check_int8(run: Run, folder: Path) -> None:
    """Integers, scales and zero points of all matrices, and a product."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    source, ours, theirs = (folder / f"{name}.onnx" for name in ("float", "ours", "theirs"))
    same = run.against("onnxruntime quantize_dynamic", why="the same operations on float32")
    model = small_llama(run.seed + 3)
    for symmetric, per_channel in KINDS:
        options = {"symmetric": symmetric, "per_channel": per_channel}
        export_llama(model, source)
        quantize_llama(source, ours, **options)
        by_onnxruntime(source, theirs, **options)
        a, b = (
            {w.name: numpy_helper.to_array(w) for w in onnx.load(p).graph.initializer}
            for p in (ours, theirs)
        )
        names = [n.removesuffix("_quantized") for n in b if n.endswith("_quantized")]
        title = f"{'int8' if symmetric else 'uint8'}, a grid per "
        title += "channel" if per_channel else "tensor"
        for part, their in (("q", "quantized"), ("zero", "zero_point"), ("scale", "scale")):
            mine = np.concatenate([a[f"{n}.{part}"].ravel() for n in names])
            other = np.concatenate([b[f"{n}_{their}"].ravel() for n in names])
            same(f"{title}: {their.replace('_', ' ')}", mine, other)
        if symmetric:  # whose sums may overflow, see below
            continue
        x, w = (torch.randn(n, 24, generator=run.generator(n)) for n in (7, 24))
        sides = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [7, 24]) for n in "xy"]
        nodes, weights = (
            [helper.make_node("MatMul", "xw", "y")],
            [numpy_helper.from_array(w.numpy(), "w")],
        )
        graph = helper.make_graph(nodes, "product", sides[:1], sides[1:], weights)
        onnx.save(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11),
            source,
        )
        by_onnxruntime(source, theirs, **options)
        y = onnxruntime.InferenceSession(theirs).run(None, {"x": x.numpy()})[0]
        mine = dynamic_product(x, *int8_weight(w, **options))
        same(f"{title}: a product", mine, y, atol=1e-5)


# ---- the model


def check_model(run: Run, model: Llama, graph: OnnxLlama, prompts: list, texts: Tensor) -> None:
    """Logits and greedy text, with and without a cache."""
    largest = model(texts[:2]).abs().max()
    name = "SmolLM2" if run.mode != "quick" else "small model"
    ours, theirs = (form(texts[:2]) / largest for form in (graph, model))
    why = "float32 in another order of sums"
    run.check(
        f"{name}: logits / largest", ours, theirs, against="week 18 in torch", why=why, atol=1e-5
    )
    most = run.budget(quick=4, default=16)
    expected = [continue_greedily(model, prompt, most, -1) for prompt in prompts[:2]]
    for cache in (True, False):
        found = [graph.greedy(prompt, most, cache=cache) for prompt in prompts[:2]]
        title = f"{name}: greedy tokens {'with' if cache else 'without'} a cache"
        run.check(title, found, expected, against="week 18 in torch", why="the same tokens")


def moved(a: Tensor, b: Tensor) -> float:
    """Probability that is elsewhere: half the sum of absolute differences, last position."""
    a, b = (logits.double().softmax(-1) for logits in (a, b))
    return 0.5 * (a - b).abs().sum().item()


def judge_padding(run: Run, graph: OnnxLlama, prompts: list) -> None:
    """Rows padded on the left by some tokens, and told or not."""
    lengths, told, untold = (0, 1, 4, 16), [], []
    for prompt in prompts:
        alone = graph(torch.tensor([prompt]))[0, -1]
        rows = [[], []]
        for n in lengths:
            padded = torch.tensor([[0] * n + prompt])
            for row, padding in zip(rows, (torch.tensor([n]), None), strict=True):
                row.append(moved(graph(padded, padding=padding)[0, -1], alone))
        told.append(rows[0])
        untold.append(rows[1])
    name = "padding that is not told changes the answer"
    options = {"unit": "of the probability", "note": f"{lengths[-1]} tokens on the left"}
    run.claim(name, [row[-1] for row in untold], at_least=0.1, **options)
    run.falsifier("told", [row[-1] for row in told], breaks=name)
    with run.figure("padding", "What does padding do to the next token?") as axes:
        lines = {"not told": untold, "told": told}
        labels = {"xlabel": "tokens of padding on the left", "ylim": (-0.03, 1)}
        labels["ylabel"] = f"probability moved\n({len(prompts)} prompts)"
        plots.curves(axes, lengths, lines, marker="o", **labels)


def judge_int8(
    run: Run, model: Llama, path: Path, graph: OnnxLlama, prompts: list, texts: Tensor
) -> None:
    """Nats that whole numbers add, and what a row's neighbor does to it."""
    n = texts.shape[1]
    base = gptq_nats(graph, texts.flatten(), context=n)
    rounded = copy.deepcopy(model)
    for p in rounded.parameters():
        if p.ndim == 2:
            p.data = fake_quantize(p.data, bits=8, symmetric=True, granularity="channel")
    added = {"weights only, torch": gptq_nats(rounded, texts.flatten(), context=n) - base}
    made = path.with_name("int8.onnx")
    run.metric("megabytes, float32", path.stat().st_size / 1e6, "MB")
    for name, options in (
        ("uint8, tensor", {"per_channel": False}),
        ("int8, channel", {"symmetric": True}),
        ("uint8, channel", {}),
    ):
        quantize_llama(path, made, **options)
        whole = OnnxLlama(made, threads=run.threads)
        added[name] = gptq_nats(whole, texts.flatten(), context=n) - base
    run.metric("megabytes, int8", made.stat().st_size / 1e6, "MB")
    late = {"quick": False, "unit": "nats/token"}
    seen = "0.46 as the mean of four windows of the test part"
    costs = "activations of a call on one grid cost more than 0.1 nats"
    run.claim(costs, added["uint8, channel"], at_least=0.1, seen_before=seen, **late)
    run.falsifier("only the weights", added["weights only, torch"], breaks=costs)
    more = added["int8, channel"] - added["uint8, channel"]
    seen = "9 as the mean of four windows of the test part"
    overflow = "int8 weights overflow where uint8 ones do not"
    note = "x86 without VNNI; with VNNI there is no such sum"
    run.claim(overflow, more, at_least=1.0, note=note, seen_before=seen, rtol=None, **late)
    for name, values in added.items():
        drift = None if name.startswith("int8") else 0.1
        run.metric(f"nats added, {name}", values.mean().item(), "nats/token", rtol=drift)
    with run.figure("int8", "What do whole numbers add to the loss?") as axes:
        axes.set_xscale("symlog", linthresh=0.01)
        bars = {name: values.numpy() for name, values in added.items()}
        plots.bars(axes, bars, xlabel="nats per token added to float32 (windows as dots)")
    judge_neighbors(run, graph, whole, prompts)


def judge_neighbors(run: Run, graph: OnnxLlama, whole: OnnxLlama, prompts: list) -> None:
    """A row alone and in a batch with another: one grid for both in int8."""
    found = {}
    for name, form in (("int8", whole), ("float32", graph)):
        values = []
        for a, b in zip(prompts, prompts[1:] + prompts[:1], strict=True):
            n = max(len(a), len(b))
            both = torch.tensor([[0] * (n - len(row)) + row for row in (a, b)])
            padding = torch.tensor([n - len(a), n - len(b)])
            alone = form(torch.tensor([a]))[0, -1]
            values.append(moved(form(both, padding=padding)[0, -1], alone))
        found[name] = values
    name = "in int8 a neighbor in the batch changes the answer"
    run.claim(name, found["int8"], at_least=0.01, unit="of the probability", quick=False)
    run.falsifier("float32", found["float32"], breaks=name)
