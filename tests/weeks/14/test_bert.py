"""BERT: random shapes against transformers, masks by counting, pairs, MiniLM and its tokenizer."""

import dataclasses
import math
import unicodedata

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.datasets import pydocs_text, sst2
from shared.errors import UserError
from shared.pretrained import minilm
from week14.bert import Bert, BertConfig, BertForPretraining
from week14.bert_pretraining import (
    Special,
    make_optimizers,
    mask_tokens,
    pretrain,
    pretraining_losses,
    sentence_pairs,
)
from week14.evidence.bert import SPECIAL, letters, twins
from week14.minilm import load_bert, sentence_embeddings
from week15.wordpiece import WordPiece

SMALL = BertConfig(vocab_size=23, d_model=12, n_layers=2, n_heads=3, d_ff=20, context=11)


@settings(max_examples=8)
@given(
    layers=st.integers(1, 2),
    heads=st.sampled_from([1, 2, 3]),
    seq=st.integers(1, 11),
    seed=st.integers(0, 99),
)
def test_equals_transformers(layers, heads, seq, seed):
    config = dataclasses.replace(SMALL, n_layers=layers, n_heads=heads)
    ours, theirs = (model.double() for model in twins(config, seed))
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(23, (3, seq), generator=generator)
    types = torch.randint(2, (3, seq), generator=generator)
    keep = torch.arange(seq) < torch.randint(1, seq + 1, (3, 1), generator=generator)
    x = ours.encoder(tokens, types, keep)
    reference = theirs(tokens, attention_mask=keep.long(), token_type_ids=types)
    torch.testing.assert_close(ours.token_logits(x), reference.prediction_logits)
    torch.testing.assert_close(ours.pair_logits(x), reference.seq_relationship_logits)


def test_padding_changes_nothing():
    model = Bert(SMALL, torch.Generator().manual_seed(0)).double()
    tokens = torch.randint(23, (1, 11), generator=torch.Generator().manual_seed(1))
    keep = torch.arange(11)[None] < 6
    alone = model(tokens[:, :6])
    torch.testing.assert_close(model(tokens, keep=keep)[:, :6], alone)
    assert not torch.allclose(model(tokens)[:, :6], alone)


def test_every_place_sees_every_other():
    model = Bert(SMALL, torch.Generator().manual_seed(0)).double()
    tokens = torch.randint(23, (1, 11), generator=torch.Generator().manual_seed(1))
    for place in range(11):
        changed = tokens.clone()
        changed[0, place] = (changed[0, place] + 1) % 23
        assert ((model(changed) - model(tokens)).abs().amax(dim=2) > 1e-6).all()


def test_dropout_acts_in_training_only():
    model = Bert(dataclasses.replace(SMALL, dropout=0.5))
    tokens = torch.arange(11)[None]
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))


# ---- the task


@given(rate=st.sampled_from([0.05, 0.15, 0.5]), seed=st.integers(0, 999))
def test_shares_of_the_masks(rate, seed):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 2004, (50, 800), generator=generator)
    gaps, chosen = mask_tokens(tokens, SPECIAL, 2004, rate=rate, generator=generator)
    ordinary, count = int((tokens >= 4).sum()), int(chosen.sum())
    assert abs(count / ordinary - rate) < 5 * (rate / ordinary) ** 0.5
    assert not (chosen & (tokens < 4)).any()
    assert torch.equal(gaps[~chosen], tokens[~chosen])
    inside, before = gaps[chosen], tokens[chosen]
    masked, kept = (inside == SPECIAL.mask).sum() / count, (inside == before).sum() / count
    bound = 5 * (0.2 / count) ** 0.5
    assert abs(masked - 0.8) < bound
    assert abs(kept - 0.1) < bound
    assert ((inside == SPECIAL.mask) | (inside >= 4)).all()  # never another special one


def test_the_loss_counts_the_chosen_that_stay():
    """Labels read off the input would count nothing here."""
    model = BertForPretraining(SMALL, torch.Generator().manual_seed(0))
    text, document = torch.randint(4, 23, (200,)), torch.arange(200) // 50
    pairs = sentence_pairs(text, document, SPECIAL, size=4, batch=6)
    gaps, chosen = mask_tokens(pairs.tokens, SPECIAL, 23, rate=1.0, kinds=(0.0, 0.0))
    assert torch.equal(gaps, pairs.tokens)
    assert chosen.sum() == 6 * 8
    words, _ = pretraining_losses(model, pairs, gaps, chosen)
    logits = model.token_logits(model.encoder(gaps, pairs.types))
    flat, targets = logits[pairs.tokens >= 4], pairs.tokens[pairs.tokens >= 4]
    torch.testing.assert_close(words, torch.nn.functional.cross_entropy(flat, targets))


