"""Sampling: cached is uncached, a row in a batch is the row alone, however long the text."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from enforce import plain
from hypothesis import example, given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from tiny_gpt.benchmark.windows import windowed_losses
from tiny_gpt.data.tokenizers import train_tokenizer
from tiny_gpt.generation.decoder import Decoder
from tiny_gpt.generation.generate import StaticCache, decode_stream, generate, window_start
from tiny_gpt.generation.writing import prompt_tokens, stream, until, write
from tiny_gpt.model.config import GPTConfig
from tiny_gpt.model.gpt import GPT
from tiny_gpt.training.checkpoints import Checkpoint
from week19.sampling import Sampler, greedy

VOCAB, CONTEXT = 29, 12
ARCHITECTURES = {"gpt2": {}, "llama": {"n_kv_heads": 2}, "modern": {}}
EVERY = pytest.mark.parametrize("architecture", ARCHITECTURES)
SAMPLERS = {
    "greedy": greedy,
    "drawn": Sampler(temperature=0.8, top_k=20),
    "penalized": Sampler(temperature=0.7, top_p=0.95, repetition_penalty=1.3),
}


def model_of(architecture: str, *, context: int = CONTEXT, **changes) -> GPT:
    """Large weights everywhere, so that each token and position sways the next token."""
    sizes = {"n_layers": 2, "n_heads": 4, "d_model": 16} | ARCHITECTURES[architecture] | changes
    generator = torch.Generator().manual_seed(1)
    model = GPT(GPTConfig.of(architecture, VOCAB, context=context, **sizes), generator)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.empty_like(p).normal_(std=0.2, generator=generator))
        model.head.weight.mul_(1 if model.config.tied else 4)
    return model.eval()


def prompts_of(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randint(VOCAB, (n,), generator=generator).tolist() for n in lengths]


def text(*args, **options) -> list[list[int]]:
    """Rows of all that is generated."""
    return torch.stack([t.clone() for t in generate(*args, **options)], 1).tolist()


# ---- the decode step


@EVERY
def test_step_is_the_model(architecture):
    model = model_of(architecture)
    tokens = torch.tensor(prompts_of(CONTEXT, CONTEXT, CONTEXT))
    with torch.no_grad():
        expected = model(tokens)
        cache = StaticCache.for_model(model, 3, CONTEXT)
        model(tokens[:, :2], cache=cache)
        decoder = Decoder(model, cache)
        for slot in range(2, CONTEXT):
            logits = decoder.step(tokens[:, slot], slot)
            torch.testing.assert_close(logits, expected[:, slot], rtol=1e-5, atol=1e-5)


@EVERY
def test_step_of_rows_at_different_places(architecture):
    model = model_of(architecture)
    tokens = torch.tensor(prompts_of(CONTEXT, CONTEXT, CONTEXT))
    with torch.no_grad():
        expected = model(tokens)
        cache = StaticCache.for_model(model, 3, CONTEXT)
        model(tokens, cache=cache)  # what lies beyond a row's place must play no part
        decoder, rows = Decoder(model, cache), torch.arange(3)
        for step in range(5):
            slots = [step + 1, step + 3, step + 6]
            cache.last = tokens[rows, torch.tensor(slots) - 1]
            logits = decoder.step(tokens[rows, slots], slots)
            torch.testing.assert_close(logits, expected[rows, slots], rtol=1e-5, atol=1e-5)


# ---- equivalences


@EVERY
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_cached_is_uncached(architecture, sampler):
    """Texts of unequal length, windows that move at different steps, rows that end."""
    model, seen = model_of(architecture), {}

    def choose(cache):
        def chosen(logits, history, generators):
            seen.setdefault(cache, []).append(logits.clone())
            return SAMPLERS[sampler](logits, history, generators)

        return chosen

    for prompts in (prompts_of(1, 5, 20), prompts_of(7, 7)):
        seen.clear()
        options = {"seeds": range(9, 9 + len(prompts))}
        cached, uncached = (
            text(model, prompts, 30, sampler=choose(cache), cache=cache, **options)
            for cache in (True, False)
        )
        assert cached == uncached
        assert len(seen[True]) == len(seen[False]) == 30  # the windows moved several times
        for a, b in zip(seen[True], seen[False], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@EVERY
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_row_in_a_batch_is_the_row_alone(architecture, sampler):
    model, prompts, seeds = model_of(architecture), prompts_of(3, 15, 1, 9), [5, 5, 7, 8]
    options = {"sampler": SAMPLERS[sampler]}
    batch = text(model, prompts, 30, seeds=seeds, **options)
    alone = [
        text(model, [p], 30, seeds=[s], **options)[0] for p, s in zip(prompts, seeds, strict=True)
    ]
    assert batch == alone


@EVERY
@pytest.mark.parametrize("sampler", ["greedy", "drawn"])
def test_within_context_it_is_week_19_without_cache(architecture, sampler):
    model, prompts = model_of(architecture, context=32), prompts_of(3, 8, 1)
    expected = plain("19", "kv_cache").generate(
        model,
        prompts,
        20,
        choose=SAMPLERS[sampler],
        cache=False,
        stop=[4],
        generator=[torch.Generator().manual_seed(i) for i in range(3)],
    )
    expected = torch.stack([t.clone() for t in expected], 1).tolist()
    assert text(model, prompts, 20, sampler=SAMPLERS[sampler], stop=[4]) == expected


@EVERY
def test_the_window_is_what_the_model_is_given(architecture):
    """Against a loop that knows nothing of caches: the model on the last part of the text."""
    model, prompt = model_of(architecture), prompts_of(4)[0]
    said = list(prompt)
    with torch.no_grad():
        for _ in range(30):
            n = len(said)
            start = 0
            while n - start > CONTEXT:  # full: the last quarter is read anew, the new one included
                start += CONTEXT - CONTEXT // 4 + 1
            said.append(int(model(torch.tensor([said[start:]]))[0, -1].argmax()))
    for cache in (True, False):
        assert text(model, [prompt], 30, sampler=greedy, cache=cache)[0] == said[4:]


@given(st.integers(1, 400), st.integers(1, 40))
def test_window_start(length, context):
    start, longer = window_start(length, context), window_start(length + 1, context)
    assert 1 <= length - start <= context
    assert start == 0 or length - start >= max(1, context // 4)
    # It stays until it is full; the window that begins anew holds a quarter of the context.
    if length - start < context:
        assert longer == start
    else:
        assert length + 1 - longer == max(1, context // 4)


@pytest.mark.parametrize("kept", [1, 3, 7, CONTEXT])
def test_windowed_losses_are_those_of_the_windows_one_by_one(kept):
    model = model_of("modern")
    texts = torch.tensor(prompts_of(50, 50))
    found = windowed_losses(model, texts, kept)
    assert found.shape == (2, 49)
    for n in range(1, 50):
        window = texts[:, window_start(n, CONTEXT, kept) : n]
        with torch.no_grad():
            expected = cross_entropy(model(window)[:, -1], texts[:, n], reduction="none")
        assert found[:, n - 1].tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    spans = {n - window_start(n, CONTEXT, kept) for n in range(CONTEXT + 1, 400)}
    assert spans == set(range(kept, CONTEXT + 1))


@pytest.mark.parametrize("context", [1, 2, 3])
def test_the_shortest_contexts(context):
    model = model_of("modern", context=context)
    options = {"sampler": SAMPLERS["drawn"]}
    cached = text(model, prompts_of(1, 4), 9, **options)
    assert cached == text(model, prompts_of(1, 4), 9, cache=False, **options)


# ---- seeds, endings, what is left alone


def test_seeds():
    model, sampler, same = model_of("modern"), Sampler(), prompts_of(4) * 3
    state = torch.get_rng_state()
    first = text(model, same, 20, sampler=sampler)
    assert torch.equal(torch.get_rng_state(), state)
    assert text(model, same, 20, sampler=sampler, seeds=[0, 1, 2]) == first
    assert len({tuple(row) for row in first}) == 3
    assert text(model, same, 20, sampler=sampler, seeds=[2, 1, 0]) == first[::-1]


def test_stop_tokens():
    model, prompts = model_of("llama"), prompts_of(3, 6, 2, 5)
    free = text(model, prompts, 60, sampler=Sampler())
    stop = {row[n] for row, n in zip(free, (40, 11, 25, 33), strict=True)}
    ended = text(model, prompts, 60, sampler=Sampler(), stop=stop)
    assert ended == text(model, prompts, 60, sampler=Sampler(), stop=stop, cache=False)
    firsts = [next(i for i, t in enumerate(row) if t in stop) for row in free]
    assert len(set(firsts)) > 2
    assert len(ended[0]) == max(firsts) + 1  # all ended, all is over
    for row, expected, first in zip(ended, free, firsts, strict=True):
        assert row[: first + 1] == expected[: first + 1]
        assert set(row[first + 1 :]) <= {-1}


def test_tokens_come_one_by_one_and_each_is_read_once():
    model, lengths = model_of("gpt2"), []
    hook = model.embed.register_forward_hook(lambda _, args, out: lengths.append(args[0].shape[1]))
    stream = generate(model, prompts_of(4), 21, sampler=greedy)
    assert lengths == []
    next(stream)
    assert lengths == [4]
    list(stream)
    # One row of 4 to 24 tokens; a window of 12 is read anew at 13 and at 23 tokens.
    assert lengths == [4, 3, 3]
    hook.remove()


def test_nothing_is_left_changed():
    model = model_of("gpt2", dropout=0.5).train()
    weights = {name: p.clone() for name, p in model.state_dict().items()}
    first = text(model, prompts_of(3), 20, sampler=greedy)
    assert model.training
    assert first == text(model.eval(), prompts_of(3), 20, sampler=greedy, cache=False)
    assert all(torch.equal(p, weights[name]) for name, p in model.state_dict().items())
    token = next(generate(model, prompts_of(3), 2, sampler=greedy))
    assert not token.is_inference()  # so that it may be trained on
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize(
    ("prompts", "new", "options", "message"),
    [
        ([[1]], 0, {}, r"max_new_tokens must be at least 1, got 0"),
        ([[1], []], 1, {}, r"prompts must each hold at least one token"),
        ([[1, VOCAB]], 1, {}, r"prompts must hold tokens below 29, got 29"),
        ([[1, -1]], 1, {}, r"prompts must hold tokens of at least 0, got -1"),
        ([[1], [2]], 1, {"seeds": [3]}, r"seeds must be one per row, 2, got 1"),
    ],
)
def test_wrong_input_is_named_at_once(prompts, new, options, message):
    with pytest.raises(ValueError, match=message):
        generate(model_of("gpt2"), prompts, new, sampler=greedy, **options)


# ---- compiled


def test_without_a_compiler_it_says_so_and_goes_on(monkeypatch):
    def broken(function, **options):
        def raises(*args):
            raise RuntimeError("InvalidCxxCompiler: no C++ compiler\nand much more")

        return raises

    monkeypatch.setattr(torch, "compile", broken)
    model, prompts = model_of("modern"), prompts_of(3, 5)
    with pytest.warns(
        RuntimeWarning, match=r"not compiled: InvalidCxxCompiler: no C\+\+ compiler$"
    ):
        compiled = text(model, prompts, 20, sampler=Sampler(), compile=True)
    assert compiled == text(model, prompts, 20, sampler=Sampler())


COMPILED = """
import torch, warnings
warnings.simplefilter("error", RuntimeWarning)
from tiny_gpt.generation.generate import generate
from tiny_gpt.model.config import GPTConfig
from tiny_gpt.model.gpt import GPT
from week19.sampling import Sampler
torch.set_num_threads(1)
config = GPTConfig.of("modern", 17, context=12, n_layers=1, n_heads=2, d_model=8, zero_head=False)
model = GPT(config, torch.Generator().manual_seed(0))
rows = [
    [t.tolist() for t in generate(model, [[1, 2, 3], [4]], 30, sampler=Sampler(), compile=c)]
    for c in (False, True)
]
assert rows[0] == rows[1]
"""


@pytest.mark.skipif(
    "TINY_GPT_COMPILE" not in os.environ,
    reason="compiling takes up to half a minute with a cold cache: set TINY_GPT_COMPILE=1",
)
def test_compiled_is_eager():
    """In a process of its own: the compiler cannot trace through the tests' shape contracts."""
    subprocess.run([sys.executable, "-c", COMPILED], check=True)


