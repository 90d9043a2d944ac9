"""Tokenizers against Hugging Face's `tokenizers`, and files that are not theirs."""

import hashlib
import json

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Reference

from shared.artifacts import ArtifactError
from tiny_gpt.data.tokenizers import END_OF_TEXT, Tokenizer, tokenizer_from_bytes, train_tokenizer

KINDS = ("char", "byte", "bpe")
TRICKY = "a\r\n\tb\x00 \u2028é 😀 e\u0301 don't  IT'S 1234\n\n"
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def trained(kind, text, end_of_text=True):
    return train_tokenizer(kind, [text, text[::-1]], vocab_size=290, end_of_text=end_of_text)


@pytest.mark.parametrize("end_of_text", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@example(TRICKY)
@example("")
@given(text=texts)
def test_same_ids_and_text_as_hugging_face(kind, end_of_text, text):
    ours = trained(kind, text, end_of_text)
    theirs = Reference.from_str(ours.to_bytes().decode("utf-8"))
    ids = ours.encode(text)
    assert ids.tolist() == theirs.encode(text).ids
    assert ours.decode(ids) == theirs.decode(ids.tolist()) == text
    assert ours.vocab_size == theirs.get_vocab_size()


@pytest.mark.parametrize("kind", KINDS)
def test_end_of_text_is_id_0_and_no_text_makes_it(kind):
    ours = trained(kind, TRICKY + END_OF_TEXT)
    theirs = Reference.from_str(ours.to_bytes().decode("utf-8"))
    assert ours.end_of_text == theirs.token_to_id(END_OF_TEXT) == 0
    ids = ours.encode(f"a{END_OF_TEXT}b")
    assert 0 not in ids
    assert ours.decode(ids) == f"a{END_OF_TEXT}b"
    joined = [*ours.encode("a"), 0, *ours.encode("b")]
    assert ours.decode(joined) == theirs.decode(joined, skip_special_tokens=False)
    assert theirs.decode(joined) == "ab"
    assert trained(kind, TRICKY, end_of_text=False).end_of_text is None


@pytest.mark.parametrize("end_of_text", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@example(TRICKY)
@given(text=texts)
def test_bytes_of_tokens_sum_to_bytes_of_text(kind, end_of_text, text):
    tokenizer = trained(kind, text, end_of_text)
    lengths = tokenizer.byte_lengths()
    assert len(lengths) == tokenizer.vocab_size
    assert lengths[tokenizer.encode(text)].sum() == len(text.encode("utf-8"))
    if end_of_text:
        assert lengths[tokenizer.end_of_text] == 0


@pytest.mark.parametrize("end_of_text", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@given(text=texts)
def test_a_file_gives_the_tokenizer_back(kind, end_of_text, text):
    tokenizer = trained(kind, text, end_of_text)
    data = tokenizer.to_bytes()
    found = tokenizer_from_bytes(data)
    assert isinstance(found, Tokenizer)
    assert (found.kind, found.end_of_text) == (kind, tokenizer.end_of_text)
    assert found.to_bytes() == data
    assert found.sha256 == tokenizer.sha256 == hashlib.sha256(data).hexdigest()
    assert found.encode(text).tolist() == tokenizer.encode(text).tolist()
    # Others write the same content with other blanks.
    again = Reference.from_str(data.decode("utf-8")).to_str()
    assert tokenizer_from_bytes(again.encode("utf-8")).sha256 == tokenizer.sha256


def test_characters_are_sorted_over_all_documents():
    found = train_tokenizer("char", iter(["ca", "b", "", "ac"]))
    assert found.encode("abc").tolist() == [1, 2, 3]
    without = train_tokenizer("char", iter(["ca", "b"]), end_of_text=False)
    assert without.encode("abc").tolist() == [0, 1, 2]
    assert train_tokenizer("char", ["ca", "b"]).sha256 == found.sha256 != without.sha256


def test_bpe_merges_within_words_up_to_the_vocabulary():
    tokenizer = train_tokenizer("bpe", ["one two " * 9], vocab_size=262)
    assert tokenizer.vocab_size == 262
    content = json.loads(tokenizer.to_bytes())
    assert content["pre_tokenizer"]["use_regex"] is True
    assert not any("Ġ" in right for _, right in content["model"]["merges"])
    with pytest.raises(ValueError, match="vocab_size must be at least 257"):
        train_tokenizer("bpe", ["one"], vocab_size=256)
    bare = train_tokenizer("bpe", ["one"], vocab_size=257)  # without merges it is not "byte"
    assert bare.kind == tokenizer_from_bytes(bare.to_bytes()).kind == "bpe"


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_input_is_refused(kind):
    tokenizer = trained(kind, TRICKY)
    for ids in ([tokenizer.vocab_size], [-1], np.array([0, 10_000])):
        with pytest.raises(ValueError, match=f"between 0 and {tokenizer.vocab_size - 1}"):
            tokenizer.decode(ids)
    assert tokenizer.decode([]) == ""
    assert tokenizer.encode("").dtype == np.int64
    with pytest.raises(ValueError, match="surrogates not allowed"):
        tokenizer.encode("a\ud800")
    if kind == "char":
        with pytest.raises(ValueError, match="got '漢' at position 2"):
            tokenizer.encode("ab漢x")


def test_unknown_kind_is_refused():
    # The import hook's type check comes first; without it the function says so itself.
    with pytest.raises(Exception, match="word"):
        train_tokenizer("word", ["a"])


NONSENSE = [
    b"",
    b"{}",
    b"[]",
    b"null",
    b"\xff\xfe",
    b'{"model": {"type": "WordLevel"}}',
    b'{"model": {"type": "BPE", "merges": 3}}',
    b'{"model": {"type": "Unigram"}}',
    b'{"model": []}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("data", NONSENSE, ids=range(len(NONSENSE)))
def test_nonsense_is_one_clear_line(data):
    with pytest.raises(ArtifactError, match=r"tokenizer\.json is not") as caught:
        tokenizer_from_bytes(data)
    assert "\n" not in str(caught.value)


def _swap_ids(content):
    vocab = content["model"]["vocab"]
    first, second = list(vocab)[3:5]
    vocab[first], vocab[second] = vocab[second], vocab[first]


def _rename_end(content):
    content["added_tokens"][0]["content"] = "</s>"
    content["model"]["vocab"]["</s>"] = content["model"]["vocab"].pop(END_OF_TEXT)


def _skip_an_id(content):
    vocab = content["model"]["vocab"]
    vocab[max(vocab, key=vocab.get)] += 1


def _cut_words(content):
    content["pre_tokenizer"] = {"type": "Whitespace"}


def _two_characters(content):
    vocab = content["model"]["vocab"]
    vocab["ab"] = vocab.pop(max(vocab, key=vocab.get))


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("bpe", _swap_ids),
        ("byte", _swap_ids),
        *((kind, _rename_end) for kind in KINDS),
        *((kind, _skip_an_id) for kind in KINDS),
        ("char", _cut_words),
        ("bpe", _cut_words),
        ("char", _two_characters),
        ("bpe", _two_characters),
    ],
)
def test_other_tokenizers_are_refused(kind, change):
    content = json.loads(trained(kind, TRICKY).to_bytes())
    change(content)
    with pytest.raises(ArtifactError):
        tokenizer_from_bytes(json.dumps(content).encode())
