"""The Transformer against torch's: blocks, loss, decoding, and padding."""

import math

import pytest
import torch
import torch.nn.functional as F
from enforce import plain
from hypothesis import given
from hypothesis import strategies as st

from week13.evidence.reversal import (
    BOS,
    EOS,
    LONGEST,
    N_TOKENS,
    PAD,
    reversal_batch,
)
from week13.evidence.transformer import torch_names
from week13.transformer import (
    Transformer,
    cross_entropy,
    greedy_decode,
    padding_mask,
)

pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor")


def tiny(norm_first=True, seed=0, **options):
    torch.manual_seed(seed)
    sizes = {"d_model": 16, "n_heads": 2, "d_ff": 24, "n_layers": 2, **options}
    model = Transformer(N_TOKENS, N_TOKENS, norm_first=norm_first, **sizes)
    for name, parameter in model.named_parameters():  # no weight is 0 or 1 by default
        if "norm" in name or name.endswith("bias"):
            torch.nn.init.normal_(parameter, mean=float("norm.weight" in name), std=0.3)
    return model


def batch(n=4, seed=0, **options):
    return reversal_batch(n, torch.Generator().manual_seed(seed), **options)


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_one_layer_equals_torch(kind, norm_first):
    model = tiny(norm_first, n_layers=1)
    ours = getattr(model, kind).layers[0]
    cls = {"encoder": torch.nn.TransformerEncoderLayer, "decoder": torch.nn.TransformerDecoderLayer}
    theirs = cls[kind](16, 2, 24, dropout=0.0, batch_first=True, norm_first=norm_first)
    prefix = f"{kind}.layers.0."
    state = torch_names(model, lambda p: p.detach())
    theirs.load_state_dict(
        {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    )
    x, memory = torch.randn(3, 5, 16), torch.randn(3, 7, 16)
    if kind == "encoder":
        hidden = torch.arange(5) >= torch.tensor([5, 2, 3])[:, None]
        ours, theirs = ours(x, ~hidden[:, None, None]), theirs(x, src_key_padding_mask=hidden)
        ours, theirs = ours[~hidden], theirs[~hidden]  # torch's fast path zeroes padding
    else:
        hidden = torch.arange(7) >= torch.tensor([7, 2, 3])[:, None]
        future = torch.ones(5, 5, dtype=torch.bool).triu(1)
        ours = ours(x, memory, None, ~hidden[:, None, None])
        theirs = theirs(x, memory, tgt_mask=future, memory_key_padding_mask=hidden)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@given(
    n=st.integers(1, 5),
    length=st.integers(1, 6),
    vocab=st.integers(2, 9),
    smoothing=st.sampled_from([0.0, 0.1, 0.5]),
    seed=st.integers(0, 99),
)
def test_loss_equals_torch(n, length, vocab, smoothing, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, length, vocab, generator=generator, dtype=torch.float64)
    logits.requires_grad_()
    target = torch.randint(vocab, (n, length), generator=generator)
    target[0, 0] = 1
    ours = cross_entropy(logits, target, label_smoothing=smoothing, pad=0)
    options = {"label_smoothing": smoothing, "ignore_index": 0}
    theirs = F.cross_entropy(logits.flatten(0, 1), target.flatten(), **options)
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients)


def test_loss_ignores_how_much_padding_there_is():
    logits, target = torch.randn(2, 3, 5), torch.tensor([[1, 2, 0], [3, 0, 0]])
    longer = torch.cat([logits, torch.randn(2, 4, 5)], dim=1)
    padded = F.pad(target, (0, 4))
    losses = cross_entropy(logits, target, pad=0), cross_entropy(longer, padded, pad=0)
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize("pad", [0, -100])
def test_what_does_not_count_may_be_anything(pad):
    """Infinite logits at padding, and removed tokens: 0 times infinity would be NaN."""
    logits, target = torch.randn(2, 3, 5, generator=torch.manual_seed(0)), torch.tensor([[1, 2, 3]])
    target = target.repeat(2, 1)
    target[0, 2] = pad
    logits[0, 2, 1:] = math.inf
    logits[1, :, 4] = -math.inf
    ours = cross_entropy(logits, target, pad=pad)
    theirs = F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=pad)
    torch.testing.assert_close(ours, theirs)


