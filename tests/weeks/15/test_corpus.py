"""Extraction, filters, splits, packing and mixing keep what they promise."""

import math
import re
from collections import Counter
from html import escape
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import datasets
from week15.corpus import (
    RULES,
    clean_lines,
    duplicate_ngram_share,
    filter_documents,
    find_leaks,
    line_repetition,
    split_documents,
    split_of,
    top_ngram_share,
)
from week15.html_text import Block, blocks, is_content
from week15.packing import (
    PAD,
    attention_mask,
    curriculum_pool,
    draw_sources,
    expected_epochs,
    mix,
    mixture_weights,
    pack_best_fit,
    pack_concat,
)

PROSE = "The cat sat on the mat and looked at the dog that was in the garden with its bone."
DOCUMENTS = st.lists(st.integers(0, 30), max_size=12)
WAYS = pytest.mark.parametrize("pack", [pack_concat, pack_best_fit])


def numbered(sizes):
    """Documents in which every token has a number of its own."""
    starts = np.cumsum([0, *sizes])
    return [np.arange(a, a + n, dtype=np.int64) for a, n in zip(starts, sizes, strict=False)]


# ---- HTML


@pytest.mark.parametrize(
    ("html", "texts"),
    [
        ("", []),
        ("just text", ["just text"]),
        ("a<script>b</script>c", ["a", "c"]),
        ("a<svg><path/>b<svg>c</svg>d</svg>e", ["a", "e"]),
        ("<p>a<!-- b --><p>c", ["a", "c"]),
        ("<head><title>t</title><body>a", ["a"]),
        ("a<script/>b", ["ab"]),
        ("<td>a</td><td>b</td>", ["a", "b"]),
        ("w<b>or</b>d &eacute; &#233;", ["word é é"]),
    ],
)
def test_nasty_pages(html, texts):
    assert [block.text for block in blocks(html)] == texts


# The standard, 13.1.2.4: which tags may be left out, each with text before and after.
OPTIONAL = [
    ("<html><head><title>t</title></head><body><p>a</p></body></html>", ["a"]),
    ("<head><title>t</title></head><p>a</p>", ["a"]),
    ("<html><head><title>t</title><p>a", ["a"]),
    ("<head><title>t</title>a", ["a"]),
    ("<title>t</title>a", ["a"]),
    ("<!doctype html><meta charset=utf-8><title>t</title><h1>a</h1>b", ["a", "b"]),
    ("<head><link rel=x><style>p {}</style><script>1 < 2</script><p>a", ["a"]),
    ("<p>a<p>b<div>c</div>d", ["a", "b", "c", "d"]),
    ("<ul><li>a<li>b</ul>c", ["a", "b", "c"]),
    ("<dl><dt>a<dd>b<dt>c<dd>d</dl>e", ["a", "b", "c", "d", "e"]),
    ("<table><caption>a<tr><th>b<td>c<tr><td>d</table>e", ["a", "b", "c", "d", "e"]),
    ("<table><thead><tr><th>a<tbody><tr><td>b<tfoot><tr><td>c</table>", ["a", "b", "c"]),
    ("a<select><optgroup label=x><option>b<option>c</select>d", ["a", "d"]),
]


HIDDEN = ["title", "script", "style", "noscript", "template", "svg", "iframe", "object", "select"]


def text_by_lxml(html: str) -> list[str]:
    lxml = pytest.importorskip("lxml.html")
    hidden = " or ".join(f"ancestor::{tag}" for tag in HIDDEN)
    return lxml.document_fromstring(html).xpath(f"//text()[not({hidden})]")


@pytest.mark.parametrize(("html", "texts"), OPTIONAL)
def test_tags_that_may_be_left_out(html, texts):
    """Also as lxml reads it, whose parser is libxml2's."""
    assert [block.text for block in blocks(html)] == texts == text_by_lxml(html)


