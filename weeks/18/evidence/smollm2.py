"""A GGUF file against gguf and transformers: blocks, logits, tokens, answers; a look inside."""

import inspect
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from shared import plots, pretrained
from shared.datasets import multi30k, path, pydocs_text
from shared.study import Run, UserError
from week18.evidence.memory import smollm2_alone
from week18.gguf_blocks import LAYOUT, dequantize
from week18.gguf_file import GGUF
from week18.gguf_llama import interleaved
from week18.gguf_tokenizer import GGUFTokenizer
from week18.gguf_twin import write_gguf
from week18.llama3 import Llama, LlamaConfig
from week18.pretrained import load_pretrained
from week18.smollm2 import (
    SYSTEM,
    attention,
    continue_greedily,
    induction_scores,
    smollm2,
)
from week18.transformers_twin import randomize

QUESTIONS = (
    "What is the capital of France?",
    "How many days are in a week?",
    "Name three primary colors.",
    "What is 2 + 2?",
    "Who wrote Romeo and Juliet?",
    "What is water made of?",
    "Give me a synonym for happy.",
    "Translate 'good morning' to Spanish.",
    "Which planet is known as the Red Planet?",
    "Write a Python function that adds two numbers.",
)
MOST = 24  # tokens of an answer
PERIOD = 40  # tokens that are repeated


def main(run: Run) -> None:
    """Compare file, model, tokenizer and answers, then look for the head that continues copies."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    check_blocks(run)
    check_small_model(run)
    judge_order(run)
    try:
        pretrained.smollm2()
    except UserError as error:
        run.say(f"{error}; without them only small random models were compared")
        return
    if run.mode != "quick":  # transformers unpacks its own copy, slower than a quick run may take
        check_smollm2(run)


# ---- the file


def check_blocks(run: Run) -> None:
    """Random bytes are blocks of any kind."""
    import gguf

    exact = run.against("gguf.quants", why="the same operations on the same float32 numbers")
    for kind, layout in LAYOUT.items():
        raw = run.rng.integers(0, 256, (6, 40 * layout.itemsize), np.uint8)
        if layout.names:  # scales of a size that weights have, no infinities
            blocks = raw.reshape(-1).view(layout)
            for scale in {"d", "m"} & set(layout.names):
                blocks[scale] = run.rng.normal(0, 0.1, blocks.shape).astype(np.float16)
        elif kind == "F32":
            raw = run.rng.normal(size=(6, 40)).astype(np.float32).view(np.uint8)
        else:  # no NaNs, which are equal to nothing
            raw[:, 1::2] &= 0xBB if kind == "F16" else 0x7E
        theirs = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[kind])
        exact(f"blocks of {kind}", dequantize(raw, kind), theirs)


@torch.no_grad()
def check_small_model(run: Run) -> None:
    """The package gguf writes a small random model, transformers and we read it."""
    from transformers import LlamaForCausalLM

    ours = randomize(Llama(LlamaConfig(96, 64, 2, 4, 2, d_ff=96, rope_base=1e4)), seed=run.seed)
    kinds = {"token_embd.weight": "Q8_0", "blk.0.attn_q.weight": "Q5_1"}
    kinds |= {"blk.1.attn_k.weight": "Q4_0", "blk.1.ffn_down.weight": "Q5_0"}
    kinds |= {"blk.0.ffn_up.weight": "Q4_1", "blk.0.attn_output.weight": "BF16"}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "small.gguf"
        write_gguf(ours, file, kinds)
        theirs = LlamaForCausalLM.from_pretrained(folder, gguf_file=file.name, dtype=torch.float32)
        again = load_pretrained(file)
    tokens = torch.randint(96, (2, 30), generator=run.generator())
    options = {"atol": 1e-4, "why": "float32 rounding"}
    name = "transformers, from the same GGUF file"
    run.check(
        "logits of a small model", again(tokens), theirs(tokens).logits, against=name, **options
    )


@torch.no_grad()
def judge_order(run: Run) -> None:
    """In small random models, whose heads' rows are turned in pairs: which order matters."""
    tokens = torch.randint(96, (1, 30), generator=run.generator(1))
    moved = {"rows": [], "values": []}
    for seed in range(4):
        model = Llama(LlamaConfig(96, 64, 2, 4, 2, d_ff=96)).requires_grad_(False)
        right = randomize(model, seed=run.seed + seed)(tokens)
        for mistake, found in moved.items():
            weights = with_mistake(model, mistake)
            wrong = torch.func.functional_call(model, weights, (tokens,))
            found.append((wrong - right).abs().max().item())
    name, unit = "the order of rows of q and k matters", "largest change of a logit"
    run.claim(name, moved["rows"], at_least=0.1, unit=unit)
    run.falsifier("rows of v, and columns of out", moved["values"], breaks=name)


