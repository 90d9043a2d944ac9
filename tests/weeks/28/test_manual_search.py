"""Fusion by its definition, search by words and vectors, and questions about nothing."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from week28.manual_search import Search, minmax, once, rrf, sentence_encoder, terms

RANKINGS = st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=8), min_size=1, max_size=4)


@settings(max_examples=100, deadline=None)
@given(RANKINGS)
def test_fused_places_by_their_definition(rankings):
    """In fractions; who is absent has no place, and who comes twice has one."""
    total = {}
    for ranking in rankings:
        seen = []
        for name in ranking:
            if name not in seen:
                seen.append(name)
                total[name] = total.get(name, 0) + Fraction(1, 60 + len(seen))
    assert rrf(rankings) == sorted(total, key=lambda name: (-total[name], name))


def test_twice_third_is_more_than_once_first():
    assert rrf([["x", "a", "y"], ["b", "c", "y"]])[0] == "y"
    assert rrf([["x", "y", "y", "y"], ["x"]]) == ["x", "y"]
    assert once("abcab") == ["a", "b", "c"]
    with pytest.raises(ValueError, match="k must be above 0, got 0"):
        rrf([["x"]], k=0)


def test_min_max():
    assert minmax([{"x": 9.0, "a": 4.0, "y": 1.0}, {"b": 3.0, "c": 2.0, "y": 1.0}]) == (
        ["b", "x", "c", "a", "y"]
    )
    assert minmax([{"x": 2.0, "y": 2.0}, {"y": 7.0, "x": 5.0}]) == ["y", "x"]
    assert minmax([{}, {"x": 1.0}]) == ["x"]


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(-20, 20), min_size=2),
    st.integers(1, 9),
    st.integers(-50, 50),
)
def test_min_max_does_not_know_units(scores, scale, shift):
    other = {"a": 3.0, "z": 1.0}
    moved = {name: scale * score + shift for name, score in scores.items()}
    assert minmax([scores, other]) == minmax([moved, other])


def counting(texts):
    """Vectors of letters' counts, of length 1."""
    found = np.array([[text.count(c) + 1e-3 for c in "abcdxyz"] for text in texts], np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_words_meaning_and_both():
    texts = ["aaa node", "bbb topic", "abab node node", "xyz nothing"]
    search = Search(["p", "q", "r", "s"], texts, counting)
    assert search("which node?", how="words") == ["r", "p"]
    assert search("aa node", 1, how="meaning") == ["p"]
    assert set(search("node", 4)) == {"p", "q", "r", "s"}
    words, meaning = (list(search.scores("aaa node", how)) for how in ("words", "meaning"))
    assert search("aaa node", 4, "rrf") == rrf([words, meaning])
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        search("node", 0)


def test_a_question_about_nothing_finds_nothing():
    search = Search(["p", "q"], ["a node talks", "a topic is read"], counting)
    assert search("Hello!") == []
    assert search("what is it for?") == []  # words that all questions have
    assert Search(["p"], ["a node"])("node") == ["p"]
    with pytest.raises(ValueError, match="how must be words where there is no encoder"):
        Search(["p"], ["a node"])("node", how="meaning")


def test_terms_keep_names_whole():
    assert terms("Where is the ros2_ws of `use_sim_time`?") == ["ros2_ws", "use_sim_time"]


def test_vectors_are_those_of_the_librarys_tokens():
    import torch
    from tokenizers import Tokenizer

    from shared.pretrained import minilm
    from week14.minilm import load_bert, sentence_embeddings

    texts = ["A node publishes on a topic.", "PicoRV32", "x" * 30, "build it " * 40]
    theirs = Tokenizer.from_file(str(minilm() / "tokenizer.json"))
    theirs.enable_truncation(32)
    theirs.no_padding()
    model, embed = load_bert(minilm()).eval().requires_grad_(False), sentence_encoder(longest=32)
    ours = embed(texts)
    for i, text in enumerate(texts):
        ids = torch.tensor([theirs.encode(text).ids])
        alone = sentence_embeddings(model, ids, torch.ones_like(ids, dtype=torch.bool))
        assert np.abs(ours[i] - alone[0].numpy()).max() < 1e-5
