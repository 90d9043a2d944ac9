"""Embedders against sentence-transformers and scikit-learn, and the cache against both."""

import sqlite3

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_store import WORDS, Hashed

from rag.embeddings.cache import EmbeddingCache
from rag.embeddings.embedder import open_embedder
from rag.embeddings.folder import SentenceFolder
from rag.embeddings.lsa import LSA, top_directions
from rag.store.store import Store
from rag.types import Document, Embedder
from shared.artifacts import ArtifactError
from shared.errors import UserError
from shared.pretrained import minilm
from week12.preprocessing import terms

TEXTS = [
    "A cup of tea.",
    "",
    "a mug of coffee " * 150,  # cut at 256 tokens
    "naïve 日本語 😀 \x00 \n tabs\t",
    "The quick brown fox jumps over the lazy dog, twice; then it rests.",
]


@pytest.fixture(scope="module")
def model():
    return open_embedder("minilm")


@pytest.fixture(scope="module")
def reference():
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(minilm()), device="cpu", local_files_only=True)


def test_minilm_is_sentence_transformers(model, reference):
    assert isinstance(model, Embedder)
    expected = reference.encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(model.encode(TEXTS), expected, atol=1e-6)  # float32, other kernels
    assert model.encode([]).shape == (0, 384)


def test_minilm_does_not_see_the_texts_beside(model):
    alone = np.concatenate([model.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(model.encode(TEXTS[::-1])[::-1], alone, atol=1e-6)
    many = model.encode((TEXTS[:2] + TEXTS[3:]) * 12)
    np.testing.assert_allclose(many, np.tile(alone[[0, 1, 3, 4]], (12, 1)), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(many, axis=1), 1, atol=1e-6)


def test_token_vectors(model, reference):
    found = model.token_vectors(TEXTS)
    expected = reference.encode(TEXTS, output_value="token_embeddings")
    for ours, theirs in zip(found, expected, strict=True):
        theirs = theirs.numpy()[1:-1]  # [CLS] and [SEP]
        theirs = theirs / np.linalg.norm(theirs, axis=1, keepdims=True)
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert [len(v) for v in found][1:3] == [0, 254]


def test_folder_of_sentence_transformers(model):
    folder = open_embedder(str(minilm()))
    np.testing.assert_allclose(folder.encode(TEXTS), model.encode(TEXTS), atol=1e-6)
    assert (folder.dim, len(folder.digest)) == (384, 64)


def test_unknown_embedders(tmp_path):
    with pytest.raises(UserError, match="embedder must be minilm, lsa or a folder"):
        open_embedder("gpt")
    (tmp_path / "modules.json").write_text("{")
    with pytest.raises(UserError, match="is no readable sentence-transformer"):
        SentenceFolder(tmp_path).encode(["x"])


# ---- LSA


def some_texts(n, seed=0):
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(WORDS, draw.integers(1, 9))) for _ in range(n)]


def test_lsa_is_scikit_learns():
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = some_texts(80)
    vectorizer = TfidfVectorizer(analyzer=terms, sublinear_tf=True)
    table = vectorizer.fit_transform(texts)
    svd = TruncatedSVD(5, algorithm="arpack", random_state=0).fit(table)
    expected = svd.transform(vectorizer.transform([*texts[:20], "tea never seen"]))
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = LSA(dim=5).fit(texts).encode([*texts[:20], "tea never seen"])
    # Signs of singular vectors are free, so what is compared are cosines.
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-4)


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 10**6))
def test_top_directions(n, width, seed):
    from scipy.sparse import csr_array

    table = np.random.default_rng(seed).integers(0, 2, (n, width)) * 1.0
    k = min(n, width, 3)
    directions = top_directions(csr_array(table), k)
    np.testing.assert_allclose(directions.T @ directions, np.eye(k), atol=1e-9)
    best = np.linalg.svd(table, compute_uv=False)[:k]
    np.testing.assert_allclose(np.linalg.norm(table @ directions), np.linalg.norm(best), rtol=1e-3)