# ---- the model


def check_smollm2(run: Run) -> None:
    """Everything that needs the real file."""
    smollm2()  # unpacked, if it was not yet
    start = time.perf_counter()
    model, tokenizer = smollm2()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    run.metric("seconds to load", seconds, "s", rtol=None)
    run.metric("peak memory with all libraries", peak, "GiB", rtol=None)
    measure_memory(run, sum(p.nbytes for p in model.parameters()) / 2**20)
    run.metric("parameters", sum(p.numel() for p in model.parameters()) / 1e6, "million")
    theirs, their_tokenizer = check_tokens(run, tokenizer)
    check_answers(run, model, tokenizer, theirs, their_tokenizer)
    del theirs
    judge_mistakes(run, model, tokenizer)
    judge_induction(run, model, tokenizer)


def measure_memory(run: Run, weights: float) -> None:
    """What torch, the tokenizer and the model take, in a process that does nothing else."""
    try:
        found = smollm2_alone()
    except UserError as error:
        run.say(str(error))
        return
    torch_only, before, after = (found[stage] for stage in ("torch", "tokenizer", "in use"))
    measured = {
        "torch alone": torch_only["resident"],
        "SmolLM2 in use, all": after["resident"],
        "added by the model": after["resident"] - before["resident"],
        "added by the model, private": after["private"] - before["private"],
        "the model's numbers": weights,
    }
    for name, size in measured.items():
        run.metric(f"memory, {name}", size, "MiB", rtol=None)


def texts(run: Run) -> list[str]:
    """A thousand lines: English, German, Spanish, Chinese, and Python."""
    lines = [line for line in pydocs_text().splitlines() if line.strip()][:300]
    code = "\n".join(inspect.getsource(m) for m in (json.decoder, tempfile, inspect))
    lines += [line for line in code.splitlines() if line.strip()][:300]
    try:
        lines += [pair.de for pair in multi30k("val")[:200]]
        for language in ("es", "zh"):
            content = json.loads(path("xquad", f"xquad.{language}.json").read_text("utf-8"))
            paragraphs = [p["context"] for a in content["data"] for p in a["paragraphs"]]
            lines += paragraphs[:100]
    except UserError as error:
        run.say(f"fewer languages: {error}")
    return lines


