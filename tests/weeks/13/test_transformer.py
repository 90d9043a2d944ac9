"""The Transformer against torch's: blocks, loss, decoding, and padding."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from week13.evidence.reversal import (
    BOS,
    EOS,
    LONGEST,
    N_TOKENS,
    PAD,
    WithoutPaddingMask,
    reversal_batch,
    train_reversal,
)
from week13.evidence.transformer import TorchTransformer, torch_names
from week13.transformer import (
    DecoderLayer,
    EncoderLayer,
    Transformer,
    cross_entropy,
    greedy_decode,
    padding_mask,
)

pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor")


def tiny(norm_first=True, seed=0, kind=Transformer, **options):
    torch.manual_seed(seed)
    sizes = {"d_model": 16, "n_heads": 2, "d_ff": 24, "n_layers": 2, **options}
    model = kind(N_TOKENS, N_TOKENS, norm_first=norm_first, **sizes)
    for name, parameter in model.named_parameters():  # no weight is 0 or 1 by default
        if "norm" in name or name.endswith("bias"):
            torch.nn.init.normal_(parameter, mean=float("norm.weight" in name), std=0.3)
    return model


def batch(n=4, seed=0, **options):
    return reversal_batch(n, torch.Generator().manual_seed(seed), **options)


@pytest.mark.parametrize("norm_first", [True, False])
def test_equals_torch_forward_and_backward(norm_first):
    ours = tiny(norm_first)
    theirs = TorchTransformer(ours, 2, 24, norm_first)
    source, target = batch(6, extra_padding=2)
    real = target[:, :-1] != PAD
    logits, expected = ours(source, target[:, :-1]), theirs(source, target[:, :-1])
    torch.testing.assert_close(logits[real], expected[real], atol=2e-5, rtol=1e-5)
    for out in (logits, expected):
        out[real].square().mean().backward()
    gradients = torch_names(ours, lambda p: p.grad)
    for name, parameter in theirs.stacks.named_parameters():
        torch.testing.assert_close(
            gradients[name], parameter.grad, atol=2e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )
    torch.testing.assert_close(
        ours.source_embedding.weight.grad, theirs.source.weight.grad, atol=2e-5, rtol=1e-4
    )


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
    theirs = F.cross_entropy(
        logits.flatten(0, 1), target.flatten(), label_smoothing=smoothing, ignore_index=0
    )
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients)


def test_loss_ignores_how_much_padding_there_is():
    logits, target = torch.randn(2, 3, 5), torch.tensor([[1, 2, 0], [3, 0, 0]])
    longer = torch.cat([logits, torch.randn(2, 4, 5)], dim=1)
    padded = F.pad(target, (0, 4))
    torch.testing.assert_close(
        cross_entropy(logits, target, pad=0), cross_entropy(longer, padded, pad=0)
    )


def test_one_sequence_alone_equals_it_in_a_batch():
    model = tiny()
    source, target = batch(5, extra_padding=3)
    together = model(source, target[:, :-1])
    for i in range(5):
        n, m = (source[i] != PAD).sum(), (target[i, :-1] != PAD).sum()
        alone = model(source[i : i + 1, :n], target[i : i + 1, :m])[0]
        torch.testing.assert_close(alone, together[i, :m], atol=1e-5, rtol=1e-5)


def test_forgetting_the_mask_shows():
    model = tiny(kind=WithoutPaddingMask)
    source, target = batch(2)
    assert not torch.allclose(
        model(source, target), model(F.pad(source, (0, 3)), target), atol=1e-3
    )


def test_the_decoder_does_not_see_the_future():
    model = tiny()
    source, target = batch(3)
    changed = target.clone()
    changed[:, 3:] = 5
    torch.testing.assert_close(model(source, target)[:, :3], model(source, changed)[:, :3])


def test_a_source_of_padding_only_is_finite():
    model = tiny()
    source = torch.full((2, 4), PAD)
    out = model(source, torch.tensor([[BOS, 4], [BOS, 5]]))
    out.sum().backward()
    assert out.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters())


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


def test_greedy_decoding_stops():
    model = tiny()
    with torch.no_grad():  # the logits of EOS win whatever the input
        model.decoder.norm.bias.zero_()[0] = 100.0
        model.target_embedding.weight.zero_()[EOS, 0] = 1.0
    tokens = greedy_decode(model, batch(3)[0], bos=BOS, eos=EOS, max_len=9)
    assert tokens.tolist() == [[EOS]] * 3


def test_what_follows_the_end_is_padding():
    model = tiny()  # made to write i sevens in row i, then EOS, then sevens again
    model.decode = lambda target, memory, source: torch.nn.functional.one_hot(
        torch.where(torch.arange(3) + 1 == target.shape[1], EOS, 7), N_TOKENS
    )[:, None].float()
    tokens = greedy_decode(model, torch.full((3, 2), 5), bos=BOS, eos=EOS, max_len=9)
    assert tokens.tolist() == [[EOS, PAD, PAD], [7, EOS, PAD], [7, 7, EOS]]


def test_reversal_batch():
    source, target = batch(50, extra_padding=1)
    assert source.shape == (50, LONGEST + 2)
    for s, t in zip(source.tolist(), target.tolist(), strict=True):
        digits = s[: s.index(EOS)]
        assert 4 <= len(digits) <= 8
        assert min(digits) >= 3
        assert t[: len(digits) + 2] == [BOS, *digits[::-1], EOS]
        assert set(s[len(digits) + 1 :]) | set(t[len(digits) + 2 :]) == {PAD} or len(digits) == 8


def test_dropout_is_off_at_evaluation():
    model = tiny(dropout=0.5)
    source, target = batch(2)
    assert not torch.equal(model(source, target), model(source, target))
    model.eval()
    assert torch.equal(model(source, target), model(source, target))


def test_every_parameter_gets_a_gradient():
    model = tiny()
    source, target = batch(8)
    cross_entropy(model(source, target[:, :-1]), target[:, 1:], pad=PAD).backward()
    for name, parameter in model.named_parameters():
        # the softmax forgets a constant a row, and that is all a key's bias adds
        if not name.endswith("k_proj.bias"):
            assert parameter.grad.abs().max() > 0, name


def test_the_loss_falls():
    _, losses = train_reversal(30, 0)
    assert losses[-1] < losses[0] - 0.5


def test_padding_mask():
    mask = padding_mask(torch.tensor([[3, 4, 0], [5, 0, 0]]), 0)
    assert mask.shape == (2, 1, 1, 3)
    assert mask[:, 0, 0].int().tolist() == [[1, 1, 0], [1, 0, 0]]


def test_wrong_input():
    with pytest.raises(ValueError, match="n_layers must be at least 1, got 0"):
        tiny(n_layers=0)
    with pytest.raises(ValueError, match="pad must be a token id of both vocabularies, got 20"):
        tiny(pad=20)
    with pytest.raises(ValueError, match=r"label_smoothing must be in \[0, 1\), got 1"):
        cross_entropy(torch.zeros(1, 2), torch.tensor([0]), label_smoothing=1.0)
    with pytest.raises(ValueError, match="max_len must be at least 1"):
        greedy_decode(tiny(), batch(1)[0], bos=BOS, eos=EOS, max_len=0)
    with pytest.raises(ValueError, match="n_heads must divide d_model = 8, got 3"):
        EncoderLayer(8, 3, 16)
    with pytest.raises(ValueError, match="dropout"):
        DecoderLayer(8, 2, 16, dropout=1.5)
