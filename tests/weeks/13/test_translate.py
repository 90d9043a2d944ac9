import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU

from week13.subwords import BOS, EOS, PAD, SPECIAL, Subwords, learn, learn_by_recounting, words_of
from week13.transformer import greedy_decode
from week13.translate import (
    DecoderCache,
    as_batch,
    average,
    beam_search,
    train,
    translate,
    translator,
)

VOCAB = 5
TEXT = st.text(alphabet="ab c.ß", max_size=12)


def model(seed=0, **sizes):
    torch.manual_seed(seed)
    sizes = {"d_model": 8, "n_heads": 2, "n_layers": 2} | sizes
    return translator(VOCAB, **sizes).double().eval()


def markov(seed, vocab=VOCAB):
    """Logits that depend on the last token alone."""
    table = 2 * torch.randn(vocab, vocab, generator=torch.Generator().manual_seed(seed))
    return table, lambda rows, tokens: table[tokens]


def every_sentence(table, longest, alpha):
    """Score and tokens of all sentences: ended, or as long as allowed."""
    log_p = table.log_softmax(-1)
    for n in range(1, longest + 1):
        for tokens in itertools.product(range(VOCAB), repeat=n):
            if EOS not in tokens[:-1] and (n == longest or tokens[-1] == EOS):
                steps = zip((BOS, *tokens), tokens, strict=False)
                yield sum(log_p[a, b].item() for a, b in steps) / n**alpha, list(tokens)


ENDS = {"bos": BOS, "eos": EOS, "pad": PAD}


@given(
    seed=st.integers(0, 99), longest=st.integers(1, 3), alpha=st.sampled_from([0.0, 0.6, 1.0, 2.0])
)
def test_a_beam_of_all_sentences_is_exhaustive_search(seed, longest, alpha):
    table, step = markov(seed)
    options = {"max_len": longest, "alpha": alpha} | ENDS
    ((tokens, score),) = beam_search(step, batch=1, beams=VOCAB**longest, **options)
    best, wanted = max(every_sentence(table, longest, alpha))
    assert score == pytest.approx(best, abs=1e-5)
    assert tokens == wanted


def test_a_short_sentence_that_ends_first_does_not_end_the_search():
    table = torch.full((VOCAB, VOCAB), 1e-9)
    table[BOS, EOS], table[BOS, 3] = 0.5, 0.5 - 1e-6  # ends at once, or goes on with certainty
    table[3, 4], table[4, EOS] = 1.0, 1.0

    def step(rows, tokens):
        return table[tokens].log()

    (long,) = beam_search(step, batch=1, max_len=4, beams=2, alpha=1.0, **ENDS)
    (short,) = beam_search(step, batch=1, max_len=4, beams=2, alpha=0.0, **ENDS)
    assert long[0] == [3, 4, EOS]
    assert long[1] == pytest.approx(math.log(0.5) / 3, abs=1e-4)  # by its own length
    assert short[0] == [EOS]


@given(seed=st.integers(0, 20), beams=st.integers(1, 4))
def test_a_beam_goes_on_with_its_own_sentence(seed, beams):
    tables = torch.stack([markov(seed)[0], markov(seed + 1000)[0]])
    owner = torch.arange(2)

    def step(rows, tokens):
        nonlocal owner
        owner = owner[rows]
        return tables[owner, tokens]

    options = {"max_len": 4, "beams": beams} | ENDS
    together = beam_search(step, batch=2, **options)
    for table, (tokens, score) in zip(tables, together, strict=True):
        ((alone, its),) = beam_search(lambda _, t, table=table: table[t], batch=1, **options)
        assert tokens == alone
        assert score == pytest.approx(its)


@given(seed=st.integers(0, 20), beams=st.integers(1, 4))
def test_a_row_of_a_batch_is_searched_as_if_alone(seed, beams):
    net = model(seed)
    source = torch.tensor([[3, 4, 4], [4, 3, PAD]])
    together = translate(net, source, beams=beams, max_len=5)
    alone = [
        translate(net, row[None, :n], beams=beams, max_len=5)[0]
        for row, n in zip(source, (3, 2), strict=True)
    ]
    assert together == alone
    if beams == 1:
        greedy = greedy_decode(net, source, bos=BOS, eos=EOS, max_len=5).tolist()
        assert [row[: row.index(EOS)] if EOS in row else row for row in greedy] == [
            row + [PAD] * (len(g) - len(row)) if EOS not in g else row
            for row, g in zip(together, greedy, strict=True)
        ]