def check_tokens(run: Run, tokenizer: GGUFTokenizer) -> tuple[nn.Module, object]:
    """Ids of a thousand lines under both cuts, and of a chat."""
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = pretrained.smollm2()
    start = time.perf_counter()
    found = {"gguf_file": file.name}
    theirs = AutoModelForCausalLM.from_pretrained(file.parent, **found, dtype=torch.float32).eval()
    run.metric("seconds to load by transformers", time.perf_counter() - start, "s", rtol=None)
    their_tokenizer = AutoTokenizer.from_pretrained(file.parent, **found)
    lines = texts(run)
    run.metric("lines", len(lines))
    equal = run.against("transformers, from the same file", why="ids are integers")
    chat = [{"role": "user", "content": QUESTIONS[0]}, {"role": "assistant", "content": "Paris."}]
    chat += [{"role": "user", "content": "And of Italy?"}]
    templated = their_tokenizer.apply_chat_template(chat, add_generation_prompt=True)
    equal("a chat", tokenizer.chat(chat, system=SYSTEM), templated["input_ids"])
    fields = {name.removeprefix("tokenizer.ggml."): v for name, v in GGUF.open(file).fields.items()}
    lists = (fields["tokens"], fields["token_type"], fields["merges"])
    gpt2 = GGUFTokenizer(*lists, cut="gpt-2", end=tokenizer.end)
    read = [their_tokenizer(line).input_ids for line in lines]
    equal("ids with GPT-2's words", joined(map(gpt2.encode, lines)), joined(read))
    # transformers does not know the file's cut, `smollm`. It is that of llama.cpp: digits, then
    # GPT-2's words, which its own tokenizer does when it is told to.
    digits = pre_tokenizers.Digits(individual_digits=True)
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    their_tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    right = [their_tokenizer(line).input_ids for line in lines]
    equal("ids with the file's own words", joined(map(tokenizer.encode, lines)), joined(right))
    other = sum(a != b for a, b in zip(read, right, strict=True))
    run.metric("lines that transformers cuts otherwise", other)
    return theirs, their_tokenizer


def joined(rows) -> np.ndarray:
    """Ids of all lines, ends marked."""
    return np.array([i for row in rows for i in (*row, -1)])


@torch.inference_mode()
def check_answers(
    run: Run, model: Llama, tokenizer: GGUFTokenizer, theirs, their_tokenizer
) -> None:
    """Logits of a chat, and ten greedy answers."""
    prompts = [
        tokenizer.chat([{"role": "user", "content": question}], system=SYSTEM)
        for question in QUESTIONS
    ]
    tokens = torch.tensor(prompts[:1])
    name = "transformers, from the same file"
    why = "float32 rounding through thirty layers"
    run.check("logits", model(tokens), theirs(tokens).logits, against=name, atol=1e-4, why=why)
    ours, reference = [], []
    for question, prompt in zip(run.progress(QUESTIONS, "answers"), prompts, strict=True):
        ours.append(continue_greedily(model, prompt, MOST, tokenizer.end))
        row, n = torch.tensor([prompt]), len(prompt)
        out = theirs.generate(row, max_new_tokens=MOST, do_sample=False, eos_token_id=tokenizer.end)
        reference.append([i for i in out[0, n:].tolist() if i != tokenizer.end])
        run.say(f"  {question}  →  {tokenizer.decode(ours[-1])!r}")
    equal = run.against("transformers' generate", why="tokens are integers")
    equal("ten greedy answers", joined(ours), joined(reference))


# ---- mistakes


def with_mistake(model: Llama, mistake: str) -> dict[str, Tensor]:
    """The weights that a reader with this mistake would have made."""
    c, found = model.config, {}
    for name, p in model.named_parameters():
        rows = p.numpy()
        if mistake == "rows" and name.endswith(("q_proj.weight", "k_proj.weight")):
            rows = interleaved(rows, c.n_heads if "q_proj" in name else c.n_kv_heads)
        if mistake == "values" and name.endswith("v_proj.weight"):
            rows = interleaved(rows, c.n_kv_heads)
        if mistake == "values" and name.endswith("out_proj.weight"):
            columns = rows.T.reshape(c.n_kv_heads, -1, c.head_dim, c.d_model)
            order = interleaved(np.arange(c.head_dim)[:, None], 1).ravel()
            rows = columns[:, :, order].reshape(rows.T.shape).T
        if mistake == "packing" and "_proj" in name:  # number 2j + 1 beside 2j, as one would guess
            rows = rows.reshape(-1, 2, 16).swapaxes(1, 2).reshape(rows.shape)
        found[name] = torch.from_numpy(np.ascontiguousarray(rows))
    return found


@torch.inference_mode()
def losses(model: Llama, weights: dict[str, Tensor], rows: Tensor) -> list[float]:
    """Nats per token of each row."""
    logits = torch.func.functional_call(model, weights, (rows[:, :-1],))
    every = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none")
    return every.view(len(rows), -1).mean(1).tolist()


