"""Byte-level BPE is that of two production libraries, and keeps every byte."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import datasets
from shared.errors import UserError
from week15.bpe import GPT2_PATTERN, ByteLevelBPE
from week15.evidence import bpe as evidence
from week15.libraries import hugging_face, merges_of
from week15.merges import learn_merges, learn_merges_by_recounting, printable_bytes
from week15.timing import in_turns
from week15.tokenizer_file import load_tokenizer, save_tokenizer

CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Characters of one Unicode version may be unassigned in another library's: none of those here.
TEXT = st.text(st.characters(max_codepoint=0x2FFF, exclude_categories=("Cs", "Cn")), max_size=60)
FEW = st.lists(st.text("ab c", min_size=1, max_size=40), min_size=1, max_size=12)


@pytest.fixture(scope="module")
def documents():
    return [document.text for document in datasets.pydocs()[:20]]


@pytest.fixture(scope="module")
def tokenizer(documents):
    return ByteLevelBPE.train(documents, 700)


@pytest.fixture(scope="module")
def reference(documents):
    return hugging_face(documents, 700)


# ---- training


def test_same_merges_as_tokenizers(tokenizer, reference):
    assert tokenizer.merges == merges_of(reference)


@settings(max_examples=60)
@given(texts=FEW, vocab_size=st.integers(256, 330))
def test_same_merges_where_ties_abound(texts, vocab_size):
    ours = ByteLevelBPE.train(texts, vocab_size).merges
    assert ours == merges_of(hugging_face(texts, vocab_size))


@given(texts=FEW, n_merges=st.integers(0, 30))
def test_the_fast_loop_makes_the_merges_of_the_plain_one(texts, n_merges):
    words = {text.encode(): texts.count(text) for text in texts}
    assert learn_merges(words, n_merges) == learn_merges_by_recounting(words, n_merges)


# ---- encoding


@settings(max_examples=150)
@given(text=TEXT | st.sampled_from(evidence.NASTY))
def test_same_ids_as_both_libraries(tokenizer, reference, text):
    ids = tokenizer.encode(text)
    assert ids == reference.encode(text).ids
    assert ids == evidence.tiktoken_of(tokenizer).encode_ordinary(text)


@given(data=st.binary(max_size=80))
def test_every_byte_string_comes_back(tokenizer, data):
    ids = tokenizer.encode_bytes(data)
    assert tokenizer.decode_bytes(ids) == data
    assert tokenizer.decode(ids) == data.decode("utf-8", "replace")


@given(text=st.text(max_size=60))
def test_every_text_comes_back(tokenizer, text):
    data = tokenizer.decode_bytes(tokenizer.encode(text))
    assert data.decode("utf-8", "surrogatepass") == text


@given(texts=FEW)
def test_the_heap_gives_the_ids_of_the_plain_replay(texts):
    ours = ByteLevelBPE.train(texts, 300, pattern=None)
    for text in [*texts, "".join(texts)]:
        assert ours.encode(text) == ours.replay(text.encode())


def test_a_word_of_100_000_letters(documents):
    ours = ByteLevelBPE.train(documents, 700, pattern=None)
    assert ours.decode(ours.encode("ab" * 50_000)) == "ab" * 50_000


def test_special_tokens_need_permission():
    ours = ByteLevelBPE([], special_tokens=["<|end|>", "<|endoftext|>"])
    text = "a<|endoftext|><|end|>"
    assert not {0, 1} & set(ours.encode(text))
    assert ours.encode(text, allowed_special="all")[-2:] == [1, 0]
    assert ours.encode(text, allowed_special=["<|end|>"])[-1] == 0
    assert ours.decode(ours.encode(text, allowed_special="all")) == text


# ---- ranks and files


@given(texts=FEW)
def test_ranks_determine_the_merges(texts):
    ours = ByteLevelBPE.train(texts, 320)
    ranks = {token: i for i, token in enumerate(ours.vocab)}
    assert ByteLevelBPE.from_ranks(ranks).merges == ours.merges


@pytest.mark.parametrize("pattern", [GPT2_PATTERN, CL100K, None])
def test_file_is_read_by_the_library_and_by_us(documents, tmp_path, pattern):
    from tokenizers import Tokenizer

    path = tmp_path / "tokenizer.json"
    names = ["<|endoftext|>"]
    ours = ByteLevelBPE.train(documents[:6], 400, pattern=pattern, special_tokens=names)
    save_tokenizer(ours, path)
    theirs, back = Tokenizer.from_file(str(path)), load_tokenizer(path)
    for text in (documents[7][:3000], *evidence.NASTY):
        ids = ours.encode(text, allowed_special="all")
        assert ids == theirs.encode(text).ids == back.encode(text, allowed_special="all")
        assert theirs.decode(ids, skip_special_tokens=False) == ours.decode(ids)


def test_bad_files(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    with pytest.raises(UserError, match="cannot be read"):
        load_tokenizer(path)
    save_tokenizer(tokenizer, path)
    whole = path.read_text(encoding="utf-8")
    content = json.loads(whole)
    del content["model"]["merges"][0]
    for text in (whole[: len(whole) // 2], json.dumps(content), "[]"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match="is not a byte-level BPE"):
            load_tokenizer(path)


# ---- wrong input

RANKS = {bytes([byte]): i for i, byte in enumerate(printable_bytes())}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ByteLevelBPE.train([], 256, special_tokens=["x"]), "vocab_size must be at least"),
        (lambda: learn_merges({}, -1), "n_merges must be at least 0, got -1"),
        (lambda: ByteLevelBPE([], special_tokens=["a", "a"]), "special_tokens must be different"),
        (lambda: ByteLevelBPE([(b"ab", b"c")]), "merges must join tokens known"),
        (lambda: ByteLevelBPE([(b"a", b"b"), (b"a", b"b")]), "merges must make new tokens"),
        (lambda: ByteLevelBPE([]).decode([256]), "ids must lie between 0 and 255, got 256 to 256"),
        (lambda: ByteLevelBPE([]).decode([3, -1]), "ids must lie between 0 and 255, got -1 to 3"),
        (lambda: ByteLevelBPE([]).encode("a", allowed_special=["<s>"]), "allowed_special must be"),
        (lambda: ByteLevelBPE.from_ranks(RANKS | {b"abc": 256}), "b'abc' is not made of two"),
        (lambda: ByteLevelBPE.from_ranks(RANKS | {b"ab": 300}), "256 bytes first"),
        (lambda: ByteLevelBPE.from_ranks({b"a": 0}), "256 bytes first"),
        (lambda: in_turns([], 0), "repeats must be at least 1, got 0"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_nothing_to_learn_from():
    assert len(ByteLevelBPE.train([], 1000)) == 256
    assert len(ByteLevelBPE.train(["", "a"], 1000)) == 256
    assert ByteLevelBPE([]).encode("") == []
    assert ByteLevelBPE([]).decode([]) == ""
