import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from week11.batches import length_buckets, pad
from week11.sentiment import SentimentLSTM, Vocabulary, importance, predict, train

ROWS = [[2, 3, 4], [5], [3, 3, 2, 6, 4], [6, 1]]


def model(seed=0):
    torch.manual_seed(seed)
    return SentimentLSTM(7, d_model=4, hidden_size=3)


@given(
    lengths=st.lists(st.integers(0, 9), max_size=30),
    batch_size=st.integers(1, 7),
    seed=st.none() | st.integers(0, 99),
)
def test_length_buckets(lengths, batch_size, seed):
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    batches = length_buckets(lengths, batch_size, generator)
    assert sorted(i for batch in batches for i in batch.tolist()) == [*range(len(lengths))]
    assert all(len(batch) <= batch_size for batch in batches)
    spans = sorted(
        (min(found), max(found))
        for batch in batches
        for found in [[lengths[i] for i in batch.tolist()]]
    )
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))  # no overlap


def test_batches_come_in_another_order_each_time():
    generator = torch.Generator().manual_seed(0)
    orders = {
        tuple(b.tolist()[0] for b in length_buckets([*range(20)], 2, generator)) for _ in "ab"
    }
    assert len(orders) == 2


def test_pad():
    padded, lengths = pad([[], [1, 2]], value=-1)
    assert padded.tolist() == [[-1, -1], [1, 2]]
    assert lengths.tolist() == [0, 2]


def test_a_sentence_is_judged_as_it_is_alone():
    net = model()
    together = predict(net, ROWS)
    alone = torch.cat([predict(net, [row]) for row in ROWS])
    torch.testing.assert_close(together, alone)
    assert not net.training


def test_importance_is_the_difference_that_a_word_makes():
    net, row = model(), ROWS[2]
    found = importance(net, row)
    torch.testing.assert_close(found[1], (predict(net, [row]) - predict(net, [[3, 2, 6, 4]]))[0])
    assert found.shape == (5,)


def test_train_learns():
    net = model()
    rows = [[2, 3], [2, 4], [5, 3, 3], [5, 4]] * 8
    y = torch.tensor([1.0, 1.0, 0.0, 0.0] * 8)
    losses = train(net, rows, y, epochs=30, generator=torch.Generator().manual_seed(0), lr=0.05)
    assert losses[0] > 0.6
    assert ((predict(net, rows) > 0) == (y > 0.5)).all()


def test_vocabulary():
    words = Vocabulary(["b a a", "a b c"], least=2)
    assert words.ids == {"a": 2, "b": 3}
    assert words.encode("c  b\ta") == [1, 3, 2]


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: Vocabulary(["a"], least=0), "least must be at least 1, got 0"),
        (lambda: Vocabulary(["a"]).encode("  "), "sentence must hold at least one word, got '  '"),
        (lambda: length_buckets([1], 0), "batch_size must be at least 1, got 0"),
        (lambda: pad([], 0), "rows must hold at least one sequence, got none"),
        (lambda: importance(model(), [2]), "row must hold at least two words, got 1"),
        (lambda: predict(model(), [[]]), "lengths must lie between 1 and 1, got"),
    ],
)
def test_bad_input(call, complaint):
    with pytest.raises(ValueError, match=complaint):
        call()