def judge_mistakes(run: Run, model: Llama, tokenizer: GGUFTokenizer) -> None:
    """What a forgotten detail of the format costs, in nats per token of six pieces of manual."""
    ids = tokenizer.encode(pydocs_text()[20_000:40_000])
    rows = torch.tensor(ids[: 6 * 120]).view(6, 120)
    right = losses(model, {}, rows)
    found = {"as it should be": right}
    labels = {"rows": "rows of q, k as in the file", "packing": "nibbles beside each other"}
    for mistake, label in labels.items():
        found[label] = losses(model, with_mistake(model, mistake), rows)
    harmless = losses(model, with_mistake(model, "values"), rows)
    rises = np.subtract(list(found.values()), right)
    name = "rows of q and k in the file's order ruin the model"
    unit = "nats per token more"
    run.claim(name, rises[1], at_least=1.0, unit=unit, quick=False)
    run.falsifier("rows of v so, columns of out too", np.subtract(harmless, right), breaks=name)
    packing = "nibbles unpacked side by side ruin the model"
    run.claim(packing, rises[2], at_least=1.0, unit=unit, quick=False)
    for label, values in found.items():
        run.metric(f"loss: {label}", float(np.mean(values)), "nats/token")
    with run.figure("mistakes", "What does a misread format cost?") as axes:
        uniform = {"all tokens alike": float(np.log(model.config.vocab_size))}
        plots.bars(
            axes, found, reference=uniform, xlabel="loss on Python's manual (nats per token)"
        )


# ---- inside


def repeated(model: Llama, seed: int, *, copy: bool = True) -> Tensor:
    """Random tokens and once more the same, or others."""
    generator = torch.Generator().manual_seed(seed)
    halves = torch.randint(17, model.config.vocab_size, (2, PERIOD), generator=generator)
    return halves[[0, 0] if copy else [0, 1]].flatten()[None]


def scores_on(model: Llama, seed: int, *, copy: bool = True) -> Float[Tensor, "layer head"]:
    """How much each head reads what followed last time."""
    return induction_scores(attention(model, repeated(model, seed, copy=copy)), PERIOD)


def judge_induction(run: Run, model: Llama, tokenizer: GGUFTokenizer) -> None:
    """A head chosen on some random texts, judged on others."""
    first = run.seed + 100
    chosen = torch.stack([scores_on(model, first + seed) for seed in range(3)]).mean(0)
    layer, head = divmod(int(chosen.argmax()), model.config.n_heads)
    values, controls = (
        [float(scores_on(model, first + seed, copy=copy)[layer, head]) for seed in range(3, 8)]
        for copy in (True, False)
    )
    name = "a head reads what followed last time"
    unit = "share of its attention"
    run.claim(name, values, at_least=0.5, unit=unit, quick=False)
    run.falsifier("nothing is repeated", controls, breaks=name)
    run.metric("layer of the induction head", layer + 1)
    run.metric("head of the induction head", head + 1)
    text = "The cat sat on a blue mat. The cat sat on a blue mat."
    ids = tokenizer.encode(text)
    words = [tokenizer.decode([i]) for i in ids]
    table = attention(model, torch.tensor([ids]))[layer][0, head]
    title = "Which head completes a repetition?"
    with run.figure("induction", title, columns=2, size=(9.5, 4.8)) as axes:
        options = {"xlabel": "head", "ylabel": "layer", "label": "attention to what followed"}
        options["columns"] = [str(i + 1) for i in range(model.config.n_heads)]
        options["rows"] = [str(i + 1) if i % 6 == 0 else "" for i in range(len(chosen))]
        plots.heat_map(axes[0], chosen, limits=(0, 1), **options)
        options = {"xlabel": "reads", "ylabel": "at", "label": "attention"}
        plots.heat_map(axes[1], table, rows=words, columns=words, limits=(0, 1), **options)
        axes[1].tick_params(axis="x", rotation=90)
        axes[1].set_title(f"layer {layer + 1}, head {head + 1}")
