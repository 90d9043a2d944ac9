"""Caches: however tokens come in, the logits are those of one pass; blocks are never lost."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from week19.kv_cache import KVCache, PagedKVCache, generate, left_pad
from week19.sampling import Sampler, greedy
from week19.twins import small_llama

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def make_model(n_kv_heads=2):
    return small_llama(0, std=0.35, vocab_size=29, d_model=16, n_kv_heads=n_kv_heads)


def random_tokens(*shape, seed=0):
    return torch.randint(29, shape, generator=torch.Generator().manual_seed(seed))


def stacked(steps):
    return torch.stack(list(steps), dim=1)


MODEL = make_model()
PROMPTS = [[5, 9, 2, 14, 17], [7], [20, 20, 1]]


# ---- one block of memory


@given(
    kv_heads=st.sampled_from([1, 2, 4]),
    batch=st.integers(1, 3),
    parts=st.lists(st.integers(1, 5), min_size=1, max_size=5),
)
@settings(max_examples=15)
def test_any_chunking_is_one_pass(kv_heads, batch, parts):
    model, n = make_model(n_kv_heads=kv_heads), sum(parts)
    tokens = random_tokens(batch, n)
    cache = KVCache.for_model(model, batch, n)
    logits = [model(part, cache=cache) for part in tokens.split(parts, dim=1)]
    torch.testing.assert_close(torch.cat(logits, 1), model(tokens), **CLOSE)
    assert cache.length == n


def test_crop_rolls_back():
    tokens, other = random_tokens(2, 9), random_tokens(2, 4, seed=1)
    cache = KVCache.for_model(MODEL, 2, 9)
    MODEL(tokens, cache=cache)
    cache.crop(5)
    assert cache.length == 5
    expected = MODEL(torch.cat([tokens[:, :5], other], 1))[:, 5:]
    torch.testing.assert_close(MODEL(other, cache=cache), expected, **CLOSE)


@pytest.mark.parametrize("rows", [[2, 0, 0], [1, 2, 0], [1], [0, 1, 2, 1, 0]])
def test_select_moves_rows(rows):
    tokens, new = random_tokens(3, 6), random_tokens(len(rows), 1, seed=2)
    cache = KVCache.for_model(MODEL, 3, 8)
    MODEL(tokens, cache=cache)
    cache.select(torch.tensor(rows))
    expected = MODEL(torch.cat([tokens[rows], new], 1))[:, -1:]
    torch.testing.assert_close(MODEL(new, cache=cache), expected, **CLOSE)


def _full_cache():
    cache = KVCache.for_model(MODEL, 2, 3)
    MODEL(random_tokens(2, 3), cache=cache)
    return cache


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: KVCache.for_model(MODEL, 0, 5), "batch must be at least 1, got 0"),
        (lambda: MODEL(random_tokens(2, 1), cache=_full_cache()), "max_length = 3, got 4"),
        (
            lambda: MODEL(random_tokens(1, 1), cache=KVCache.for_model(MODEL, 2, 3)),
            r"\(batch, kv_head\) = \(2, 2\), got \(1, 2\)",
        ),
        (lambda: _full_cache().crop(4), "length must be between 0 and 3, got 4"),
        (lambda: _full_cache().select(torch.tensor([2])), r"rows must lie in 0\.\.1, got \[2\]"),
        (lambda: left_pad([[1], []]), "prompts must each hold at least one token"),
        (lambda: generate(MODEL, [[29]], 3, choose=greedy), "tokens below 29, got 29"),
        (lambda: generate(MODEL, [[-1]], 3, choose=greedy), "tokens of at least 0, got -1"),
        (lambda: generate(MODEL, [[1]], 0, choose=greedy), "max_new_tokens must be at least 1"),
        (lambda: generate(MODEL, [[1, 2]], 2048, choose=greedy), "context = 2048, got 2049"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---- decoding


def test_cached_is_uncached_and_each_row_by_itself():
    cached = stacked(generate(MODEL, PROMPTS, 20, choose=greedy))
    assert torch.equal(cached, stacked(generate(MODEL, PROMPTS, 20, choose=greedy, cache=False)))
    alone = [stacked(generate(MODEL, [p], 20, choose=greedy)) for p in PROMPTS]
    assert torch.equal(cached, torch.cat(alone))


def test_one_token_is_read_a_step():
    read = []
    handle = MODEL.embed.register_forward_hook(lambda m, args, out: read.append(args[0].shape))
    list(generate(MODEL, PROMPTS, 4, choose=greedy))
    handle.remove()
    assert read == [(3, 5), (3, 1), (3, 1), (3, 1)]


def test_stops_row_by_row():
    free = stacked(generate(MODEL, PROMPTS, 20, choose=greedy))
    stop = [int(free[0, 3]), int(free[1, 6])]
    tokens = stacked(generate(MODEL, PROMPTS, 20, choose=greedy, stop=stop))
    for row, all_of in zip(tokens.tolist(), free.tolist(), strict=True):
        ends = [i for i, t in enumerate(all_of) if t in stop]
        n = ends[0] + 1 if ends else 20
        assert row[:n] == all_of[:n][: len(row)]
        assert set(row[n:]) <= {-1}


def test_a_rows_sample_is_its_own():
    sampler = Sampler(temperature=1.3, top_p=0.9, repetition_penalty=1.2)

    def write(prompts, seeds):
        own = [torch.Generator().manual_seed(s) for s in seeds]
        return stacked(generate(MODEL, prompts, 15, choose=sampler, generator=own))

    together = write(PROMPTS, [4, 5, 6])
    for i, prompt in enumerate(PROMPTS):
        assert torch.equal(together[i : i + 1], write([prompt], [4 + i]))


# ---- blocks


def paged(pool, ids, tokens, model=MODEL):
    batch = pool.batch(ids, new=tokens.shape[1])
    return model(tokens, cache=batch, mask=batch.mask, positions=batch.positions)


def truth(*parts):
    return MODEL(torch.cat(parts)[None])[0]


@given(
    block_size=st.integers(1, 6),
    lengths=st.lists(st.integers(1, 13), min_size=1, max_size=4),
    new=st.integers(1, 4),
)
@settings(max_examples=20)
def test_unequal_sequences_in_blocks(block_size, lengths, new):
    pool = PagedKVCache(MODEL, n_blocks=80, block_size=block_size)
    texts = [random_tokens(n, seed=n) for n in lengths]
    ids = [pool.add() for _ in texts]
    for i, text in zip(ids, texts, strict=True):
        torch.testing.assert_close(paged(pool, [i], text[None])[0], truth(text), **CLOSE)
    more = random_tokens(len(ids), new, seed=99)
    logits = paged(pool, ids, more)
    for row, text, extra in zip(logits, texts, more, strict=True):
        torch.testing.assert_close(row, truth(text, extra)[-new:], **CLOSE)
    assert [pool.length(i) for i in ids] == [n + new for n in lengths]
    used = sum(-(-(n + new) // block_size) for n in lengths)
    assert pool.n_free == 80 - used
    tokens = sum(lengths) + new * len(lengths)
    assert pool.fragmentation == pytest.approx(1 - tokens / (used * block_size))


@pytest.mark.parametrize("n", [3, 4, 5])
def test_forks_share_and_copy_on_write(n):
    pool = PagedKVCache(MODEL, n_blocks=12, block_size=4)
    text, a = random_tokens(n), pool.add()
    paged(pool, [a], text[None])
    before = pool.n_free
    b = pool.fork(a)
    assert pool.n_free == before
    assert pool.blocks(a) == pool.blocks(b)
    new = random_tokens(2, 6, seed=3)
    for step in new.T:
        logits = paged(pool, [a, b], step[:, None])
    for row, extra in zip(logits[:, 0], new, strict=True):
        torch.testing.assert_close(row, truth(text, extra)[-1], **CLOSE)
    full = n // 4  # blocks that nobody had to write into stay shared
    assert pool.blocks(a)[:full] == pool.blocks(b)[:full]
    assert not set(pool.blocks(a)[full:]) & set(pool.blocks(b)[full:])


def test_a_fork_outlives_its_parent():
    pool = PagedKVCache(MODEL, n_blocks=6, block_size=4)
    text, a = random_tokens(6), pool.add()
    paged(pool, [a], text[None])
    b = pool.fork(a)
    pool.remove(a)
    c, new = pool.add(), random_tokens(1, seed=5)
    paged(pool, [c], random_tokens(1, 9, seed=4))  # would overwrite blocks freed too early
    torch.testing.assert_close(paged(pool, [b], new[None])[0, -1], truth(text, new)[-1], **CLOSE)
    pool.remove(b)
    pool.remove(c)
    assert pool.n_free == 6


def test_blocks_reserved_and_not_used_are_not_shared():
    pool = PagedKVCache(MODEL, n_blocks=6, block_size=2)
    text, a = random_tokens(4), pool.add()
    paged(pool, [a], text[None])
    pool.batch([a])  # and then the call never came
    b, new = pool.fork(a), random_tokens(2, 1, seed=5)
    logits = paged(pool, [a, b], new)
    for row, extra in zip(logits[:, 0], new, strict=True):
        torch.testing.assert_close(row, truth(text, extra)[-1], **CLOSE)


@given(data=st.data())
@settings(max_examples=30)
def test_no_block_is_lost_or_owned_twice(data):
    pool = PagedKVCache(MODEL, n_blocks=10, block_size=3)
    alive = [pool.add()]
    for _ in range(data.draw(st.integers(1, 25))):
        action = data.draw(st.sampled_from(["grow", "fork", "remove", "crop", "add"]))
        i = data.draw(st.sampled_from(alive)) if alive else None
        if action == "add" or i is None:
            alive.append(pool.add())
        elif action == "fork":
            alive.append(pool.fork(i))
        elif action == "remove":
            pool.remove(i)
            alive.remove(i)
        elif action == "crop":
            pool.crop(i, data.draw(st.integers(0, pool.length(i))))
        else:
            n, free = data.draw(st.integers(1, 7)), pool.n_free
            try:
                pool.batch([i], new=n).advance(n)
            except ValueError:
                assert pool.n_free == free
        tables = [set(pool.blocks(i)) for i in alive]
        assert pool.n_free == 10 - len(set().union(*tables))
        assert all(len(pool.blocks(i)) == -(-pool.length(i) // 3) for i in alive)
        assert 0 <= pool.fragmentation < 1


def test_padding_does_not_read_other_sequences():
    pool = PagedKVCache(MODEL, n_blocks=8, block_size=2)
    poison, a, b = pool.add(), pool.add(), pool.add()
    pool.batch([poison], new=2)
    for buffer in (pool._k, pool._v):
        buffer[:, [2 * block + j for block in pool.blocks(poison) for j in (0, 1)]] = torch.nan
    paged(pool, [a], random_tokens(1, 5))
    paged(pool, [b], random_tokens(1, 2))
    assert torch.isfinite(paged(pool, [a, b], random_tokens(2, 1))).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda pool: PagedKVCache(MODEL, n_blocks=0), "n_blocks must be at least 1, got 0"),
        (lambda pool: pool.batch([1], new=9), "need 5 blocks, got 4 free of 4"),
        (lambda pool: pool.batch([1], new=0), "new must be at least 1, got 0"),
        (lambda pool: pool.batch([1, 1]), "sequences must be different"),
        (lambda pool: pool.length(7), r"sequence must be one of \[1\], got 7"),
        (lambda pool: pool.crop(1, 1), "length must be between 0 and 0, got 1"),
        (lambda pool: paged_wrong(pool), r"\(batch, new\) = \(1, 1\), got \(1, 2\)"),
    ],
)
def test_bad_use_of_the_pool_is_named(call, message):
    pool = PagedKVCache(MODEL, n_blocks=4, block_size=2)
    pool.add()
    with pytest.raises(ValueError, match=message):
        call(pool)


def paged_wrong(pool):
    batch = pool.batch([1])
    MODEL(random_tokens(1, 2), cache=batch)