# ---- text as it comes

TEXTS = st.text(st.sampled_from("ab é€😀\n\ufffd漢"), max_size=12)


@pytest.fixture(scope="module")
def tokenizers():
    corpus = ["ab é€😀\n\ufffd漢 abab éé 😀😀 漢漢"]
    return {kind: train_tokenizer(kind, corpus, vocab_size=270) for kind in ("char", "byte", "bpe")}


@pytest.mark.parametrize("kind", ["char", "byte", "bpe"])
@given(written=TEXTS)
def test_stream_of_text(tokenizers, kind, written):
    tokenizer = tokenizers[kind]
    ids = tokenizer.encode(written).tolist()
    given_out = []

    def feed():
        for i, token in enumerate(ids):
            # All characters that are whole by now, but for a U+FFFD at the end, are out already.
            whole = tokenizer.decode(ids[:i]).rstrip("\ufffd")
            assert "".join(given_out).startswith(whole)
            yield token
            yield -1

    for piece in decode_stream(tokenizer, feed()):
        given_out.append(piece)
        assert piece
        assert written.startswith("".join(given_out))  # never half a character
    assert "".join(given_out) == written


@example(data=[0x41, 0xE2, 0x82])
@given(data=st.lists(st.sampled_from([0x41, 0x80, 0xC3, 0xA9, 0xE2, 0x82, 0xF0, 0x9F, 0xFF])))
def test_stream_of_broken_text(tokenizers, data):
    tokenizer = tokenizers["byte"]
    ids = [int(tokenizer._id_of_byte[byte]) for byte in data]
    assert "".join(decode_stream(tokenizer, ids)) == tokenizer.decode(ids)


