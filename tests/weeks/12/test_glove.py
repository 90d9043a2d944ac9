"""GloVe against its definition, autograd and torch's AdaGrad."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from week12.evidence.glove import entries_of, in_float64, steps_by_torch
from week12.glove import GloVe, cooccurrence, weight


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@given(
    tokens=st.lists(st.integers(0, 3), min_size=2, max_size=9),
    ends=st.lists(st.booleans(), min_size=9, max_size=9),
    window=st.integers(1, 12),
    harmonic=st.booleans(),
)
def test_counts_are_the_definition(tokens, ends, window, harmonic):
    sentence = np.cumsum(ends)[: len(tokens)]
    expected = np.zeros((4, 4))
    for i, a in enumerate(tokens):
        for j, b in enumerate(tokens):
            if 0 < abs(i - j) <= window and sentence[i] == sentence[j]:
                expected[a, b] += 1 / abs(i - j) if harmonic else 1
    place = torch.tensor(tokens), torch.tensor(sentence), 4
    found = cooccurrence(*place, window=window, harmonic=harmonic)
    np.testing.assert_allclose(found.toarray(), expected)


tables = st.lists(st.integers(0, 9), min_size=16, max_size=16).filter(any)


@given(table=tables, lr=st.floats(0.01, 1), start=st.floats(0.1, 2), seed=st.integers(0, 9))
def test_steps_are_those_of_torch(table, lr, start, seed):
    entries = entries_of(np.reshape(table, (4, 4)))
    model = in_float64(GloVe(4, 3, lr=lr, start=start, generator=seeded(seed)))
    expected = steps_by_torch(model, entries, 3)
    for _ in range(3):
        model.step(entries)
    torch.testing.assert_close([model.words, model.contexts], expected)


def test_loss_by_hand():
    model = in_float64(GloVe(2, 1, generator=seeded()))
    model.words = torch.tensor([[2.0, 0.5], [0, 0]]).double()
    model.contexts = torch.tensor([[0, 0], [3.0, -1.0]]).double()
    entries = entries_of(np.array([[0, 1.0], [0, 0]]))
    # f(1) = (1/4)^0.75; 2 · 3 + 0.5 - 1 - ln 1 = 5.5
    assert float(model.gradients(entries)[0]) == pytest.approx(0.5 * 4**-0.75 * 5.5**2)
    assert model.vectors.flatten().tolist() == [2.0, 3.0]


def test_weights():
    x = torch.tensor([0.25, 4.0, 40.0])
    assert weight(x, 4.0, 0.5).tolist() == [0.25, 1.0, 1.0]
    assert weight(x, 4.0, 0.0).tolist() == [1.0, 1.0, 1.0]


def test_full_rank_fits_every_count_and_batches_see_all_of_them():
    rng = np.random.default_rng(0)
    counts = sparse.csr_array(rng.integers(1, 9, (5, 5)).astype(float))
    model = GloVe(5, 5, lr=0.5, start=0.01, generator=seeded())
    options = {"x_max": 1.0, "batch_size": 7, "generator": seeded()}
    losses = model.fit(counts, epochs=400, **options)
    assert losses[-1] < 1e-3 * losses[0]
    product = model.words[:, :-1] @ model.contexts[:, :-1].T
    fitted = product + model.words[:, -1:] + model.contexts[:, -1]
    assert np.abs(np.exp(fitted.numpy()) - counts.toarray()).max() < 0.1


def fit(counts):
    model = GloVe(3, 2, generator=seeded())
    return model.fit(sparse.csr_array(counts), generator=seeded())


IDS = torch.tensor([0, 1, 2])


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: cooccurrence(IDS, IDS * 0, 3, window=0), "window must be at least 1, got 0"),
        (lambda: cooccurrence(IDS[:1], IDS[:1], 3), "tokens must be at least 2, got 1"),
        (lambda: cooccurrence(IDS, IDS * 0, 2), "tokens must be below vocab_size = 2, got 2"),
        (lambda: weight(IDS.float(), 0.0), "x_max must be above 0, got 0.0"),
        (lambda: weight(IDS.float(), 1.0, -1.0), "alpha must be at least 0, got -1.0"),
        (lambda: GloVe(3, 0, generator=seeded()), "dim must be at least 1, got 0"),
        (lambda: GloVe(3, 2, start=0.0, generator=seeded()), "start must be above 0, got 0.0"),
        (lambda: fit(np.ones((2, 2))), r"counts must be 3 × 3, got \(2, 2\)"),
        (lambda: fit(np.zeros((3, 3))), "counts must be stored above 0, got 0"),
        (lambda: fit(-np.ones((3, 3))), "counts must be stored above 0, got 9"),
    ],
)
def test_wrong_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()
