"""Deduplication agrees with exact Jaccard, datasketch and Python's integers."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from week15.corpus import find_leaks
from week15.deduplication import (
    DisjointSets,
    compare_all_pairs,
    deduplicate,
    exact_copies,
    jaccard,
    shingles,
    words_of,
)
from week15.minhash import (
    MERSENNE,
    MinHash,
    candidate_pairs,
    choose_bands,
    multiply_mod,
    s_curve,
)

FIELD = st.integers(0, MERSENNE - 1) | st.sampled_from(
    [0, 1, 2**30, 2**31 - 1, 2**31, 2**60, MERSENNE - 1]
)
WORDS = [f"word{i}" for i in range(60)]
TEXT = " ".join(WORDS)


def uint(values):
    return np.array(values, dtype=np.uint64)


# ---- hashing


@given(a=FIELD, b=FIELD)
def test_product_is_that_of_unbounded_integers(a, b):
    assert int(multiply_mod(uint([a]), uint([b]))[0]) == a * b % MERSENNE


@settings(max_examples=25)
@given(values=st.lists(FIELD, max_size=30))
def test_signature_is_the_least_value_of_each_line(values):
    hasher = MinHash(5, seed=3)
    lines = zip(hasher.a.tolist(), hasher.b.tolist(), strict=True)
    least = [min([(a * x + b) % MERSENNE for x in values], default=MERSENNE) for a, b in lines]
    assert hasher.signature(uint(values)).tolist() == least


def test_signature_of_more_than_a_chunk():
    values = np.random.default_rng(0).integers(0, MERSENNE, 5000, dtype=np.uint64)
    hasher = MinHash(8)
    whole = hasher.hash(values).min(axis=0)
    np.testing.assert_array_equal(hasher.signature(values), whole)


# ---- sets


def test_shingles_do_not_depend_on_the_process():
    code = "from week15.deduplication import shingles; print(shingles('a b c d e f').tolist())"
    options = {"text": True, "check": True, "capture_output": True}
    outputs = {
        subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, **options).stdout
        for seed in ("1", "2")
    }
    assert outputs == {f"{shingles('a b c d e f').tolist()}\n"}


def test_shingles_by_hand():
    assert len(shingles("a b c d e f g")) == 3
    assert len(shingles("a b a b a b a b", 2)) == 2  # a set: ab and ba
    assert len(shingles("too short")) == 1
    assert len(shingles("?! ...")) == len(shingles("")) == 0
    np.testing.assert_array_equal(shingles("A, b C!", 3), shingles("a b\nc", 3))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A, b C!", ["a", "b", "c"]),
        ("well-known and/or *bold*!", ["well", "known", "and", "or", "bold"]),
        ("it was -5 in the morning", ["it", "was", "5", "in", "the", "morning"]),
        ("你好,世界。abc", ["你", "好", "世", "界", "abc"]),
        ("ひらがなカタカナー", list("ひらがなカタカナー")),
        ("ภาษาไทย", ["ภ", "า", "ษ", "า", "ไ", "ท", "ย"]),
        ("ที่นี่", ["ที่", "นี่"]),
        ("हिन्दी है", ["हिन्दी", "है"]),  # vowel signs belong to the word
        ("한국어 문서", ["한국어", "문서"]),
        ("0-1=-1", ["0", "-", "1", "=", "-", "1"]),
        ("0+1=1", ["0", "+", "1", "=", "1"]),
        ("x*y x / y", ["x", "*", "y", "x", "/", "y"]),
        ("a < b, -x", ["a", "<", "b", "-", "x"]),
        ("5 € \N{MINUS SIGN}3 2^3", ["5", "€", "\N{MINUS SIGN}", "3", "2", "^", "3"]),
        ("?! ... -- - \"'", []),
    ],
)
def test_words_of_many_scripts(text, words):
    assert words_of(text) == words


SENTENCES = {
    "Chinese": "那是最美好的时代那是最糟糕的时代那是智慧的年头那是愚昧的年头那是信仰的时期",
    "Japanese": "それはすべての時代の中で最もよい時代でありまた最も悪い時代でもあった",
    "Thai": "มันเป็นช่วงเวลาที่ดีที่สุดมันเป็นช่วงเวลาที่เลวร้ายที่สุดมันเป็นยุคแห่งปัญญา",
}


@pytest.mark.parametrize("language", SENTENCES)
def test_near_copies_without_spaces(language):
    text = SENTENCES[language] * 2
    copies = [text + text[i : i + 1] + text[2 * i] for i in range(30)]
    found = deduplicate([text, "an english text of its own", *copies])
    assert found.kept == [0, 1]
    other = "".join(sorted(text))
    assert deduplicate([text, other]).kept == [0, 1]
    assert find_leaks([text], [copies[3], other]).near == [0]
    assert find_leaks([text], [copies[3], other]).overlap[0] > 0.9


@pytest.mark.parametrize(
    ("a", "b"),
    [("0-1=-1", "0+1=1"), ("3 - 2", "3 + 2"), ("3*2", "3/2"), ("a<b", "a>b"), ("-x", "x")],
)
def test_another_sign_is_another_text(a, b):
    assert deduplicate([a, b]).kept == [0, 1]


@given(a=st.sets(st.integers(0, 40)), b=st.sets(st.integers(0, 40)))
def test_jaccard_is_that_of_sets(a, b):
    expected = len(a & b) / len(a | b) if a | b else 0
    assert jaccard(uint(sorted(a)), uint(sorted(b))) == expected


# ---- bands


def test_s_curve_worked_example():
    """Mining of massive datasets, figure 3.8: 20 bands of 5 rows."""
    s = np.array([0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
    book = [0.006, 0.047, 0.186, 0.470, 0.802, 0.975, 0.9996]
    np.testing.assert_allclose(s_curve(s, 20, 5), book, atol=6e-4)


@given(n=st.integers(16, 256), threshold=st.floats(0.5, 0.95), recall=st.floats(0.5, 0.99))
def test_chosen_bands_reach_the_recall_and_one_row_more_does_not(n, threshold, recall):
    try:
        bands, rows = choose_bands(n, threshold, recall)
    except ValueError:
        assert 1 - (1 - threshold) ** n < recall
        return
    assert bands * rows <= n
    assert 1 - (1 - threshold**rows) ** bands >= recall
    assert 1 - (1 - threshold ** (rows + 1)) ** (n // (rows + 1)) < recall


def test_candidates_are_those_of_a_double_loop():
    table = np.random.default_rng(1).integers(0, 3, (40, 12), dtype=np.uint64)
    expected = [
        (i, j)
        for i in range(40)
        for j in range(i + 1, 40)
        if any((table[i, b : b + 3] == table[j, b : b + 3]).all() for b in (0, 3, 6, 9))
    ]
    assert candidate_pairs(table, 4, 3).tolist() == [list(pair) for pair in expected]


@given(edges=st.lists(st.tuples(st.integers(0, 15), st.integers(0, 15)), max_size=25))
def test_disjoint_sets_are_connected_components(edges):
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    sets = DisjointSets(16)
    for i, j in edges:
        sets.union(i, j)
    i, j = np.array(edges, dtype=int).reshape(-1, 2).T
    labels = connected_components(coo_matrix((np.ones(len(i)), (i, j)), (16, 16)), False)[1]
    assert [sets.find(n) for n in range(16)] == [
        int(np.flatnonzero(labels == label)[0]) for label in labels
    ]


# ---- documents


def near(n_words: int, tag: str = "new") -> str:
    return " ".join([*WORDS[: 60 - n_words], *(f"{tag}{i}" for i in range(n_words))])


def test_same_pairs_as_all_against_all():
    rng = np.random.default_rng(4)
    texts = [near(int(n), f"t{i}x") for i, n in enumerate(rng.integers(0, 30, 40))]
    found = deduplicate(texts, recall=0.9999)
    pairs = compare_all_pairs(texts)
    assert len(pairs) > 10
    assert found.pairs == [pair for pair in pairs if not {*pair[:2]} & set(found.exact)]


def test_first_copy_is_kept_and_why_is_told():
    assert (deduplicate([]).kept, deduplicate([]).n_candidates) == ([], 0)
    found = deduplicate([near(2), "another text of its own", TEXT, near(2).upper(), "", ""])
    assert found.kept == [0, 1, 4]
    assert found.exact == [3, 5]
    assert found.leader == [0, 1, 0, 0, 4, 4]
    assert found.pairs == [(0, 2, 54 / 58)]
    assert str(found) == "6 documents: 2 exact and 1 near-duplicates removed"


def test_no_false_exact_when_the_digest_collides():
    texts = ["alpha one", "beta two", "alpha one", "gamma three", "beta two", "gamma three"]
    alike = {"digest": lambda text: b"same"}
    assert exact_copies(texts, **alike) == {2: 0, 4: 1, 5: 3}
    assert set(exact_copies(texts, verify=False, **alike).values()) == {0}


@settings(max_examples=10)
@given(order=st.permutations(range(8)))
def test_groups_do_not_depend_on_the_order(order):
    texts = [near(0), near(2), near(3, "z"), "one", "two", "ONE", "", "?"]
    expected = deduplicate(texts).leader
    found = deduplicate([texts[i] for i in order]).leader
    same = {frozenset(np.flatnonzero(np.array(expected) == g).tolist()) for g in expected}
    assert {frozenset(order[i] for i, g in enumerate(found) if g == h) for h in found} == same


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MinHash(0), "n_hashes must be at least 1, got 0"),
        (lambda: shingles("a", 0), "width must be at least 1, got 0"),
        (lambda: candidate_pairs(np.zeros((2, 8), np.uint64), 3, 3), "1 to 8 hashes, got 3 x 3"),
        (lambda: choose_bands(8, 1.0, 0.9), "threshold must be between 0 and 1, got 1"),
        (lambda: choose_bands(8, 0.5, 0.0), "recall must be between 0 and 1, got 0"),
        (lambda: choose_bands(2, 0.3, 0.99), "n_hashes = 2 cannot reach recall"),
        (lambda: deduplicate("one text"), "got a str"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()
