"""Batches: a pure function of (seed, step) that visits every window of an epoch once."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tiny_gpt.data.batches import IGNORED, Batches, _keys, permuted
from tiny_gpt.data.shards import ShardWriter, open_data, write_data_manifest
from tiny_gpt.data.tokenizers import train_tokenizer

VOCAB = 60_000
LENGTHS = [5, 1, 17, 2, 40, 9, 1, 1, 30, 64, 3, 12]


def written(folder, lengths=LENGTHS, *, end_of_text=True, shard_tokens=50):
    """Two splits whose tokens say where they are: train 1, 2, 3 …, val from 30,000 on."""
    tokenizer = train_tokenizer("byte", [], end_of_text=end_of_text)
    (folder / "tokenizer.json").write_bytes(tokenizer.to_bytes())
    for split, first in (("train", 1), ("val", 30_000)):
        with ShardWriter(folder, split, tokenizer.sha256, VOCAB, shard_tokens) as writer:
            for length in lengths:
                tokens = np.arange(first, first + length)
                if end_of_text:
                    tokens[-1] = tokenizer.end_of_text
                first += length
                writer.append(tokens, length)
    write_data_manifest(folder, {})
    return open_data(folder).splits


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    return written(tmp_path_factory.mktemp("documents"))


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    """One text of 1,000 tokens 1, 2, 3 …, in which a token is its own place."""
    return written(tmp_path_factory.mktemp("stream"), [1000], end_of_text=False)["train"]


def same(a, b):
    return all(
        (x is None and y is None) or (x is not None and torch.equal(x, y))
        for x, y in zip(a, b, strict=True)
    )


OPTIONS = [
    {"packing": packing, "document_mask": mask}
    for packing in ("concat", "bestfit")
    for mask in (False, True)
]


@pytest.mark.parametrize("options", OPTIONS)
def test_same_batch_in_any_order(splits, options):
    def fresh(seed=3):
        return Batches(splits["train"], context=8, batch_size=4, seed=seed, **options)

    straight = fresh()
    batches = [straight(step) for step in range(40)]
    backwards, far = fresh(), fresh()
    far(10_000)
    for step in reversed(range(40)):
        assert same(backwards(step), batches[step])
    assert same(far(7), batches[7])
    assert same(fresh()(39), batches[39])
    assert not all(same(fresh(4)(step), batches[step]) for step in range(3))
    for batch in batches:
        for part in batch:
            assert part is None or (part.shape == (4, 8) and part.dtype == torch.int64)
            assert part is None or part.is_contiguous()


def test_blocks_change_nothing(stream, monkeypatch):
    from tiny_gpt.data import batches as module

    straight = Batches(stream, context=7, batch_size=5, seed=1)
    monkeypatch.setattr(module, "BLOCK", 1)
    one_by_one = Batches(stream, context=7, batch_size=5, seed=1)
    for step in [0, 1, 408, 409, 410, 1_000_000, 2]:
        assert same(straight(step), one_by_one(step))


@pytest.mark.parametrize(
    ("context", "batch_size"), [(16, 4), (10, 7), (31, 64), (999, 2), (500, 1)]
)
def test_every_window_of_an_epoch_exactly_once(stream, context, batch_size):
    batches = Batches(stream, context=context, batch_size=batch_size, seed=0)
    n = batches.n_windows
    assert max(1, 999 // context - 1) == n
    assert batches.steps_per_epoch == -(-n // batch_size)
    n_steps = 3 * n // batch_size + 1
    drawn = [batches(step) for step in range(n_steps)]
    assert all(torch.equal(batch.targets, batch.inputs + 1) for batch in drawn)  # tokens count up
    starts = torch.cat([batch.inputs[:, 0] for batch in drawn]).numpy() - 1
    shifts = set()
    for epoch in range(3):
        drawn = np.sort(starts[epoch * n : (epoch + 1) * n])
        assert (np.diff(drawn) == context).all()
        shifts.add(drawn[0])
    assert all(0 <= shift < context for shift in shifts)
    if n > 1:
        assert len(shifts) > 1  # or the same cuts for ever
        assert starts[:n].tolist() != starts[n : 2 * n].tolist()


def test_all_shifts_and_all_ends_are_used(stream):
    batches = Batches(stream, context=10, batch_size=98, seed=2)  # an epoch a step
    first = [int(batches(epoch).inputs.min()) - 1 for epoch in range(400)]
    assert stats.chisquare(np.bincount(first, minlength=10)).pvalue > 0.01
    assert max(int(batches(epoch).targets.max()) for epoch in range(400)) >= 990


def documents_of(split):
    """Which document each token of the stream is in, counted one by one."""
    return np.repeat(np.arange(split.n_documents), np.diff(split.offsets))


def test_document_mask_of_concatenation(splits):
    split = splits["train"]
    whole, documents = split.read(0, split.n_tokens), documents_of(split)
    batches = Batches(split, context=16, batch_size=4, seed=0, document_mask=True)
    plain = Batches(split, context=16, batch_size=4, seed=0)
    for step in range(20):
        batch = batches(step)
        assert torch.equal(batch.inputs, plain(step).inputs)
        assert torch.equal(batch.targets, plain(step).targets)
        for row in range(4):
            tokens = batch.inputs[row].numpy()
            (start,) = (
                i for i in range(len(whole) - 15) if whole[i : i + 16].tolist() == tokens.tolist()
            )
            expected = documents[start : start + 16]
            assert batch.segments[row].tolist() == expected.tolist()
            since, count = [], 0
            for i, document in enumerate(expected):
                count = count + 1 if i and document == expected[i - 1] else 0
                since.append(count)
            assert batch.positions[row].tolist() == since


@pytest.mark.parametrize("context", [7, 16, 100])
def test_best_fit_holds_every_document_and_predicts_only_within(splits, context):
    split = splits["train"]
    batches = Batches(
        split, context=context, batch_size=3, seed=0, packing="bestfit", document_mask=True
    )
    n, predicted, seen = batches.n_windows, [], []
    for step in range(-(-n // 3)):
        inputs, targets, positions, segments = (part.numpy() for part in batches(step))
        for row in range(3):
            if step * 3 + row >= n:
                continue
            seen += inputs[row][inputs[row] > 0].tolist()
            for i in range(context):
                begins = i == 0 or segments[row, i] != segments[row, i - 1]
                assert positions[row, i] == (0 if begins else positions[row, i - 1] + 1) or (
                    segments[row, i] == -1
                )
                if targets[row, i] != IGNORED:
                    assert segments[row, i] >= 0
                    assert inputs[row, i] > 0  # nothing follows an end of text
                    assert targets[row, i] in (0, inputs[row, i] + 1)
                    predicted.append((segments[row, i], int(inputs[row, i])))
    # Each token but an end predicts the next one, unless a document longer than a row is cut there.
    row = context + 1
    expected = [
        (d, int(split.offsets[d]) + i + 1)
        for d, length in enumerate(LENGTHS)
        for i in range(length - 1)
        if (i + 1) % row
    ]
    assert sorted(predicted) == expected
    assert set(seen) >= {token for _, token in expected}


def test_best_fit_rows_once_an_epoch(splits):
    batches = Batches(splits["train"], context=16, batch_size=1, seed=0, packing="bestfit")
    n = batches.n_windows
    epochs = [
        [tuple(batches(step).inputs[0].tolist()) for step in range(epoch * n, (epoch + 1) * n)]
        for epoch in range(2)
    ]
    assert sorted(epochs[0]) == sorted(epochs[1])
    assert len(set(epochs[0])) == n
    assert epochs[0] != epochs[1]


def test_the_smallest_split(tmp_path):
    small = written(tmp_path, [3, 5])["train"]
    only = Batches(small, context=7, batch_size=2, seed=0)
    assert (only.n_windows, only(5).inputs.tolist()) == (1, [[1, 2, 0, 4, 5, 6, 7]] * 2)


@pytest.mark.parametrize(
    ("lengths", "changes", "message"),
    [
        ([3, 5], {"context": 8}, r"'train' must have at least context \+ 1 = 9 tokens"),
        ([], {"context": 1}, "must have"),
        ([], {"packing": "bestfit"}, "must have"),
        (LENGTHS, {"context": 0}, "context must be at least 1, got 0"),
        (LENGTHS, {"batch_size": 0}, "batch_size must be at least 1, got 0"),
        (LENGTHS, {"step": -1}, "step must be at least 0, got -1"),
        (
            LENGTHS,
            {"packing": "bestfit", "end_of_text": False},
            "documents that end in end_of_text",
        ),
    ],
)
def test_wrong_input_is_refused(tmp_path, lengths, changes, message):
    options = {"context": 4, "batch_size": 2, "seed": 0, "step": 0, "end_of_text": True} | changes
    split = written(tmp_path, lengths, end_of_text=options.pop("end_of_text"))["train"]
    step = options.pop("step")
    with pytest.raises(ValueError, match=message):
        Batches(split, **options)(step)


def test_permutation_is_a_bijection_for_every_size():
    for size in (*range(1, 300), 511, 512, 513, 1023, 1024, 1025, 2000):
        keys = _keys(size, np.full(size, 5), 0)
        found = permuted(np.arange(size), size, keys)
        assert np.array_equal(np.sort(found), np.arange(size)), size


@given(size=st.integers(1, 10**12), seed=st.integers(), data=st.data())
def test_permutation_of_large_sizes_stays_inside_and_apart(size, seed, data):
    index = np.array(data.draw(st.lists(st.integers(0, size - 1), max_size=20, unique=True)))
    index = index.astype(np.int64)
    found = permuted(index, size, _keys(seed, np.zeros(len(index), dtype=np.int64), 0))
    assert len(set(found.tolist())) == len(index)
    assert all(0 <= i < size for i in found)


@pytest.mark.parametrize("size", [2, 3, 5, 7, 10, 16, 17, 50, 100])
def test_permutation_looks_random(size):
    """Over 4,000 epochs: where three places go, and which two go to the first two, are uniform."""
    keys = _keys(7, np.arange(4000), 0)
    ends = {i: permuted(np.full(4000, i), size, keys) for i in {0, 1, size // 2, size - 1}}
    for found in ends.values():
        assert stats.chisquare(np.bincount(found, minlength=size)).pvalue > 1e-3
    if 2 < size <= 17:
        pairs = np.bincount(ends[0] * size + ends[1], minlength=size**2).reshape(size, size)
        assert stats.chisquare(pairs[~np.eye(size, dtype=bool)]).pvalue > 1e-3
    # Within one epoch, neighbors do not stay neighbors.
    order = permuted(np.arange(1000), 1000, np.repeat(keys[:1], 1000))
    assert abs(stats.spearmanr(order, np.arange(1000)).statistic) < 0.1
    assert (np.abs(np.diff(order)) == 1).mean() < 0.02
