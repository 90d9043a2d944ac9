"""WordPiece is that of `tokenizers` and BERT; the likelihood score is a likelihood."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import datasets
from week15.bert_words import basic_words, is_punctuation
from week15.evidence import wordpiece as evidence
from week15.merges import merge
from week15.wordpiece import (
    PREFIX,
    SPECIAL,
    WordPiece,
    alphabet_of,
    learn_pieces,
    pair_scores,
    spell,
)


def old(char: str) -> bool:
    """Whether Unicode 3.2 knew the character as today's: the libraries' tables differ in age."""
    category = unicodedata.category(char)
    return category not in ("Cs", "Cn") and unicodedata.ucd_3_2_0.category(char) == category


OLD = "".join(char for char in map(chr, range(0x3000)) if old(char))
TEXT = st.text(st.sampled_from(OLD + "中文字和, .'-$^`~ ab"), max_size=40)
FEW = st.lists(st.text("ab c.", min_size=1, max_size=30), min_size=1, max_size=10)


@pytest.fixture(scope="module")
def documents():
    return [document.text for document in datasets.pydocs()[:15]]


@pytest.fixture(scope="module")
def tokenizer(documents):
    return WordPiece.train(documents, 600)


@pytest.fixture(scope="module")
def bert(tokenizer):
    return evidence.hugging_face_encoder(tokenizer)


@pytest.fixture(scope="module")
def legacy():
    return pytest.importorskip("transformers.models.bert.tokenization_bert_legacy")


def hugging_face_words(text, **options):
    from tokenizers import normalizers, pre_tokenizers

    clean = normalizers.BertNormalizer(**options).normalize_str(text)
    return [word for word, _ in pre_tokenizers.BertPreTokenizer().pre_tokenize_str(clean)]


# ---- words


@settings(max_examples=200)
@given(text=TEXT | st.sampled_from(evidence.NASTY), lowercase=st.booleans())
def test_same_words_as_tokenizers(text, lowercase):
    assert basic_words(text, lowercase=lowercase) == hugging_face_words(text, lowercase=lowercase)


@settings(max_examples=150)
@given(text=st.text(st.characters(max_codepoint=0x17F), max_size=40))
def test_same_words_as_the_published_python(legacy, text):
    assert basic_words(text) == legacy.BasicTokenizer().tokenize(text)


def test_younger_characters_than_the_table_stay():
    """What Python's Unicode has not assigned is kept; only what is known to be invisible goes."""
    unknown = [chr(i) for i in range(0x110000) if unicodedata.category(chr(i)) == "Cn"]
    text = " ".join(f"a{char}b" for char in unknown)
    assert basic_words(text, lowercase=False) == hugging_face_words(text, lowercase=False)
    assert basic_words("a\ue000\x01\u200bb") == ["ab"]


def test_chinese_characters_are_those_of_the_published_code(legacy):
    """`tokenizers` begins one block 256 characters late; BERT's own code does not."""
    reference = legacy.BasicTokenizer()
    for low in (0x3400, 0x4E00, 0x9FFF, 0xF900, 0x20000, 0x2B740, 0x2B820, 0x2CEA0, 0x2F800):
        assert basic_words(f"a{chr(low)}b") == ["a", unicodedata.normalize("NFD", chr(low)), "b"]
        assert reference._is_chinese_char(low)
    for low in (0x33FF, 0x3040, 0xAC00, 0x2CEB0):
        assert not reference._is_chinese_char(low)
        assert len(basic_words(f"a{chr(low)}b", lowercase=False)) == 1
    late = chr(0x2B820)
    assert hugging_face_words(f"a{late}b") == [f"a{late}b"]


def test_ascii_signs_are_punctuation():
    assert [c for c in map(chr, range(128)) if is_punctuation(c)] == list(
        "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
    )


# ---- training


@settings(max_examples=60, deadline=None)
@given(texts=FEW, room=st.integers(0, 40))
def test_same_vocabulary_where_ties_abound(texts, room):
    alphabet = alphabet_of({word for text in texts for word in basic_words(text)})
    size = len(SPECIAL) + len(alphabet) + room
    ours, theirs = WordPiece.train(texts, size), evidence.hugging_face(texts, size, alphabet)
    assert theirs.get_vocab() == {token: i for i, token in enumerate(ours.vocab)}


