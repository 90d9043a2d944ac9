"""word2vec against autograd, enumeration and gensim, and what its classic mistakes break."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shared.evidence import Evidence
from week12.evidence.word2vec import (
    ARMS,
    IN_ORDER,
    SHUFFLED,
    judge,
    random_model,
    tables_by_autograd,
)
from week12.word2vec import (
    Batch,
    Word2Vec,
    contexts,
    huffman_paths,
    join_phrases,
    keep_probability,
    noise_distribution,
    read,
)
from week12.word_tests import analogies, draw_bands, reciprocal_ranks, similarity, split_twins

texts = st.lists(st.lists(st.sampled_from("abcde"), min_size=1, max_size=7), min_size=2, max_size=6)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@given(text=texts, skip_gram=st.booleans(), negative=st.integers(0, 3), seed=st.integers(0, 99))
def test_a_step_is_that_of_autograd(text, skip_gram, negative, seed):
    corpus = read([*text, ["a", "b"]], 1)
    model = random_model(corpus.counts, seeded(seed), skip_gram=skip_gram, negative=negative)
    for batch in model.batches(corpus, 5):
        expected = tables_by_autograd(model, batch, 0.1)
        model.step(batch, 0.1)
        torch.testing.assert_close(torch.cat([model.v, model.u]), expected)


def loss_read_aloud(model, batch):
    """The definition, one yes-or-no question after another."""
    total, sigma = 0.0, lambda s: 1 / (1 + math.exp(-s))
    for i in range(len(batch.context)):
        words = batch.context[i][batch.context_mask[i]].tolist()
        inputs = [model.v[w] for w in words]
        if not model.skip_gram:
            inputs = [sum(inputs) / len(inputs)]
        for h, j in itertools.product(inputs, range(batch.target.shape[1])):
            if batch.target_mask[i, j]:
                score = float(h @ model.u[batch.target[i, j]])
                total -= math.log(sigma(score if batch.label[i, j] else -score))
    return total


@given(text=texts, skip_gram=st.booleans(), negative=st.integers(0, 3), seed=st.integers(0, 99))
def test_loss_is_the_definition(text, skip_gram, negative, seed):
    corpus = read([*text, ["a", "b"]], 1)
    model = random_model(corpus.counts, seeded(seed), skip_gram=skip_gram, negative=negative)
    batch = next(model.batches(corpus, 4))
    assert float(model.gradients(batch)[0]) == pytest.approx(loss_read_aloud(model, batch))


def test_cbow_as_in_c_multiplies_the_gradient_of_the_input_by_the_context():
    corpus = read(["abcde", "ab"], 1)
    true, in_c = (
        random_model(corpus.counts, seeded(), skip_gram=False, as_in_c=as_in_c)
        for as_in_c in (False, True)
    )
    batch = next(true.batches(corpus, 7))
    (_, v, u), (_, v_in_c, u_in_c) = true.gradients(batch), in_c.gradients(batch)
    size = batch.context_mask.sum(1)[:, None, None]
    torch.testing.assert_close(v_in_c, size * v)
    torch.testing.assert_close(u_in_c, u)


@pytest.mark.parametrize("options", [{}, {"negative": 0}, {"skip_gram": False}])
def test_training_lowers_the_loss_and_moves_both_tables(options):
    corpus = read([list("abcab"), list("dedde")] * 20, 1)
    model = Word2Vec(corpus.counts, 8, generator=seeded(), threshold=None, **options)
    before = model.v.clone()
    losses = model.fit(corpus, epochs=8, lr=0.05, batch_size=4)
    assert losses[-1] < 0.95 * losses[0]
    assert not torch.allclose(model.v, before)
    assert model.u.abs().max() > 0


@given(counts=st.lists(st.integers(1, 20), min_size=2, max_size=6))
def test_no_tree_is_shorter(counts):
    paths = huffman_paths(torch.tensor(counts))
    lengths = paths.mask.sum(1).tolist()
    ways = [tuple(code[on].tolist()) for code, on in zip(paths.codes, paths.mask, strict=True)]
    assert sum(2.0**-n for n in lengths) == 1
    assert len(set(ways)) == len(counts)
    fits = itertools.product(range(1, len(counts)), repeat=len(counts))
    least = min(np.dot(counts, n) for n in fits if sum(2.0 ** -np.array(n)) <= 1)
    assert np.dot(counts, lengths) == least
    for word, other in itertools.combinations(range(len(counts)), 2):  # a common way has one node
        for depth in range(min(lengths[word], lengths[other])):
            same = ways[word][:depth] == ways[other][:depth]
            assert (paths.nodes[word, depth] == paths.nodes[other, depth]) == same


@given(counts=st.lists(st.integers(1, 20), min_size=2, max_size=9), seed=st.integers(0, 99))
def test_the_tree_is_a_distribution(counts, seed):
    model = random_model(torch.tensor(counts), seeded(seed), negative=0)
    context = torch.zeros(1, 1, dtype=torch.int64)
    losses = [
        model.gradients(Batch(context, context == 0, *model.questions(torch.tensor([i]))))[0]
        for i in range(len(counts))
    ]
    assert float(torch.stack(losses).neg().exp().sum()) == pytest.approx(1)


@given(text=texts, reach=st.integers(1, 4))
def test_contexts_are_the_neighbors_in_the_sentence(text, reach):
    corpus = read([*text, ["a", "b"]], 1)
    at = torch.arange(len(corpus.tokens))
    place, mask = contexts(at, corpus.sentence, reach)
    for i in at.tolist():
        found = sorted(place[i][mask[i]].tolist())
        near = [j for j in at.tolist() if 0 < abs(i - j) <= reach]
        assert found == [j for j in near if corpus.sentence[j] == corpus.sentence[i]]


def test_noise_and_subsampling_follow_their_formulas():
    counts = torch.tensor([16, 1])
    assert noise_distribution(counts).tolist() == pytest.approx([8 / 9, 1 / 9])
    keep = keep_probability(torch.tensor([96, 4]), 0.04)
    assert keep.tolist() == pytest.approx([math.sqrt(1 / 24) + 1 / 24, 1.0])
    model = Word2Vec(torch.tensor([50, 30, 20]), 2, negative=1, generator=seeded())
    target, label, mask = model.questions(torch.zeros(20_000, dtype=torch.int64))
    drawn = torch.bincount(target[:, 1]) / len(target)
    expected = noise_distribution(torch.tensor([50, 30, 20]))
    assert (drawn - expected).abs().max() < 0.018  # five standard errors of 20,000 draws
    assert torch.equal(mask[:, 1], target[:, 1] != 0)
    assert label.sum() == len(label)
    assert mask[:, 0].all()


def test_subsampling_drops_tokens_before_windows_are_cut():
    corpus = read([["the", "cat", "the", "sat"] * 50], 1)
    model = Word2Vec(corpus.counts, 2, window=1, threshold=1e-9, generator=seeded())
    model.keep = torch.tensor([0.0, 1.0, 1.0])  # nothing of "the", all of the others
    pairs = Counter()
    for batch in model.batches(corpus, 32):
        for words, mask, center in zip(
            batch.context, batch.context_mask, batch.target, strict=True
        ):
            pairs.update((corpus.words[w], corpus.words[center[0]]) for w in words[mask])
    assert set(pairs) == {("cat", "sat"), ("sat", "cat")}


def test_phrases_are_joined_from_the_left():
    text = [["new", "york", "new", "york"], ["new", "york", "times"]] * 10 + [["the", "new"]] * 30
    # (30 - 5) / (60 · 30) · 130 words is 1.8 for "new york", 2.2 for "york times"
    joined = join_phrases(text, min_count=5, threshold=1.5)
    assert joined[:2] == [["new_york", "new_york"], ["new_york", "times"]]
    assert joined[-1] == ["the_new"]
    joined = join_phrases(text, min_count=5, threshold=2)
    assert joined[:2] == [text[0], ["new", "york_times"]]
    assert join_phrases(text, min_count=30, threshold=0.0) == text


def test_scores_by_hand():
    vectors = np.array([[1.0, 0], [0.8, 0.6], [0, 1], [-0.6, 0.8], [0, 0]])
    words = ["king", "man", "woman", "queen", "none"]
    pairs = [("king", "man", 9), ("king", "woman", 5), ("king", "queen", 7), ("king", "x", 1)]
    assert similarity(vectors, words, pairs) == (pytest.approx(0.5), 3)
    assert similarity(vectors * 3, words, [*pairs[:1], ("king", "none", 2)]).n == 2
    # king - man + woman is (0.2, 0.4), nearest to man and woman, which are given
    assert analogies(vectors, words, [("man", "king", "woman", "queen")]) == (1.0, 1)
    assert analogies(vectors, words, [("man", "king", "woman", "none")]) == (0.0, 1)
    assert reciprocal_ranks(vectors, np.array([0, 0]), np.array([1, 3])).tolist() == [1, 0.25]
    assert reciprocal_ranks(np.ones((4, 2)), np.array([0]), np.array([1])).tolist() == [1 / 3]


def test_twins_share_the_occurrences():
    corpus = read([["a", "b", "c"] * 400], 1)
    split, twins = split_twins(corpus, torch.tensor([0, 2]), seeded())
    assert twins.tolist() == [3, 4]
    assert split.words[3:] == ["a~", "c~"]
    assert split.counts.sum() == corpus.counts.sum()
    assert split.counts[1] == 400
    assert (split.counts[[0, 2, 3, 4]] - 200).abs().max() < 50  # five standard errors
    back = torch.where(split.tokens == 3, 0, torch.where(split.tokens == 4, 2, split.tokens))
    assert torch.equal(back, corpus.tokens)


def test_who_is_better_is_judged_by_the_right_sign():
    arms = [*ARMS, SHUFFLED, IN_ORDER]
    ours = {arm: np.array([0.50, 0.51]) for arm in arms}
    for level, verdict in ((0.30, "holds"), (0.70, "fails")):
        run = Evidence()
        theirs = {f"gensim, {arm}": np.array([level, level + 0.01]) for arm in arms}
        judge(run, ours | theirs)
        found = {c["name"]: c["verdict"] for c in run.claims}
        assert {v for name, v in found.items() if "as good as" in name} == {verdict}
    judge(run := Evidence(), ours | theirs | {"CBOW": np.array([0.9, 0.91])})
    found = {c["name"]: c["verdict"] for c in run.claims}
    assert found["CBOW: the undivided gradient is better"] == "fails"
    assert not run.falsifiers[0]["broken"]


def one_word():
    corpus = read([["a"], ["b"]], 1)
    return Word2Vec(corpus.counts, 2, generator=seeded()).fit(corpus)


COUNTS = torch.tensor([3, 2])


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: read([], 1), "sentences must hold words that occur min_count = 1 times"),
        (lambda: read([["a", "a"]], 3), "min_count = 3 times, got 0 of them"),
        (lambda: read([["a", "b"]], 0), "min_count must be at least 1, got 0"),
        (one_word, "corpus must hold two neighbors that subsampling keeps, got none"),
        (lambda: Word2Vec(COUNTS, 0, generator=seeded()), "dim must be at least 1, got 0"),
        (lambda: Word2Vec(COUNTS, 2, window=0, generator=seeded()), "window must be at least 1"),
        (
            lambda: Word2Vec(COUNTS, 2, negative=-1, generator=seeded()),
            "negative must be at least 0",
        ),
        (lambda: huffman_paths(torch.tensor([3])), "counts must be of at least 2 words, got 1"),
        (lambda: keep_probability(COUNTS, 0), "threshold must be above 0, got 0"),
        (lambda: similarity(np.eye(2), ["a", "b"], [("a", "b", 1)]), "pairs must hold 2 or more"),
        (lambda: draw_bands(COUNTS, [5, 9], 1, seeded()), "some from 5 to below 9, got none"),
        (lambda: analogies(np.eye(2), ["a", "b"], []), "questions must hold one or more"),
    ],
)
def test_wrong_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()
