"""Language, symbols and scores of papers/2015-bpe."""

from collections import Counter

import pytest
import torch
from test_scripts import load

from shared import records
from week13.subwords import UNKNOWN, Subwords

paper = load(records.ROOT / "papers/2015-bpe/reproduce.py")


def test_a_word_is_translated_piece_by_piece():
    learned, asked = paper.corpus(0, 500, 50, stems=5, endings=3)
    known = {}
    for source, target in [*learned, *asked]:
        for a, b in zip(source.split(), target.split(), strict=True):
            if a[0].isupper():
                assert a == b
            else:
                assert known.setdefault(a[:4], b[:4]) == b[:4]
                assert known.setdefault(a[4:], b[4:]) == b[4:]
    assert len(known) == 8


def test_words_learned_from_are_unequal_and_words_asked_for_alike():
    learned, asked = paper.corpus(0, 3000, 3000, stems=10, endings=1)
    counts = [
        Counter(w for a, _ in of for w in a.split() if w.islower()) for of in (learned, asked)
    ]
    ratios = [max(count.values()) / min(count.values()) for count in counts]
    assert ratios[0] > 5
    assert ratios[1] < 1.5


def test_whole_words_copy_what_they_do_not_know():
    words = paper.Words(["a b", "a b c"])
    assert words.encode("a c d") == [words.ids["a"], UNKNOWN, UNKNOWN]
    written = [words.ids["b"], UNKNOWN, paper.EOS, UNKNOWN]
    assert words.decode(written, ["x", "y", "z", "w"]) == "b y"


def test_a_copied_word_is_the_one_looked_at(monkeypatch):
    words = paper.Words(["a b", "a b"])
    model = paper.Translator(len(words), len(words), d_model=4, hidden_size=4)
    monkeypatch.setattr(paper, "greedy_decode", lambda *_, **__: torch.tensor([[3, 4, 2]] * 2))
    weights = torch.tensor([[[0.1, 0.9], [1, 0], [1, 0]], [[1.0, 0], [1, 0], [1, 0]]])
    monkeypatch.setattr(paper.Seq2Seq, "forward", lambda *_: (None, weights))
    assert paper.write(model, words, ["q r", "s t"]) == ["r a", "s a"]


def test_no_two_words_share_a_symbol_of_their_own():
    texts = ["low lower", "lowest low"]
    own = paper.OwnSymbols(texts, Subwords(texts, 2))
    ids = [own.encode(word) for word in ("low", "lower", "lowest")]
    assert len({i for row in ids for i in row}) == sum(map(len, ids))
    assert own.decode(own.encode("lowest low")) == "lowest low"
    assert own.encode("slow") == [UNKNOWN]


def test_random_merges_make_a_vocabulary_of_the_same_size_that_gives_back_the_text():
    texts = [" ".join(pair) for pair in paper.corpus(1, 50, 1)[0]]
    drawn, learned = (paper.vocabulary(arm, texts, 60, 3) for arm in (paper.RANDOM, paper.SUBWORDS))
    assert len(drawn) == len(learned)
    assert drawn.symbols != learned.symbols
    assert [drawn.decode(drawn.encode(text)) for text in texts] == texts


def test_f1_counts_words_of_a_group_no_oftener_than_the_reference():
    seen = Counter({"a": 9, "b": 2})
    scores = paper.f1_by_frequency(["b b a", "x a"], ["b a a", "x y"], seen)
    assert scores == {"often": 200 / 4, "rare": 200 / 3, "never": 200 / 3}


def test_wrong_input():
    with pytest.raises(ValueError, match="arm must be one of words, subwords"):
        paper.vocabulary("letters", ["a"], 1, 0)
