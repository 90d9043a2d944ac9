"""Captions as ids and back, what is trained on, and BLEU from counts of resampled sentences."""

import numpy as np
import pytest
import torch
from enforce import plain
from sacrebleu.metrics import BLEU
from torch.nn import functional as F

from week11.bleu import bleu, counts, gain, gain_of_gains, resampled
from week11.captions import END, PAD, Captions, OneVector, as_batch, in_use, train, write
from week11.seq2seq_attention import Seq2Seq

PAIRS = [("Ein Hund schläft.", "A dog sleeps."), ("Der Hund, ein Tier!", "The dog, an animal!")]
SIZES = {"d_model": 5, "hidden_size": 6}


def test_ids_are_words_and_marks_and_no_word_is_the_end():
    words = Captions([(f"w{i}.", f"v{i}, v{i}") for i in range(9)] * 2, least=2)
    for language, vocabulary in words.words.items():
        assert not {PAD, 1, END} & set(vocabulary.ids.values())
        assert sorted(vocabulary.ids.values()) == list(range(3, len(vocabulary) + 1)), language
    for i, (_, ids) in enumerate(words.ids):
        assert words.decode([*ids, END, 5]) == f"v{i % 9} , v{i % 9}"
    assert words.encode("W3 ?", "de") == [words.words["de"].ids["w3"], 1]
    assert words.decode([1, PAD]) == "<unk>"


def test_largest_id_has_a_vector_and_a_logit():
    words = Captions(PAIRS, least=1)
    for score in ("additive", "none"):
        model = words.network(score=score, **SIZES)
        source, lengths, target = as_batch(words.ids)
        assert source.max() == model.source_embedding.num_embeddings - 1
        logits, _ = model(source, lengths, target)
        assert target.max() == logits.shape[-1] - 1


def test_one_vector_is_a_network_whose_context_is_zero():
    torch.manual_seed(0)
    small, full = OneVector(9, 7, **SIZES), Seq2Seq(9, 7, score="none", **SIZES)
    weights = dict(small.state_dict())
    for name, at in (("decoder.weight_ih_l0", 5), ("out_proj.weight", 6)):
        weights[name] = full.state_dict()[name].clone()  # what reads the context may be anything
        weights[name][:, :at] = small.state_dict()[name]
    full.load_state_dict(weights)
    source, lengths = torch.tensor([[3, 4, 5], [6, 7, 0]]), torch.tensor([3, 2])
    target = torch.tensor([[2, 4, 5], [2, 3, 6]])
    torch.testing.assert_close(*[model(source, lengths, target)[0] for model in (small, full)])


@pytest.mark.parametrize("score", ["additive", "none"])
def test_parameters_in_use_have_a_gradient(score):
    torch.manual_seed(0)
    words = Captions(PAIRS, least=1)
    model = words.network(score=score, **SIZES)
    source, lengths, target = as_batch(words.ids)
    model(source, lengths, target)[0].square().sum().backward()
    tables = {"source_embedding.weight", "target_embedding.weight"}  # not each word occurs
    dead = sum(
        p.numel() if p.grad is None else int((p.grad == 0).sum())
        for name, p in model.named_parameters()
        if name not in tables
    )
    assert in_use(model) == sum(p.numel() for p in model.parameters()) - dead


def test_loss_is_of_each_word_and_the_end_and_not_of_padding():
    torch.manual_seed(0)
    words = Captions(PAIRS, least=1)
    model, start = words.network(score="additive", **SIZES), 0.0
    with torch.no_grad():
        for x, y in words.ids:
            logits, _ = model(torch.tensor([x]), torch.tensor([len(x)]), torch.tensor([[END, *y]]))
            start += F.cross_entropy(logits[0], torch.tensor([*y, END]), reduction="sum").item()
    n = sum(len(y) + 1 for _, y in words.ids)
    (loss,) = train(model, words.ids, epochs=1, generator=torch.Generator(), lr=0.0)
    assert loss == pytest.approx(start / n, rel=1e-5)


def test_it_learns_two_captions_and_writes_them_in_order():
    torch.manual_seed(0)
    words = Captions(PAIRS, least=1)
    model = words.network(score="additive", d_model=16, hidden_size=16, dropout=0.1)
    losses = train(model, words.ids, epochs=60, generator=torch.Generator(), lr=2e-2)
    assert losses[-1] < 0.2 < losses[0]
    assert not model.training
    written = write(model, [x for x, _ in words.ids[::-1]])  # the longer first
    assert [words.decode(ids) for ids in written] == ["the dog , an animal !", "a dog sleeps ."]


def test_counts_give_sacrebleu():
    written, references = ["a b c d e", "b a", "x"], ["a b c d f", "b a c", "y"]
    expected = BLEU().corpus_score(written, [references]).score
    assert bleu(counts(written, references).sum(axis=0)) == pytest.approx(expected)


WRITTEN = ["a b c d e", "a b c d x", "a x c d e f g", "x b c d e"] * 2
REFERENCES = ["a b c d e"] * 8


def test_a_resample_has_the_corpus_score_of_the_sentences_drawn():
    found = resampled(counts(WRITTEN, REFERENCES), rng=np.random.default_rng(0), n_resamples=5)[0]
    drawn = np.random.default_rng(0).multinomial(8, [1 / 8] * 8, size=5)
    for score, times in zip(found, drawn, strict=True):
        written, references = np.repeat(WRITTEN, times).tolist(), np.repeat(REFERENCES, times)
        expected = BLEU().corpus_score(written, [references.tolist()]).score
        assert score == pytest.approx(expected)


def test_gain_is_paired():
    same = gain(*[counts(WRITTEN, REFERENCES)] * 2, np.random.default_rng(0), 50)
    assert same.low == same.high == 0  # a system is never ahead of itself, whatever is drawn
    better, worse = counts(REFERENCES, REFERENCES), counts(WRITTEN, REFERENCES)
    found = gain(better, worse, np.random.default_rng(0), 50)
    assert found.mean == pytest.approx(bleu(better.sum(0)) - bleu(worse.sum(0)))
    assert 0 < found.low < found.mean < found.high


def test_gain_of_gains_has_its_sign_and_each_set_its_own_draws():
    better, worse = counts(REFERENCES, REFERENCES), counts(WRITTEN, REFERENCES)
    found = gain_of_gains((better, worse), (worse, worse), np.random.default_rng(0), 50)
    alone = gain(better, worse, np.random.default_rng(0), 50)
    assert (found.mean, found.low, found.high) == (alone.mean, alone.low, alone.high)
    assert found.n == 16
    again = gain_of_gains((better, worse), (better, worse), np.random.default_rng(0), 50)
    assert again.mean == 0
    assert again.low < 0 < again.high  # it is not known to be zero


BLEU_PLAIN, RNG = plain("11", "bleu"), np.random.default_rng(0)


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: Captions([]), "pairs must hold at least one pair of sentences, got none"),
        (
            lambda: train(OneVector(4, 4, **SIZES), [], epochs=0, generator=torch.Generator()),
            "epochs must be at least 1, got 0",
        ),
        (
            lambda: plain("11", "bleu").resampled(
                np.zeros((2, 10)), np.zeros((3, 10)), rng=np.random.default_rng(0)
            ),
            r"systems must all have counts of 2 sentences, got \[2, 3\]",
        ),
        (
            lambda: resampled(np.zeros((0, 10)), rng=RNG),
            "systems must hold counts of at least one sentence, got 0",
        ),
    ],
)
def test_bad_input_is_named(call, complaint):
    with pytest.raises(ValueError, match=complaint):
        call()