def test_lsa_saved_and_loaded(tmp_path):
    model = LSA(dim=4).fit(some_texts(30))
    model.save(tmp_path / "lsa")
    again = open_embedder("lsa", saved=tmp_path / "lsa")
    assert (again.digest, again.dim) == (model.digest, model.dim)
    np.testing.assert_array_equal(again.encode(["tea car"]), model.encode(["tea car"]))
    assert model.encode(["unknown", ""]).any() == np.False_
    assert LSA(dim=4).fit(some_texts(30, seed=1)).digest != model.digest
    with pytest.raises(ValueError, match="LSA must be fitted before use"):
        LSA().encode(["x"])


def test_lsa_in_a_store(tmp_path):
    texts = some_texts(30)
    with Store.create(tmp_path / "s", embedder=LSA(dim=4), splitter="whole") as store:
        store.ingest([Document("empty", "")])
        assert store.settings["digest"] == ""
        store.ingest([Document(str(i), text) for i, text in enumerate(texts)])
        expected = LSA(dim=4).fit(texts)
        assert store.settings["digest"] == expected.digest
    with Store.open(tmp_path / "s") as store:
        assert store.embedder.digest == expected.digest
        store.ingest([Document("more", "tea tea car")])  # is not learned from
        assert store.embedder.digest == store.settings["digest"] == expected.digest
    other = LSA(dim=4).fit(some_texts(30, seed=1))
    with pytest.raises(ArtifactError, match="holds vectors of lsa"):
        Store.open(tmp_path / "s", embedder=other)


# ---- cache


class Counting(Hashed):
    """Remembers what it was asked."""

    def __init__(self, digest="one"):
        self.digest, self.asked = digest, []

    def encode(self, texts):
        self.asked += texts
        return super().encode(texts)


@given(st.lists(st.lists(st.sampled_from(["tea", "tea ", "car", "", "ü"]), max_size=7), max_size=5))
@settings(max_examples=25)
def test_cache_computes_each_text_once(tmp_path_factory, calls):
    cache = EmbeddingCache(tmp_path_factory.mktemp("c") / "cache.sqlite")
    model = Counting()
    for texts in calls:
        np.testing.assert_array_equal(cache.encode(model, texts), Hashed().encode(texts))
    assert sorted(model.asked) == sorted({text for texts in calls for text in texts})


def test_cache_knows_the_model(tmp_path):
    cache = EmbeddingCache(tmp_path / "cache.sqlite")
    for model in (Counting("one"), Counting("two")):
        cache.encode(model, ["tea"])
        assert model.asked == ["tea"]


def test_altered_vectors_are_computed_again(tmp_path):
    cache, model = EmbeddingCache(tmp_path / "cache.sqlite"), Counting()
    expected = cache.encode(model, ["tea", "car"])
    with sqlite3.connect(cache.path) as database:
        database.execute("UPDATE vectors SET vector = zeroblob(64)")
    database.close()
    np.testing.assert_array_equal(cache.encode(model, ["tea", "car"]), expected)
    assert model.asked == ["tea", "car", "tea", "car"]


@pytest.mark.parametrize("place", [0, 3000, 9000])
def test_a_broken_file_is_begun_anew(tmp_path, place):
    cache, texts = EmbeddingCache(tmp_path / "cache.sqlite"), [f"{i}" for i in range(100)]
    expected = cache.encode(Counting(), texts)
    data = bytearray(cache.path.read_bytes())
    data[place : place + 3000] = b"x" * 3000
    cache.path.write_bytes(data)
    np.testing.assert_array_equal(cache.encode(Counting(), texts), expected)


def test_what_was_computed_before_a_failure_is_kept(tmp_path):
    cache = EmbeddingCache(tmp_path / "cache.sqlite")
    texts = [f"{i}" for i in range(600)]

    class Failing(Counting):
        def encode(self, texts):
            if len(self.asked) > 500:
                raise KeyboardInterrupt
            return super().encode(texts)

    with pytest.raises(KeyboardInterrupt):
        cache.encode(Failing(), texts)
    model, told = Counting(), []
    cache.encode(model, texts, lambda done, of: told.append((done, of)))
    assert model.asked == texts[512:]
    assert told == [(256, 600), (512, 600), (600, 600)]
