import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import rnn

from week11.evidence.lstm_gru import counted, counter, words
from week11.lstm_gru import GRU, LSTM, RNN, set_forget_bias

TWINS = {LSTM: nn.LSTM, GRU: nn.GRU, RNN: nn.RNN}


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def parts(state):
    return state if isinstance(state, tuple) else (state,)


@given(data=st.data(), kind=st.sampled_from(list(TWINS)))
def test_equals_torch(data, kind):
    sizes = {name: data.draw(st.integers(1, 4), name) for name in ("batch", "time", "input", "out")}
    n_layers, both = data.draw(st.integers(1, 3)), data.draw(st.booleans())
    torch.manual_seed(data.draw(st.integers(0, 99)))
    twin = TWINS[kind](
        *(sizes["input"], sizes["out"], n_layers), batch_first=True, bidirectional=both
    ).double()
    ours = kind(sizes["input"], sizes["out"], n_layers=n_layers, bidirectional=both).double()
    ours.load_state_dict(twin.state_dict())
    x = normal(sizes["batch"], sizes["time"], sizes["input"])
    start = tuple(
        normal(n_layers * (1 + both), sizes["batch"], sizes["out"], seed=i)
        for i in range(ours.n_states)
    )
    start = start if kind is LSTM else start[0]
    lengths = None
    if data.draw(st.booleans(), "lengths"):
        lengths = data.draw(st.lists(st.integers(1, x.shape[1]), min_size=len(x), max_size=len(x)))
        lengths = torch.tensor(lengths)
    y, state = ours(x, start, lengths)
    if lengths is None:
        reference, last = twin(x, start)
    else:
        packed = rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        packed, last = twin(packed, start)
        reference = rnn.pad_packed_sequence(packed, batch_first=True, total_length=x.shape[1])[0]
    torch.testing.assert_close(y, reference, atol=1e-10, rtol=0)
    for a, b in zip(parts(state), parts(last), strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=0)
    for net, outputs, end in ((ours, y, state), (twin, reference, last)):
        (outputs.square().sum() + sum(part.sum() for part in parts(end))).backward()
        net.gradients = [p.grad for p in net.parameters()]
    for a, b in zip(ours.gradients, twin.gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=0)


@pytest.mark.parametrize("kind", TWINS)
def test_padding_has_no_influence_even_if_it_is_not_finite(kind):
    torch.manual_seed(0)
    net, x = kind(2, 3, n_layers=2, bidirectional=True), torch.randn(2, 5, 2)
    lengths = torch.tensor([5, 2])
    spoiled = x.clone()
    spoiled[1, 2:] = torch.nan
    for a, b in zip(net(x, lengths=lengths), net(spoiled, lengths=lengths), strict=True):
        for part, other in zip(parts(a), parts(b), strict=True):
            torch.testing.assert_close(part, other)
    net(spoiled, lengths=lengths)[0].sum().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_dropout_stands_between_layers_and_only_there():
    torch.manual_seed(0)
    x = torch.randn(1, 3, 2)
    one, two = LSTM(2, 8, dropout=0.9), LSTM(2, 8, n_layers=2, dropout=0.9)
    torch.testing.assert_close(one(x)[0], one.eval()(x)[0])
    assert not torch.allclose(two(x)[0], two(x)[0])
    torch.testing.assert_close(two.eval()(x)[0], two(x)[0])


def test_set_forget_bias():
    lstm = nn.LSTM(2, 3, num_layers=2, bidirectional=True)
    before = lstm.bias_ih_l0.detach().clone()
    set_forget_bias(lstm, 4.0)
    for layer in ("l0", "l1", "l0_reverse", "l1_reverse"):
        bias = getattr(lstm, f"bias_ih_{layer}") + getattr(lstm, f"bias_hh_{layer}")
        assert (bias[3:6] == 4.0).all()
    assert (lstm.bias_ih_l0[[0, 1, 2, *range(6, 12)]] == before[[0, 1, 2, *range(6, 12)]]).all()


def test_words_and_the_counter():
    x, y = words([1, 2])
    assert x[1].argmax(-1).tolist() == [0, 0, 1, 1]
    assert x[0].sum() == 2
    assert y.tolist() == [[-100, 1, -100, -100], [-100, -100, 0, 1]]
    assert counted(*counter(), longest=20).all()
    assert not counted(*counter(forget=0.0), longest=20).all()


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: LSTM(0, 1), "input_size must be at least 1, got 0"),
        (lambda: GRU(1, 1, n_layers=0), "n_layers must be at least 1, got 0"),
        (lambda: GRU(1, 1, dropout=1.0), r"dropout must be in \[0, 1\), got 1.0"),
        (lambda: LSTM(2, 1)(torch.zeros(1, 4, 3)), "x must have 2 features, got 3"),
        (lambda: LSTM(2, 1)(torch.zeros(1, 0, 2)), "x must hold at least one step, got 0"),
        (
            lambda: GRU(2, 1)(torch.zeros(1, 4, 2), lengths=torch.tensor([5])),
            "between 1 and 4, got",
        ),
        (
            lambda: GRU(2, 1)(torch.zeros(1, 4, 2), lengths=torch.tensor([0])),
            "between 1 and 4, got",
        ),
        (lambda: GRU(2, 1)(torch.zeros(1, 4, 2), torch.zeros(3, 1, 1)), "state must have shape"),
    ],
)
def test_bad_input(call, complaint):
    with pytest.raises(ValueError, match=complaint):
        call()
