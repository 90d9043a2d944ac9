"""Gemma 2 and PaliGemma 2: transformers', masks by enumeration, caches, and who sees whom."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from week25.answering import learn, right, rows
from week25.gemma2 import Gemma2, Gemma2Config, RMSNorm, soft_cap, window_mask
from week25.paligemma2 import IGNORED, PaliGemma2, answer_targets, prefix_mask
from week25.scenes import END, WORDS
from week25.vision_twins import gemma_twin, matched, paligemma_twin, randomize

SEEDS = st.integers(0, 10_000)
TIGHT = {"attention_cap": 3.0, "final_cap": 4.0, "query_scalar": 10, "head_dim": 6}


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def new_gemma(seed=0, **options):
    sizes = {"n_layers": 3, "n_heads": 4, "n_kv_heads": 2, "d_ff": 20, "window": 4}
    return randomize(Gemma2(Gemma2Config(31, 16, **(sizes | TIGHT | options)), gen()), seed=seed)


def new_paligemma(seed=0, **options):
    sizes = {"side": 8, "d_vision": 16, "d_model": 24, "window": 5, "vision_layers": 1}
    model = PaliGemma2.small(len(WORDS), gen(), **(sizes | TIGHT | options))
    return randomize(model, seed=seed)


def batch(n, seed=0):
    images = torch.randn(n, 3, 8, 8, generator=gen(seed))
    tokens = torch.randint(3, len(WORDS) - 1, (n, 9), generator=gen(seed))
    prefix = torch.randint(1, 5, (n,), generator=gen(seed))
    return images, tokens, prefix, prefix + torch.randint(1, 5, (n,), generator=gen(seed + 1))


# ---- Gemma 2


@pytest.mark.parametrize("n_kv", [1, 2, 4])
@settings(deadline=None, max_examples=2)
@given(n=st.integers(1, 3), seq=st.integers(2, 12), seed=SEEDS)
def test_gemma_is_that_of_transformers(n_kv, n, seq, seed):
    ours = new_gemma(seed, n_kv_heads=n_kv)
    theirs = gemma_twin(ours)
    tokens = torch.randint(1, 31, (n, seq), generator=gen(seed))
    logits, reference = ours(ours.embed(tokens)), theirs(tokens).logits
    assert torch.allclose(logits, reference, atol=1e-4)
    for out in (logits, reference):
        F.cross_entropy(out.flatten(0, 1), tokens.flatten()).backward()
    for parts, p in matched(ours, theirs):
        assert torch.allclose(torch.cat([q.grad for q in parts]), p.grad, atol=1e-4)


def test_gemma_without_caps_too():
    ours = new_gemma(attention_cap=None, final_cap=None, query_scalar=None)
    tokens = torch.randint(1, 31, (2, 9), generator=gen())
    assert torch.allclose(ours(ours.embed(tokens)), gemma_twin(ours)(tokens).logits, atol=1e-4)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 6), st.integers(0, 6), st.integers(1, 8))
def test_window_mask_by_enumeration(query, more, window):
    key = query + more
    expected = [[more + i - window < j <= more + i for j in range(key)] for i in range(query)]
    assert window_mask(query, key, window=window).tolist() == expected


@settings(deadline=None, max_examples=8)
@given(st.integers(1, 9), SEEDS)
def test_a_cache_changes_nothing(cut, seed):
    model = new_gemma(seed)
    x = model.embed(torch.randint(1, 31, (2, 10), generator=gen(seed)))
    cache = model.new_cache(2, 10)
    parts = [model(x[:, :cut], cache=cache)]
    parts += [model(x[:, i : i + 1], cache=cache) for i in range(cut, 10)]
    assert cache.length == 10
    assert torch.allclose(torch.cat(parts, 1), model(x), atol=1e-5)


def test_the_gain_is_one_plus_the_weight_and_float32_until_the_end():
    norm = randomize(RMSNorm(64, 1e-6))
    x = torch.randn(5, 64, generator=gen())
    expected = F.rms_norm(x, (64,), eps=1e-6) * (1 + norm.weight)
    assert torch.allclose(norm(x), expected, atol=1e-6)
    half = norm.bfloat16()
    wide = F.rms_norm(x.bfloat16().float(), (64,), eps=1e-6) * (1 + half.weight.float())
    assert torch.equal(half(x.bfloat16()), wide.bfloat16())


def test_caps_bound_and_keep_small_numbers():
    x = torch.linspace(-400, 400, 101)
    assert soft_cap(x, 30.0).abs().max() <= 30
    assert torch.allclose(soft_cap(x / 1000, 30.0), x / 1000, atol=1e-4)
    assert soft_cap(x, None) is x
    model = new_gemma(final_cap=0.5)
    assert model(100 * torch.randn(1, 5, 16, generator=gen())).abs().max() <= 0.5


def test_what_is_masked_is_not_seen_even_with_a_small_cap():
    """Capped after the mask, minus infinity would be minus the cap, and weigh something."""
    model = new_gemma(attention_cap=0.5)
    x = torch.randn(1, 8, 16, generator=gen())
    changed = x.clone()
    changed[:, 5:] += 3
    assert torch.allclose(model(x)[:, :5], model(changed)[:, :5], atol=1e-6)


def test_local_layers_see_their_window_only():
    model = new_gemma(n_layers=1, window=3)  # layer 0 is local
    x = torch.randn(1, 8, 16, generator=gen())
    changed = x.clone()
    changed[:, 0] += 3
    same = (model(x) == model(changed)).all(-1)[0].tolist()
    assert same == [False] * 3 + [True] * 5


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="n_kv_heads must divide n_heads = 4, got 3"):
        Gemma2Config(31, n_kv_heads=3)
    with pytest.raises(ValueError, match="head_dim must be even, got 5"):
        Gemma2Config(31, head_dim=5)
    with pytest.raises(ValueError, match="window must be at least 1, got 0"):
        Gemma2Config(31, window=0)
    model = new_gemma()
    with pytest.raises(ValueError, match=r"allowed must be 4 × 4, got \(4, 5\)"):
        model(torch.zeros(1, 4, 16), allowed=torch.ones(1, 4, 5, dtype=torch.bool))


# ---- PaliGemma 2


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 7), st.data())
def test_prefix_mask_by_enumeration(n, data):
    real = data.draw(st.integers(0, n))
    prefix = data.draw(st.integers(0, real))
    window = data.draw(st.integers(1, n))
    found = prefix_mask(n, torch.tensor([prefix]), torch.tensor([real]), window=window)[0]
    for i in range(n):
        for j in range(n):
            near = i - window < j <= i
            seen = (near or (i < prefix and j < prefix)) and j < real
            assert found[i, j] == (seen or i == j)


def test_prefix_mask_refuses_lengths_that_do_not_rise():
    with pytest.raises(ValueError, match=r"prefix and real must rise up to n = 4, got \[3\] and"):
        prefix_mask(4, torch.tensor([3]), torch.tensor([2]))


def their_inputs(images, tokens, prefix, real, patches=4):
    at = torch.arange(tokens.shape[1])
    answer, there = at >= prefix[:, None], at < real[:, None]
    beside = lambda value, x: F.pad(x, (patches, 0), value=value)  # noqa: E731
    labels = tokens.masked_fill(~(answer & there), IGNORED)
    return {
        "input_ids": beside(len(WORDS) - 1, tokens),
        "pixel_values": images,
        "token_type_ids": beside(0, answer.long()),
        "attention_mask": beside(1, there.long()),
        "labels": beside(IGNORED, labels),
    }, there


@settings(deadline=None, max_examples=5)
@given(st.integers(1, 4), SEEDS)
def test_paligemma_is_that_of_transformers(n, seed):
    ours = new_paligemma(seed)
    theirs = paligemma_twin(ours)
    rows_ = batch(n, seed)
    inputs, there = their_inputs(*rows_)
    out = theirs(**inputs)
    assert torch.allclose(ours(*rows_)[there], out.logits[:, 4:][there], atol=1e-4)
    loss = ours.loss(*rows_)
    assert torch.allclose(loss, out.loss, atol=1e-4)
    loss.backward()
    out.loss.backward()
    for parts, p in matched(ours, theirs):
        grad = torch.cat([q.grad.flatten() for q in parts]).view_as(p)
        assert torch.allclose(grad, p.grad, atol=1e-4)


def test_who_sees_whom():
    """Another answer token changes nothing before it, padding nothing at all, a question all."""
    model = new_paligemma(window=100)
    images, tokens, _, _ = batch(1)
    prefix, real = torch.tensor([3]), torch.tensor([7])
    logits = model(images, tokens, prefix, real)
    for at, untouched in ((5, range(5)), (8, range(8)), (2, ())):
        other = tokens.clone()
        other[0, at] = 2
        same = torch.isclose(logits, model(images, other, prefix, real), atol=1e-6).all(-1)[0]
        expected = [i in untouched or (at == 8 and i < 7) for i in range(7)]
        assert same[:7].tolist() == expected
    changed = model(images + 1, tokens, prefix, real)
    assert not torch.isclose(logits, changed, atol=1e-6).all(-1).any()


def test_a_row_in_a_batch_is_the_row_alone():
    model, (images, tokens, prefix, real) = new_paligemma(1), batch(4)
    whole = model(images, tokens, prefix, real)
    for i in range(4):
        n = int(real[i])
        alone = model(images[[i]], tokens[[i], :n], prefix[[i]], real[[i]])
        assert torch.allclose(whole[i, :n], alone[0], atol=1e-5)


def test_only_the_answer_is_learned():
    tokens = torch.arange(10, 19)[None]
    targets = answer_targets(tokens, torch.tensor([3]), torch.tensor([6]))
    assert targets.tolist() == [[IGNORED] * 2 + [13, 14, 15] + [IGNORED] * 3]


@settings(deadline=None, max_examples=4)
@given(st.integers(1, 4), SEEDS)
def test_answers_are_those_without_a_cache_and_those_of_transformers(length, seed):
    ours = new_paligemma(seed)
    images, tokens, _, _ = batch(3, seed)
    question = tokens[:, :length]
    found = ours.answer(images, question, 5, end=END)
    assert torch.equal(found, ours.answer(images, question, 5, end=END, cached=False))
    inputs, _ = their_inputs(images, question, torch.full((3,), length), torch.full((3,), length))
    del inputs["labels"]
    theirs = paligemma_twin(ours).generate(
        **inputs, max_new_tokens=5, do_sample=False, eos_token_id=END, pad_token_id=END
    )[:, 4 + length :]
    assert torch.equal(found, F.pad(theirs, (0, 5 - theirs.shape[1]), value=END))


class Scripted:
    """A decoder that says what it is told to, token after token."""

    def __init__(self, decoder, rows):
        self.config, self.embed, self.new_cache = decoder.config, decoder.embed, decoder.new_cache
        self.steps = zip(*rows, strict=True)

    def __call__(self, x, **options):
        said = F.one_hot(torch.tensor(next(self.steps)), self.config.vocab_size).float()
        return said[:, None].expand(-1, x.shape[1], -1)


@pytest.mark.parametrize("cached", [True, False])
def test_what_was_said_before_the_end_stays_and_nothing_follows_it(cached):
    model, end = new_paligemma(), 5
    rows = [[7, 8, 5, 9], [5, 7, 7, 7], [7, 8, 9, 7]]
    decoder = model._modules.pop("decoder")
    model.decoder = Scripted(decoder, rows)
    images, question = batch(3)[0], batch(3)[1][:, :3]
    found = model.answer(images, question, 4, end=end, cached=cached)
    assert found.tolist() == [[7, 8, 5, 5], [5, 5, 5, 5], [7, 8, 9, 7]]


def test_after_an_end_there_are_only_ends():
    model = new_paligemma()
    model.decoder.embedding.weight.data[:] = 0  # all logits equal: the first id, whatever it is
    found = model.answer(*batch(2)[:2], 4, end=0)
    assert (found == 0).all()
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        model.answer(*batch(2)[:2], 0, end=0)


def test_it_learns_two_answers_by_heart_and_right_counts_whole_answers():
    images = torch.stack([torch.full((3, 8, 8), value) for value in (-1.0, 1.0)])
    model = PaliGemma2.small(len(WORDS), gen(), side=8, d_vision=16, d_model=24, vision_layers=1)
    asked, answers = ["how many things", "caption"], ["two", "a red disc"]
    losses = learn(model, images, rows(asked, answers), steps=40, generator=gen(), lr=1e-2)
    assert losses[-1] < 0.1 < losses[0]
    assert right(model, images, asked, answers) == [True, True]
    assert right(model, images, asked, ["two", "a red two"]) == [True, False]


def test_a_leaking_mask_learns_to_copy():
    """With random answers nothing can be learned, but from the answer itself."""
    images = torch.zeros(64, 3, 8, 8)
    draw = torch.randint(10, len(WORDS), (64, 4), generator=gen())
    answers = [" ".join(WORDS[i] for i in row) for row in draw.tolist()]
    data, last = rows(["caption"] * 64, answers), {}
    for leak in (False, True):
        model = PaliGemma2.small(len(WORDS), gen(), side=8, d_vision=16, vision_layers=1)
        options = {"generator": gen(), "lr": 1e-2, "leak": leak}
        last[leak] = learn(model, images, data, steps=60, **options)[-1]
    assert last[True] < 0.5 * last[False]