LOSS = plain("13", "transformer").cross_entropy


def test_the_decoder_does_not_see_the_future():
    model = tiny()
    source, target = batch(3)
    changed = target.clone()
    changed[:, 3:] = 5
    torch.testing.assert_close(model(source, target)[:, :3], model(source, changed)[:, :3])


def test_greedy_decoding_is_the_argmax_of_teacher_forcing():
    model = tiny(seed=3).eval()
    source, _ = batch(6)
    tokens = greedy_decode(model, source, bos=BOS, eos=EOS, max_len=7)
    assert tokens.shape[0] == 6
    assert tokens.shape[1] <= 7
    prefix = torch.cat([torch.full((6, 1), BOS), tokens[:, :-1]], dim=1)
    best = model(source, prefix).argmax(dim=-1)
    for row, expected in zip(tokens.tolist(), best.tolist(), strict=True):
        end = row.index(EOS) + 1 if EOS in row else len(row)
        assert row[:end] == expected[:end]
        assert all(token == PAD for token in row[end:])


def test_what_follows_the_end_is_padding():
    model = tiny()  # made to write i sevens in row i, then EOS, then sevens again
    model.decode = lambda target, memory, source: torch.nn.functional.one_hot(
        torch.where(torch.arange(3) + 1 == target.shape[1], EOS, 7), N_TOKENS
    )[:, None].float()
    tokens = greedy_decode(model, torch.full((3, 2), 5), bos=BOS, eos=EOS, max_len=9)
    assert tokens.tolist() == [[EOS, PAD, PAD], [7, EOS, PAD], [7, 7, EOS]]


def test_no_token_wins_where_the_logits_are_not_numbers():
    """Of NaN, or of nothing but -inf, argmax would take some token, 0 as a rule."""
    for bad in (math.nan, -math.inf, math.inf):
        model = tiny()
        model.decode = lambda tokens, *_, bad=bad: torch.full((*tokens.shape, 9), bad)
        with pytest.raises(ValueError, match="largest logit of each row must be finite, got"):
            greedy_decode(model, torch.full((2, 2), 5), bos=BOS, eos=EOS, max_len=3)


def test_reversal_batch():
    source, target = batch(50, extra_padding=1)
    assert source.shape == (50, LONGEST + 2)
    for s, t in zip(source.tolist(), target.tolist(), strict=True):
        digits = s[: s.index(EOS)]
        assert 4 <= len(digits) <= 8
        assert min(digits) >= 3
        assert t[: len(digits) + 2] == [BOS, *digits[::-1], EOS]
        assert set(s[len(digits) + 1 :]) | set(t[len(digits) + 2 :]) == {PAD} or len(digits) == 8


def test_a_source_of_padding_only_is_finite():
    model = tiny()
    out = model(torch.full((2, 4), PAD), torch.tensor([[BOS, 4], [BOS, 5]]))
    out.sum().backward()
    assert out.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_padding_mask():
    mask = padding_mask(torch.tensor([[3, 4, 0], [5, 0, 0]]), 0)
    assert mask.shape == (2, 1, 1, 3)
    assert mask[:, 0, 0].int().tolist() == [[1, 1, 0], [1, 0, 0]]


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: tiny(n_layers=0), "n_layers must be at least 1, got 0"),
        (lambda: tiny(pad=20), "pad must be a token id of both vocabularies, got 20"),
        (
            lambda: cross_entropy(torch.zeros(1, 2), torch.tensor([0]), label_smoothing=1.0),
            r"label_smoothing must be in \[0, 1\), got 1",
        ),
        *(
            (
                lambda shape=shape: LOSS(torch.zeros(2, 3, 5), torch.zeros(shape).long()),
                "target must be integers of shape",
            )
            for shape in ((2, 2), (1, 3), (2,), (2, 3, 1))
        ),
        (
            lambda: greedy_decode(tiny(), batch(1)[0], bos=BOS, eos=EOS, max_len=0),
            "max_len must be at least 1",
        ),
    ],
)
def test_wrong_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()