@given(size=st.integers(1, 6), seed=st.integers(0, 99))
def test_pairs(size, seed):
    generator = torch.Generator().manual_seed(seed)
    text, document = torch.arange(4, 104), torch.arange(100) // 20
    pairs = sentence_pairs(text, document, SPECIAL, size=size, batch=40, generator=generator)
    tokens = pairs.tokens
    assert tokens.shape == pairs.types.shape == (40, 2 * size + 3)
    assert (tokens[:, 0] == SPECIAL.cls).all()
    assert (tokens[:, size + 1] == SPECIAL.sep).all()
    assert (tokens[:, -1] == SPECIAL.sep).all()
    assert (pairs.types.sum(dim=1) == size + 1).all()  # B and its [SEP]
    a, b = tokens[:, 1 : size + 1] - 4, tokens[:, size + 2 : -1] - 4
    for part in (a, b):
        assert (document[part] == document[part[:, :1]]).all()
    apart = document[a[:, 0]] != document[b[:, 0]]
    assert torch.equal(apart.long(), pairs.apart)
    assert torch.equal(b[~apart][:, 0], a[~apart][:, 0] + size)
    assert 5 < int(apart.sum()) < 35


def test_decay_spares_biases_and_gains():
    model = BertForPretraining(SMALL)
    for name in ("muon", "adamw"):
        optimizers = make_optimizers(model, name)
        ids = [id(p) for o in optimizers for p in o.params]
        assert sorted(ids) == sorted(map(id, model.parameters()))
        for o in optimizers[-2:]:
            assert all((o.weight_decay > 0) == (p.ndim == 2) for p in o.params)


def test_training_learns_what_a_document_is_about():
    """Each of ten documents repeats one token; their frequencies alone cost ln 10."""
    config = BertConfig(23, d_model=32, n_heads=2, context=13)
    model = BertForPretraining(config, torch.Generator().manual_seed(0))
    document, options = torch.arange(400) // 40, {"steps": 90, "batch": 32}
    generator = torch.Generator().manual_seed(0)
    losses = [*pretrain(model, document + 4, document, SPECIAL, generator=generator, **options)]
    assert sum(words for words, _ in losses[-10:]) / 10 < math.log(10) - 0.3


def test_held_out_documents_are_not_trained_on():
    (text, document), (held, other) = letters().values()
    assert not set(document.tolist()) & set(other.tolist())
    assert 0.03 < len(held) / len(text) < 0.3
    assert min(text.min(), held.min()) >= SPECIAL.first


# ---- MiniLM


def test_sentences_in_a_batch_are_as_alone():
    model = load_bert(minilm())
    tokens = torch.tensor([[101, 2748, 102, 0, 0], [101, 2053, 2053, 2053, 102]])
    together = sentence_embeddings(model, tokens, tokens != 0)
    alone = sentence_embeddings(model, tokens[:1, :3], tokens[:1, :3] != 0)
    torch.testing.assert_close(together[:1], alone, atol=1e-6, rtol=0)


def test_our_wordpiece_gives_minilms_ids():
    """Week 15's tokenizer with MiniLM's vocabulary, on reviews, a manual and many scripts."""
    from transformers import AutoTokenizer

    words = (minilm() / "vocab.txt").read_text(encoding="utf-8").splitlines()
    ours, theirs = WordPiece(words), AutoTokenizer.from_pretrained(minilm())
    lines = [row.sentence for row in sst2()["dev"]] + pydocs_text().splitlines()[:3000]
    now, old = unicodedata.category, unicodedata.ucd_3_2_0.category
    # What is newer, or was sorted anew, the two tables of Unicode need not both know.
    codes = [c for c in range(0x21, 0x30000, 7) if now(chr(c)) == old(chr(c)) not in ("Cn", "Cs")]
    lines += ["".join(f"a{chr(c)}b " for c in codes[i : i + 20]) for i in range(0, len(codes), 20)]
    expected = theirs(lines, add_special_tokens=False, verbose=False)["input_ids"]
    wrong = [i for i, line in enumerate(lines) if ours.encode(line) != expected[i]]
    assert not wrong, [lines[i] for i in wrong[:3]]


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: BertConfig(vocab_size=5, n_layers=0), "n_layers must be at least 1, got 0"),
        (lambda: Bert(BertConfig(5, d_model=6)), "n_heads must divide d_model = 6, got 4"),
        (lambda: Bert(SMALL)(torch.zeros(1, 12).long()), "at most context = 11 long, got 12"),
        (lambda: Special(0, 1, 2, 3, first=3), "first must be above the special ids, 3, got 3"),
        (
            lambda: mask_tokens(torch.zeros(1, 2).long(), SPECIAL, 9, rate=1.5),
            r"rate must be in \[0, 1\], got 1.5",
        ),
        (
            lambda: mask_tokens(torch.zeros(1, 2).long(), SPECIAL, 9, kinds=(0.8, 0.3)),
            "kinds must be two shares that sum to at most 1",
        ),
        (
            lambda: mask_tokens(torch.zeros(1, 2).long(), SPECIAL, 4),
            "vocab_size must be above special.first = 4, got 4",
        ),
        (
            lambda: sentence_pairs(
                torch.arange(30), torch.zeros(30).long(), SPECIAL, size=4, batch=2
            ),
            "text must hold two documents of 2 size tokens, got size = 4",
        ),
        (
            lambda: sentence_embeddings(
                Bert(SMALL), torch.zeros(2, 3).long(), torch.tensor([[True] * 3, [False] * 3])
            ),
            "keep must leave each sentence a token",
        ),
    ],
)
def test_bad_input_is_named(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_a_folder_that_holds_no_bert(tmp_path):
    with pytest.raises(UserError, match="is not a readable BERT"):
        load_bert(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match="model_type must be 'bert', got 'llama'"):
        load_bert(tmp_path)