@settings(max_examples=60, deadline=None)
@given(
    words=st.dictionaries(st.text("abc", min_size=1, max_size=8), st.integers(1, 9), min_size=1),
    n_merges=st.integers(0, 12),
    score=st.sampled_from(["count", "ratio"]),
    min_frequency=st.integers(1, 5),
)
def test_same_pieces_as_a_recount_of_everything(words, n_merges, score, min_frequency):
    alphabet = alphabet_of(words)
    age = {token: i for i, token in enumerate(alphabet)}
    spelled, expected = [(tuple(spell(word)), n) for word, n in words.items()], []
    for _ in range(n_merges):
        single, pairs = evidence.counts_of(spelled)
        value = {pair: n for pair, n in pairs.items() if n >= min_frequency}
        if score == "ratio":
            value = {(a, b): n / (single[a] * single[b]) for (a, b), n in value.items()}
        if not value:
            break
        a, b = min(value, key=lambda pair: (-value[pair], age[pair[0]], age[pair[1]]))
        token = a + b.removeprefix(PREFIX)
        expected.append(token)
        age[token] = len(age)
        spelled = [(merge(word, (a, b), token), n) for word, n in spelled]
    found = learn_pieces(words, alphabet, n_merges, score=score, min_frequency=min_frequency)
    assert found == expected


def test_likelihood_of_a_token_with_itself():
    """abab as two tokens ab: four counts of `##ab`, merged two by two."""
    before = [(["x", "##ab", "##ab"], 3), (["##ab", "y"], 2)]
    after = [(["x", "##abab"], 3), (["##ab", "y"], 2)]
    ours = pair_scores(
        np.array([3]), np.array([8]), np.array([8]), np.array([True]), 13, "likelihood"
    )
    change = evidence.log_likelihood(after) - evidence.log_likelihood(before)
    assert ours[0] == pytest.approx(change, abs=1e-12)


def test_count_and_ratio_choose_differently():
    """u+g is most frequent, g+s belongs together most; then h+u and b+u tie, and b is older."""
    words = {"hug": 10, "pug": 5, "pun": 12, "bun": 4, "hugs": 5}
    alphabet = alphabet_of(words)
    assert learn_pieces(words, alphabet, 1, score="count") == ["##ug"]
    assert learn_pieces(words, alphabet, 1, score="ratio") == ["##gs"]
    assert learn_pieces(words, alphabet, 3, score="ratio") == ["##gs", "bu", "bun"]


@pytest.mark.parametrize(("n", "learned"), [(100, True), (101, False)])
def test_words_unknown_for_their_length_teach_nothing(n, learned):
    plain, more = (WordPiece.train([text], 60) for text in ("low lower", "low lower " + "x" * n))
    assert (more.vocab != plain.vocab) == learned
    assert ("[UNK]" not in [more.vocab[i] for i in more.encode("x" * n)]) == learned


# ---- encoding


@settings(max_examples=150)
@given(text=TEXT | st.sampled_from(evidence.NASTY[:-1]))
def test_same_ids_as_bert(tokenizer, bert, text):
    text = text.replace("[", "")  # special tokens are text here
    assert tokenizer.encode(text) == bert.encode(text, add_special_tokens=False)


@settings(max_examples=150)
@given(
    pieces=st.sets(st.text("abc", min_size=1, max_size=4), max_size=12),
    continuing=st.sets(st.text("abc", min_size=1, max_size=4), max_size=12),
    word=st.text("abcd", min_size=1, max_size=12) | st.just("a" * 101),
)
def test_any_vocabulary_any_word(pieces, continuing, word):
    from tokenizers import models

    vocab = ["[UNK]", *sorted(pieces), *sorted(PREFIX + piece for piece in continuing)]
    ids = {token: i for i, token in enumerate(vocab)}
    ours, theirs = WordPiece(vocab), models.WordPiece(ids, unk_token="[UNK]")
    assert ours.encode_word(word) == [token.id for token in theirs.tokenize(word)]


def test_a_word_that_cannot_be_finished_is_unknown_as_a_whole():
    found = WordPiece(["[UNK]", "un", "##aff", "##able", "un##"])
    pieces = [found.vocab[i] for i in found.encode("unaffable unaffably")]
    assert pieces == ["un", "##aff", "##able", "[UNK]"]


def test_decode_is_that_of_tokenizers(tokenizer):
    from tokenizers import decoders

    ids = tokenizer.encode("Unparenthesised expressions, don't they?")
    theirs = decoders.WordPiece(cleanup=False).decode([tokenizer.vocab[i] for i in ids])
    assert tokenizer.decode(ids) == theirs


# ---- wrong input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: WordPiece.train(["ab"], 7), r"vocab_size must be at least 8 .*got 7"),
        (lambda: learn_pieces({}, [], -1), "n_merges must be at least 0, got -1"),
        (lambda: learn_pieces({}, [], 1, min_frequency=0), "min_frequency must be at least 1"),
        (lambda: learn_pieces({"a##": 1}, ["a", "###"], 1), "words must not contain '##', got a##"),
        (lambda: learn_pieces({"ab": 1}, ["a", "b"], 1), r"hold all characters, but \['##b'\]"),
        (lambda: WordPiece(["a"]), r"vocab must hold different tokens and \[UNK\]"),
        (lambda: WordPiece(["[UNK]"]).decode([3, -1]), "ids must lie between 0 and 0, got -1 to 3"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()