def element(tags: str, content: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds("<{0} x='>'>{1}</{0}>".format, st.sampled_from(tags.split()), content)


def several(part: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(part, min_size=1, max_size=4).map("".join)


WORD = st.text("abc&;<> ", min_size=1, max_size=4).map(escape)
UNSEEN = element("script style template iframe noscript object", st.just("x")) | st.sampled_from(
    ["<!-- <p> -->", "<svg><title>x</title><path/></svg>", "<select><option>x</option></select>"]
)
CELLS = several(element("tr", several(element("td th", WORD))))
TABLE = st.builds("<table><caption>{}</caption>{}</table>".format, WORD, element("tbody", CELLS))
PARTS = st.recursive(
    WORD | UNSEEN | element("b a textarea", WORD) | TABLE,
    lambda parts: (
        element("div h2 blockquote", several(parts))
        | element("ul", several(element("li", several(parts))))
        | element("dl", several(element("dt dd", several(parts))))
        | element("p", several(WORD))
    ),
    max_leaves=12,
)
MAY_GO = re.compile(r"</?(html|head|body|tbody)( x='>')?>|</(p|li|dt|dd|option|tr|td|th|caption)>")


@settings(max_examples=200)
@given(body=several(PARTS), rng=st.randoms(use_true_random=False))
def test_any_page_without_tags_that_may_be_left_out(body, rng):
    page = f"<html><head><title>x<p></title></head><body>{body}</body></html>"
    page = MAY_GO.sub(lambda tag: tag[0] * rng.randint(0, 1), page)
    ours, theirs = [block.text for block in blocks(page)], text_by_lxml(page)
    assert "".join("".join(ours).split()) == "".join("".join(theirs).split())


@pytest.mark.parametrize(
    ("html", "texts"),
    [
        ("<body><p>a</body></html>b", ["a", "b"]),
        ("a<svg><path><p>b", ["a", "b"]),  # a tag of HTML leaves an open drawing
        ("<div>a<svg><g></div>b", ["a", "b"]),
        ("<td>a<svg><text>x</td>b", ["a", "b"]),
        ("a<svg><title>t<p>x</p></title></svg>b", ["a", "b"]),
        ("a<svg><desc/><p>b", ["a", "b"]),
        ("a<svg><foreignObject><p>x</p></foreignObject><text>y</text></svg>b", ["a", "b"]),
        ("a<select><option>x<input>b", ["a", "b"]),
        ("<table><td>a<select><option>x<td>b</table>", ["a", "b"]),
        ("<table><td>a<select><option>x</table>b", ["a", "b"]),
        ("<title>a<title>b</title>c", ["c"]),  # not nested
        ("<svg/><title/>a<svg><title/></svg>b<title>x</title>c", ["a", "b", "c"]),
        ("a<select><option>x<select><option>y</select>b", ["a", "b"]),
        ("a<noscript>x<p>b<noscript>y</noscript>c", ["a", "b", "c"]),
        ("a<object>x<p>b<object>y</object>c", ["a", "b", "c"]),
        ("a<p title='x>b<p>c", ["a", "b", "c"]),  # a quote that is never closed
        ("a<a href=x/>b<p>c</a>d", ["ab", "cd"]),
        ("a<b title='>'>b</b>c", ["abc"]),
        ("a<!-->b<!--->c<!-- x --!>d</>e<?x>f<![CDATA[x]]>g", ["abcdefg"]),
        ("a<!-- x >b<p>c", ["ab", "c"]),
        ("a < b <1> c</", ["a < b <1> c</"]),
        ("<p>a<p b", ["a"]),  # a page cut off inside a tag
        ("a<textarea>b<p>c</textarea>d", ["a", "b<p>c", "d"]),
        ("a<template>x<template>y</template>z</template>b", ["a", "b"]),
    ],
)
def test_elements_left_open(html, texts):
    assert [block.text for block in blocks(html)] == texts


@pytest.mark.parametrize("tag", [*HIDDEN, "math", "textarea", "xmp", "noframes", "!--", "![CDATA["])
@pytest.mark.parametrize("inside", ["", "x", "<desc>", "<option>x"])
def test_what_is_never_closed_does_not_take_the_page(tag, inside):
    """By the standard it does."""
    page = f"<{tag}>{inside}<section><p>first</p><p>second</p></section>"
    assert [block.text for block in blocks(page)][-2:] == ["first", "second"]


@pytest.mark.parametrize(
    "part", ["<!-- ", "<title>", "<object>", "<svg>", "<a x='", "<a ", "</", "<"]
)
def test_a_page_of_openings_takes_one_pass(part):
    """A second at most; to look for each end anew takes minutes."""
    blocks(part * 50_000 + ">")


@pytest.mark.parametrize(
    ("before", "block", "after", "kept"),
    [
        ((50, 0), (50, 20), (50, 0), False),  # links
        ((4, 0), (16, 0), (15, 0), False),
        ((5, 0), (16, 0), (15, 0), True),
        ((4, 0), (17, 0), (15, 0), True),
        ((4, 0), (16, 0), (16, 0), True),
        ((9, 9), (40, 0), (17, 0), False),
        ((9, 9), (41, 0), (17, 0), True),
        ((9, 9), (40, 0), (18, 0), True),
    ],
)
def test_each_leaf_of_the_published_tree(before, block, after, kept):
    assert is_content(*(Block("x", *sizes) for sizes in (before, block, after))) == kept


# ---- filters


def test_lines_are_kept_or_blamed():
    notice, quote = "We say that this site uses cookies.", 'He said "that is enough for now."'
    lines = ["Home", "Too short, this.", notice, PROSE + "[12]", quote, "And then it went on..."]
    kept, removed = clean_lines("\n".join(lines))
    assert kept.split("\n") == [PROSE, lines[4]]
    assert removed == {
        "no end mark": ["Home", lines[5]],
        "under 5 words": [lines[1]],
        "site notice": [lines[2]],
    }
    assert clean_lines("")[0] == ""


def bad_pages(text: str) -> dict[str, str]:
    """One page for each rule, that this rule and no earlier one removes."""
    sentences = re.split(r"(?<=[.!?]) ", text)
    words = text.split()
    german = "Der Hund ist nicht mit den Katzen und die Maus ist ein Tier zu Hause. " * 8
    return {
        "placeholder text": "Lorem ipsum dolor sit amet. " + text,
        "code (a brace)": text + " int main() { return 0; }",
        "under 3 sentences": " ".join(words[:80]).replace(".", ",").replace("?", ","),
        "not 50 to 100,000 words": "It is here. That was it. And it ended with this.",
        "mean word not 3 to 10 letters": "A b c d. E f g h. I a b c. " * 8,
        "symbols": text + " #tag" * (len(words) // 4),
        "bullets or cut-off lines": "\n".join(f"- {s}" for s in sentences),
        "words without letters": text + " 1234 5678" * len(words),
        "not English": german,
        "under 2 stop words": "It is in it. Is it in? It is. " + "Cats eat fish. " * 20,
        "repeated lines": "\n".join([*sentences, *sentences[:8], sentences[0]]),
        "repeated n-grams": text + " Buy our new and very cheap shoes today here." * 30,
    }


def test_each_rule_fires_on_its_own_page():
    text = " ".join(" ".join(document.text.split()) for document in datasets.pydocs())
    sentences = re.findall(r"(?<=\. )[A-Z][a-z]+(?: [a-z,]+){8,20}\.", text)
    good = " ".join(list(dict.fromkeys(sentences))[:15])
    kept, removed = filter_documents([good, *bad_pages(good).values()])
    assert kept == [0]
    assert removed == {rule: [i] for i, rule in enumerate(RULES, 1)}


def test_repetition_by_hand():
    assert line_repetition("aa\nb\naa\n\naa") == (0.5, 4 / 7)
    assert line_repetition("") == (0, 0)
    assert top_ngram_share("a b c a b d", 2) == 4 / 6
    assert top_ngram_share("a b c", 2) == 0
    assert duplicate_ngram_share("a b c a b d", 2) == 2 / 6
    assert duplicate_ngram_share("x x x x", 2) == 3 / 4  # overlaps count once
    assert duplicate_ngram_share("", 5) == 0


# ---- splits


HALVES = {"train": 0.5, "valid": 0.5}


@given(texts=st.lists(st.text(max_size=8), max_size=10), more=st.lists(st.text(max_size=8)))
def test_adding_documents_moves_none(texts, more):
    before = split_documents(texts, HALVES)
    after = split_documents([*texts, *more], HALVES)
    for name in HALVES:
        assert [i for i in after[name] if i < len(texts)] == before[name]


def test_copies_stay_together_and_salts_differ():
    texts = [f"Text  {i}" for i in range(200)]
    assert all(split_of(t, HALVES) == split_of(t.upper() + "\n", HALVES) for t in texts)
    other = [split_of(t, HALVES, salt="2") for t in texts]
    assert 60 < sum(a == split_of(t, HALVES) for a, t in zip(other, texts, strict=True)) < 140


def test_groups_stay_together():
    texts = [f"{i}" for i in range(100)]
    split = split_documents(texts, HALVES, leader=[i - i % 4 for i in range(100)])
    assert all({i - i % 4, i - i % 4 + 1} <= set(part) for part in split.values() for i in part)


def test_leaks_of_three_kinds_are_found():
    words = [f"w{i}" for i in range(80)]
    text = " ".join(words)
    near = " ".join([*words[:76], "x", "y", "z"])
    quoted = "before " + " ".join(words[20:60]) + " after"
    found = find_leaks([text, "other"], [text.upper(), near, quoted, "new", ""])
    assert (found.exact, found.near) == ([0], [1])
    assert found.overlap[0] == 1
    assert found.overlap[2] == 28 / 30  # 42 words; the two runs with a new word are not there
    assert found.overlap[3:].tolist() == [0, 0]


# ---- packing


@WAYS
@given(sizes=DOCUMENTS, length=st.integers(1, 12))
def test_every_token_once_and_in_order(pack, sizes, length):
    documents = numbered(sizes)
    packed = pack(documents, length, 999)
    real = packed.segments != PAD
    assert sorted(packed.tokens[real].tolist()) == [*range(sum(sizes)), *[999] * len(sizes)]
    for i, document in enumerate(documents):
        place = packed.segments == i
        tokens = packed.tokens[place]
        assert sorted(tokens.tolist()) == [*document.tolist(), 999]
        # within a row a piece stands in one place, counted from 0
        for row in range(len(place)):
            at = np.flatnonzero(place[row])
            if len(at):
                assert (np.diff(at) == 1).all()
                assert packed.positions[row, at].tolist() == list(range(len(at)))
                assert (np.diff(packed.tokens[row, at[:-1]]) == 1).all()
    pieces = Counter(i for row in packed.segments for i in set(row.tolist()) if i != PAD)
    assert packed.n_truncated == sum(n > 1 for n in pieces.values())
    assert packed.waste == np.mean(~real)


@given(sizes=DOCUMENTS, length=st.integers(1, 12))
def test_concatenation_pads_the_last_row_only(sizes, length):
    packed = pack_concat(numbered(sizes), length, 0)
    total = sum(sizes) + len(sizes)
    assert len(packed.tokens) == max(1, -(-total // length))
    assert (packed.segments[:-1] != PAD).all()


@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=30))
def test_best_fit_takes_the_least_room(sizes):
    """The same rows as the definition: of all rows with room the one with the least."""
    rooms = []
    for size in sorted((n + 1 for n in sizes), reverse=True):
        enough = [room for room in rooms if room >= size]
        if enough:
            rooms.remove(min(enough))
        rooms.append((min(enough) if enough else 10) - size)
    packed = pack_best_fit(numbered(sizes), 10, 99)
    assert sorted((packed.segments == PAD).sum(axis=1).tolist()) == sorted(rooms)


@pytest.mark.parametrize(
    ("pack", "tokens", "segments"),
    [
        (pack_concat, [[1, 2, 99, 3], [99, 4, 5, 99], [99, 99, 99, 99]], "0001 1222 3---"),
        (pack_best_fit, [[1, 2, 99, 99], [4, 5, 99, 99], [3, 99, 99, 99]], "000- 2223 11--"),
    ],
)
def test_rows_by_hand(pack, tokens, segments):
    """Ties as they came, of rows with equal room the newest; separators as padding."""
    packed = pack([np.array(d, int) for d in ([1, 2], [3], [4, 5], [])], 4, 99)
    assert packed.tokens.tolist() == tokens
    known = [[-1 if c == "-" else int(c) for c in row] for row in segments.split()]
    assert packed.segments.tolist() == known


def test_mask_by_hand():
    mask = attention_mask(np.array([[0, 0, 1, PAD]]))[0].astype(int)
    assert mask.tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]


def test_masked_attention_is_that_of_the_documents_alone():
    """Packed ≡ separate: with mask and positions no document sees its neighbor."""
    import torch
    import torch.nn.functional as F

    documents = numbered([5, 3, 4])
    packed = pack_best_fit(documents, 16, 12)
    table = torch.randn(13, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = table[torch.from_numpy(packed.tokens)] + torch.from_numpy(packed.positions)[..., None]
    mask = torch.from_numpy(attention_mask(packed.segments))
    together = F.scaled_dot_product_attention(x, x, x, attn_mask=mask)
    for i, document in enumerate(documents):
        alone = table[[*document, 12]] + torch.arange(len(document) + 1)[:, None]
        alone = F.scaled_dot_product_attention(*[alone[None]] * 3, is_causal=True)[0]
        torch.testing.assert_close(together[torch.from_numpy(packed.segments == i)], alone)


# ---- mixing and order


SIZES = np.array([800, 100, 1])


def test_temperatures():
    roots = np.sqrt(SIZES)
    np.testing.assert_allclose(mixture_weights(SIZES, 1.0), SIZES / 901)
    np.testing.assert_allclose(mixture_weights(SIZES, np.inf), [1 / 3] * 3)
    np.testing.assert_allclose(mixture_weights(SIZES, 2.0), roots / roots.sum())
    np.testing.assert_allclose(mixture_weights(np.array([10**15, 1]), 0.01), [1, 0])
    assert expected_epochs(np.array([0.6, 0.4]), np.array([300, 50]), 1000).tolist() == [2, 8]


@given(seed=st.integers(0, 2**70), cut=st.integers(0, 50))
def test_a_draw_depends_on_seed_and_step_only(seed, cut):
    weights = np.array([0.5, 0.3, 0.2])
    straight = draw_sources(weights, seed, np.arange(50))
    parts = [draw_sources(weights, seed, np.arange(a, b)) for a, b in ((0, cut), (cut, 50))]
    np.testing.assert_array_equal(straight, np.concatenate(parts))


def test_draws_follow_the_weights():
    weights, steps = np.array([6.0, 3.0, 1.0]), np.arange(10_000)
    drawn = draw_sources(weights, 7, steps)
    np.testing.assert_allclose(np.bincount(drawn) / len(drawn), weights / 10, atol=0.01)
    assert drawn[:12].tolist() == [0, 0, 2, 1, 1, 0, 0, 1, 1, 0, 2, 0]  # for good
    assert (drawn != draw_sources(weights, 7 + 2**63, steps)).any()
    np.testing.assert_array_equal(drawn, draw_sources(weights, 7 - 2**64, steps))
    # The seed whose first uniform number is exactly 0.
    assert draw_sources(np.array([0.0, 1.0]), 7212067755985902090, steps[:1]).tolist() == [1]


def test_splitmix_is_the_published_one():
    """First outputs of SplitMix64 from state 1234567, as in Rosetta Code's task."""
    gamma, start = np.uint64(0x9E3779B97F4A7C15), np.uint64(1234567)
    states = start + np.arange(1, 4, dtype=np.uint64) * gamma
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert mix(states).tolist() == published


def test_curriculum_grows_from_the_easiest_to_all():
    difficulty = np.random.default_rng(0).permutation(100).astype(float)
    pools = [curriculum_pool(difficulty, step, 10) for step in range(12)]
    assert sorted(difficulty[pools[0]]) == list(range(10))
    assert all(set(a) <= set(b) for a, b in pairwise(pools))
    assert len(pools[5]) == round(100 * math.sqrt(0.5 * 0.99 + 0.01))
    assert len(pools[10]) == len(pools[11]) == 100
    assert len(curriculum_pool(np.zeros(0), 3, 10)) == 0
    assert len(curriculum_pool(np.zeros(3), 0, 10)) == 1  # never none
    assert len(curriculum_pool(np.zeros(3), 0, 1, start=1.0)) == 3
    tied = np.arange(1000) % 2.0
    assert curriculum_pool(tied, 0, 10).tolist() == list(range(0, 200, 2))  # ties as they came


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: split_of("a", {"a": 0.5, "b": 0.4}), "fractions must be at least 0 and add up"),
        (lambda: split_documents(["a", "b"], HALVES, leader=[0]), "must have 2 entries, got 1"),
        (lambda: pack_concat(numbered([3]), 0, 0), "length must be at least 1, got 0"),
        (lambda: pack_best_fit(numbered([3]), 0, 0), "length must be at least 1, got 0"),
        (lambda: mixture_weights(SIZES, 0.0), "temperature must be above 0, got 0"),
        (lambda: mixture_weights(np.array([3, 0]), 1.0), "sizes must be at least 1 token"),
        (lambda: mixture_weights(SIZES[:0], 1.0), r"sizes must be at least 1 token each, got \[\]"),
        (lambda: draw_sources(np.ones(2), 0, np.array([-1])), "steps must be at least 0, got -1"),
        (lambda: curriculum_pool(np.ones(3), 0, 10, start=0.0), "start must be above 0"),
        (lambda: curriculum_pool(np.ones(3), 0, 10, start=1.1), "at most 1, got 1.1"),
        (lambda: curriculum_pool(np.ones(3), 0, 0), "of n_steps >= 1, got 0 of 0"),
        (lambda: curriculum_pool(np.ones(3), -1, 5), "of n_steps >= 1, got -1 of 5"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()
