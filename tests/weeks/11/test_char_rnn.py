import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from week11.char_rnn import AdaGrad, CharRNN, chunks


def network(vocab=5, hidden=4, seed=0):
    return CharRNN(vocab, hidden, rng=np.random.default_rng(seed))


@given(
    batch=st.integers(1, 3),
    time=st.integers(1, 7),
    vocab=st.integers(1, 6),
    hidden=st.integers(1, 5),
    seed=st.integers(0, 99),
    carried=st.booleans(),
)
def test_loss_and_gradients_are_autograds(batch, time, vocab, hidden, seed, carried):
    rng = np.random.default_rng(seed)
    ours = network(vocab, hidden, seed)
    for name in ("b", "c"):
        ours.parameters[name] += rng.normal(size=ours.parameters[name].shape)
    x, y = rng.integers(0, vocab, (2, batch, time))
    h = rng.normal(size=(batch, hidden)) if carried else None
    loss, gradients, last = ours.loss_and_gradients(x, y, h)

    p = {name: torch.tensor(value, requires_grad=True) for name, value in ours.parameters.items()}
    state = torch.tensor(h) if carried else torch.zeros(batch, hidden, dtype=torch.float64)
    logits = []
    for t in range(time):
        state = torch.tanh(p["W"][torch.tensor(x[:, t])] + state @ p["U"].T + p["b"])
        logits.append(state @ p["V"].T + p["c"])
    reference = F.cross_entropy(torch.stack(logits, 1).flatten(0, 1), torch.tensor(y).flatten())
    reference.backward()
    np.testing.assert_allclose(loss, reference.item(), atol=1e-12)
    np.testing.assert_allclose(last, state.detach().numpy(), atol=1e-12)
    for name, value in p.items():
        np.testing.assert_allclose(gradients[name], value.grad.numpy(), atol=1e-12)


def test_chunks_follow_each_other_in_each_row():
    tokens = np.arange(23)
    parts = list(chunks(tokens, 2, 4))
    assert [x.tolist() for x, _ in parts] == [
        [[0, 1, 2, 3], [11, 12, 13, 14]],
        [[4, 5, 6, 7], [15, 16, 17, 18]],
    ]
    assert all((y == x + 1).all() for x, y in parts)
    assert len(list(chunks(np.arange(9), 2, 4))) == 1  # just enough
    with pytest.raises(ValueError, match="tokens must hold batch_size x length \\+ 1 = 9, got 8"):
        next(chunks(np.arange(8), 2, 4))


@pytest.mark.parametrize("clip", [np.inf, 0.5])
def test_adagrad_is_torchs_after_clipping(clip):
    value = {"a": np.array([1.0, -2.0])}
    twin = torch.tensor(value["a"], requires_grad=True)
    ours, theirs = AdaGrad(value, 0.1, clip), torch.optim.Adagrad([twin], lr=0.1)
    for gradient in ([3.0, 4.0], [0.0, 0.1], [0.0, 0.0]):
        twin.grad = torch.tensor(gradient, dtype=torch.float64)
        torch.nn.utils.clip_grad_norm_([twin], clip)
        ours.step({"a": np.array(gradient)})
        theirs.step()
        np.testing.assert_allclose(value["a"], twin.detach().numpy(), atol=1e-6)


def test_write_draws_from_what_it_predicts():
    sure = network(vocab=3)
    for name in ("W", "U", "V"):
        sure.parameters[name] *= 0.0
    sure.parameters["c"][:] = [0.0, 0.0, 50.0]
    assert sure.write(np.array([0]), 4, np.random.default_rng(0)).tolist() == [2, 2, 2, 2]
    assert sure.write(np.array([0]), 0, np.random.default_rng(0)).tolist() == []
    sure.parameters["c"][:] = np.log([0.5, 0.25, 0.25])
    drawn = sure.write(np.array([0]), 2000, np.random.default_rng(0))
    assert abs((drawn == 0).mean() - 0.5) < 0.05  # 4.5 standard errors


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: network(vocab=0), "vocab_size must be at least 1, got 0"),
        (lambda: network(hidden=0), "hidden_size must be at least 1, got 0"),
        (lambda: network().loss_and_gradients([[5]], [[0]]), r"inputs must lie in 0\.\.4, got 5"),
        (lambda: network().loss_and_gradients([[0]], [[-1]]), r"targets must lie in 0\.\.4, got -"),
        (
            lambda: network().loss_and_gradients([[0, 1]], [[0]]),
            "targets must be integers of shape",
        ),
        (lambda: network().loss_and_gradients([[]], [[]]), "inputs must be integers|at least one"),
        (
            lambda: network().write(np.array([], int), 1, np.random.default_rng()),
            "prompt must hold",
        ),
        (lambda: network().write(np.array([0]), -1, np.random.default_rng()), "length must be at"),
        (lambda: AdaGrad({}, lr=0.0), "lr must be positive, got 0.0"),
    ],
)
def test_bad_input(call, complaint):
    with pytest.raises(ValueError, match=complaint):
        call()