@given(
    seed=st.integers(0, 20),
    norm_first=st.booleans(),
    rows=st.lists(st.integers(0, 1), min_size=3, max_size=3),
)
def test_the_cache_follows_the_rows_it_is_given(seed, norm_first, rows):
    net = model(seed, norm_first=norm_first)
    source = torch.tensor([[3, 4, 3], [4, PAD, PAD]])
    first, second = torch.tensor([BOS, BOS]), torch.tensor([3, 4, 4])
    with torch.no_grad():
        cache = DecoderCache(net, source)
        cache.step(torch.arange(2), first)
        ours = cache.step(torch.tensor(rows), second)
        whole = net(source[rows], torch.stack([first[rows], second], dim=1))[:, -1]
    torch.testing.assert_close(ours, whole)


@given(texts=st.lists(TEXT, min_size=1, max_size=6), n_merges=st.integers(0, 12))
def test_kept_counts_are_counts(texts, n_merges):
    words = [word for text in texts for word in words_of(text)]
    spelled = {tuple(map(ord, word)): words.count(word) for word in words}
    assert learn(spelled, n_merges, 10**6) == learn_by_recounting(spelled, n_merges, 10**6)


@given(texts=st.lists(TEXT, min_size=1, max_size=4))
def test_text_comes_back(texts):
    bpe = Subwords(["ab cß. a.b", *texts], n_merges=6)
    for text in texts:
        assert "".join(words_of(text)).replace("▁", " ").strip() == " ".join(text.split())
        assert bpe.decode([BOS, *bpe.encode(text), EOS, 4]) == " ".join(text.split())
    assert len(set(bpe.symbols)) == len(bpe)
    assert bpe.symbols[PAD] == SPECIAL[0]


def test_training_ends_at_the_mean_of_its_last_checkpoints(monkeypatch):
    net, kept = model().float(), []
    pairs = [([3, 4], [4, 3]), ([4], [3]), ([3], [4, 4])]
    monkeypatch.setattr("week13.translate.average", lambda states: kept.extend(states) or states[0])
    options = {"lr": 1e-2, "generator": torch.Generator().manual_seed(0), "batch_size": 2}
    losses = train(net, pairs, steps=7, keep=3, every=2, warmup_steps=2, **options)
    assert len(losses) == 7
    assert len(kept) == 3  # of steps 3, 5 and 7
    weights = [state["encoder.norm.weight"] for state in kept]
    assert not torch.equal(weights[0], weights[1])
    last = model().float()
    options["generator"] = torch.Generator().manual_seed(0)
    train(last, pairs, steps=7, keep=1, every=2, warmup_steps=2, **options)
    torch.testing.assert_close(kept[2], dict(last.state_dict()))
    mean = average(kept[:3])["encoder.norm.weight"]
    torch.testing.assert_close(mean, sum(weights) / 3)
    assert not net.training


def test_a_pair_is_learned_by_heart():
    net = model(d_model=16, n_layers=1).float()
    pairs = [([3, 4], [4, 4, 3]), ([4, 3], [3])]
    generator = torch.Generator().manual_seed(0)
    train(net, pairs, steps=60, lr=1e-2, generator=generator, warmup_steps=5, every=1)
    source, _ = as_batch(pairs)
    assert translate(net, source, beams=2, max_len=6) == [[4, 4, 3], [3]]


def test_the_closest_reference_counts():
    four = BLEU(effective_order=True).sentence_score("a b c d", ["a", "a b c d e"])
    assert four.bp == pytest.approx(math.exp(1 - 5 / 4))  # .7788: 5 is closer than 1


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: Subwords([" "], 3), "texts must hold at least one word, got none"),
        (lambda: Subwords(["a"], -1), "n_merges must be at least 0, got -1"),
        (lambda: average([]), "checkpoints must hold at least one state, got none"),
        (
            lambda: translate(model(), torch.tensor([[3]]), beams=0, max_len=3),
            "beams must be at least 1, got 0",
        ),
        (
            lambda: translate(model(), torch.tensor([[3]]), beams=1, max_len=0),
            "max_len must be at least 1, got 0",
        ),
        (
            lambda: beam_search(
                lambda rows, tokens: torch.full((1, 5), torch.nan),
                batch=1,
                max_len=2,
                beams=1,
                **ENDS,
            ),
            "logits must not be NaN; the model has diverged",
        ),
        (
            lambda: train(model(), [], steps=1, lr=1.0, generator=torch.Generator()),
            "pairs must hold at least one pair",
        ),
    ],
)
def test_bad_input(call, complaint):
    with pytest.raises(ValueError, match=complaint):
        call()