@given(
    pieces=st.lists(st.text("ab", max_size=4), max_size=8),
    stop=st.text("ab", max_size=4) | st.none(),
)
def test_until_ends_before_the_first_stop_and_holds_back_no_more_than_it_must(pieces, stop):
    text = "".join(pieces)
    wanted = text.split(stop)[0] if stop else text
    shown, read = "", 0

    def one_by_one():
        nonlocal read
        for piece in pieces:
            read += len(piece)
            yield piece

    for piece in until(one_by_one(), stop):
        shown += piece
        seen = text[:read]
        begun = [n for n in range(len(stop or "")) if seen.endswith(stop[:n])]
        assert shown in (wanted, seen[: len(seen) - max(begun, default=0)])
    assert shown == wanted
    assert not stop or stop not in text or read <= text.find(stop) + len(stop) + 3


def test_a_text_ends_with_its_token_and_begins_with_what_the_tokenizer_knows():
    tokenizer = train_tokenizer("byte", [])
    model = GPT(GPTConfig.of("modern", tokenizer.vocab_size, context=8, n_layers=1, d_model=16))
    checkpoint = Checkpoint(Path(), model, tokenizer, 0, {}, {})
    end, asked = tokenizer.end_of_text, []
    rows = [[*tokenizer.encode("ab"), end, 70], tokenizer.encode("wxyz").tolist()]

    def says(logits, history, generators):
        asked.append(generators[0].initial_seed())
        assert history[:, 0].eq(end).all()
        return torch.tensor([row[history.shape[1] - 1] for row in rows[: len(logits)]])

    assert write(checkpoint, "", 4, seeds=[5, 6], sampler=says) == ["ab", "wxyz"]
    assert asked == [5, 5, 5, 5]
    assert write(checkpoint, "", 4, seeds=[7], sampler=says) == ["ab"]
    assert asked[4:] == [7, 7, 7]
    assert "".join(stream(checkpoint, "", 4, seed=8, sampler=says)) == "ab"
    for text, begins in (("a b\nc", "\n"), ("a b", " "), ("xy", "x")):
        known = train_tokenizer("char", [text], end_of_text=False)
        assert prompt_tokens(known, "") == known.encode(begins).tolist()
