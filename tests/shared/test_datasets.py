"""The registry, downloads that end whole or not at all, and every loader on the real files."""

import functools
import hashlib
import http.server
import os
import struct
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import datasets, images, registry, texts
from shared.errors import UserError

GOOD = b"the right content\n"
DIGESTS = {
    "sha256": hashlib.sha256(GOOD).hexdigest(),
    "md5": hashlib.md5(GOOD).hexdigest(),
    "git": hashlib.sha1(b"blob %d\0" % len(GOOD) + GOOD).hexdigest(),
}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("ML_STUDIES_OFFLINE", "1")


def needs(name, *files):
    """Skip the test unless the files of a data set are in the cache; they are never fetched."""
    entries = {file.path.split("/", 1)[1]: file for file in registry.registry()[name].files}
    for file in files or entries:
        if not (registry.cache_dir() / entries[file].path).is_file():
            pytest.skip(f"{entries[file].path} is not in {registry.cache_dir()}")


# The registry


def test_registry_pins_every_file():
    known = registry.registry()
    assert len(known) == 49
    assert {"mnist", "cifar10", "wikitext2", "wikipedia", "tinyshakespeare"} <= known.keys()
    lengths = {"sha256": 64, "md5": 32, "git": 40}
    for name, dataset in known.items():
        assert name.isidentifier()
        assert dataset.description
        assert dataset.license
        assert dataset.files
        for file in dataset.files:
            algorithm, digest = file.digest.split(":")
            assert len(digest) == lengths[algorithm]
            assert set(digest) <= set("0123456789abcdef")
            assert file.url.startswith("https://")
            assert any(len(part) == 40 for part in file.url.split("/")), file.url
            assert not file.path.startswith("/")
            assert ".." not in file.path
            assert not file.path.endswith((".pkl", ".pickle"))
    paths = [file.path for dataset in known.values() for file in dataset.files]
    assert len(paths) == len(set(paths))


def test_urls_are_quoted():
    urls = [file.url for file in registry.registry()["rtllm"].files]
    assert any("Finite%20State%20Machine" in url for url in urls)
    assert not any(" " in url for url in urls)


def test_import_is_light():
    code = (
        "import sys, shared.datasets, shared.artifacts, shared.stats\n"
        "heavy = {'torch', 'sklearn', 'scipy', 'pandas', 'PIL', 'requests', 'pooch'}\n"
        "sys.exit(str(heavy & sys.modules.keys()) if heavy & sys.modules.keys() else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("call", [datasets.fetch, lambda name: datasets.path(name, "x")])
def test_unknown_name_gives_close_matches(call):
    with pytest.raises(UserError, match="unknown data set 'minst'; did you mean mnist"):
        call("minst")


def test_unknown_file_gives_close_matches():
    with pytest.raises(UserError, match=r"unknown file of sst2 'dev\.csv'; did you mean dev\.tsv"):
        datasets.fetch("sst2", "dev.csv")


def test_cache_dir_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("ML_STUDIES_DATA", str(tmp_path / "x" / ".." / "data"))
    assert datasets.cache_dir() == tmp_path / "data"
    monkeypatch.delenv("ML_STUDIES_DATA")
    assert datasets.cache_dir().name == "ml-studies"


# Files in the cache, and downloads from a server on this machine


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves /good, a wrong file, one that breaks off, and one that never answers."""

    requests = 0

    def do_GET(self):
        type(self).requests += 1
        name = self.path.rsplit("/", 1)[1]
        if name == "absent":
            self.send_error(404)
            return
        if name == "silent":
            self.server.release.wait(120)
            return
        content = {"good": GOOD, "wrong": b"something else", "torn": GOOD[:5]}[name]
        self.send_response(200)
        self.send_header("Content-Length", str(len(GOOD) if name == "torn" else len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    Handler.requests = 0
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.release = threading.Event()
        thread = threading.Thread(target=functools.partial(server.serve_forever, 0.05))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.release.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def toy(monkeypatch, tmp_path, request):
    """A registry with one data set whose files come from the local server, and its cache."""
    base = (
        request.getfixturevalue("server")
        if "server" in request.fixturenames
        else "http://127.0.0.1:9/"
    )
    names = ("good", "wrong", "torn", "absent", "silent")
    files = "".join(f'{{ path = "{n}", digest = "sha256:{DIGESTS["sha256"]}" }},' for n in names)
    toml = tmp_path / "toy.toml"
    toml.write_text(
        f'[toy]\ndescription = "d"\nlicense = "l"\nfolder = "toys"\n'
        f'[[toy.sources]]\nbase = "{base}"\nfiles = [{files}]\n',
        encoding="utf-8",
    )
    cache = tmp_path / "cache"
    monkeypatch.setattr(registry, "_REGISTRY", toml)
    monkeypatch.setenv("ML_STUDIES_DATA", str(cache))
    monkeypatch.delenv("ML_STUDIES_OFFLINE")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return cache / "toys"


def one_line(error):
    message = str(error.value)
    assert "\n" not in message
    return message


def test_download_then_cache(toy, server):
    assert datasets.fetch("toy", "good") == [toy / "good"]
    assert (toy / "good").read_bytes() == GOOD
    assert datasets.path("toy", "good") == toy / "good"
    assert Handler.requests == 1
    assert os.listdir(toy) == ["good"]


def test_download_shows_progress_on_request(toy, server, capsys):
    datasets.fetch("toy", "good")
    assert capsys.readouterr() == ("", "")
    (toy / "good").unlink()
    datasets.fetch("toy", "good", progress=True)
    assert "100%" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["wrong", "torn", "absent"])
def test_bad_download_leaves_nothing(toy, server, name):
    with pytest.raises(UserError) as error:
        datasets.fetch("toy", name)
    message = one_line(error)
    assert f"toys/{name}" in message
    assert f"{server}{name}" in message
    assert os.listdir(toy) == []


def test_wrong_download_names_both_digests(toy, server):
    with pytest.raises(UserError) as error:
        datasets.fetch("toy", "wrong")
    assert DIGESTS["sha256"] in one_line(error)
    assert hashlib.sha256(b"something else").hexdigest() in one_line(error)


def test_download_is_verified_before_it_gets_its_name(toy, server, monkeypatch):
    seen = []
    problem = registry._problem

    def watched(location, file):
        seen.append((location.name, (toy / "good").exists()))
        return problem(location, file)

    monkeypatch.setattr(registry, "_problem", watched)
    datasets.fetch("toy", "good")
    assert [exists for _, exists in seen] == [False]
    assert seen[0][0].endswith(".part")


def test_silent_server_is_given_up(toy, server, monkeypatch):
    monkeypatch.setattr(registry, "_TIMEOUT", 0.2)
    start = time.monotonic()
    with pytest.raises(UserError, match="ReadTimeout"):
        datasets.fetch("toy", "silent")
    assert time.monotonic() - start < 60  # the server waits longer
    assert registry._TIMEOUT <= 10


def test_interrupt_leaves_nothing(toy, server, monkeypatch):
    import pooch

    def interrupted(self, url, output_file, pooch_):
        with open(output_file, "wb") as stream:
            stream.write(GOOD[:3])
        raise KeyboardInterrupt

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        datasets.fetch("toy", "good")
    assert os.listdir(toy) == []


def test_no_connection_says_how_to_get_the_file(toy):
    start = time.monotonic()
    with pytest.raises(UserError) as error:
        datasets.fetch("toy", "good")
    message = one_line(error)
    for part in ("toys/good", "http://127.0.0.1:9/good", "study fetch toy", "ML_STUDIES_DATA"):
        assert part in message
    assert time.monotonic() - start < 60


def test_offline_does_not_ask_the_server(toy, server, monkeypatch):
    monkeypatch.setenv("ML_STUDIES_OFFLINE", "1")
    with pytest.raises(UserError, match="ML_STUDIES_OFFLINE is set"):
        datasets.fetch("toy", "good")
    assert Handler.requests == 0
    assert not toy.exists()


def test_wrong_file_in_cache_is_refused_and_kept(toy):
    toy.mkdir(parents=True)
    (toy / "good").write_bytes(b"altered")
    with pytest.raises(UserError) as error:
        datasets.fetch("toy", "good")
    message = one_line(error)
    assert str(toy / "good") in message
    assert DIGESTS["sha256"] in message
    assert hashlib.sha256(b"altered").hexdigest() in message
    assert "delete it" in message
    assert (toy / "good").read_bytes() == b"altered"


def test_cached_file_is_hashed_once_and_again_when_it_changes(toy, monkeypatch):
    toy.mkdir(parents=True)
    (toy / "good").write_bytes(GOOD)
    calls = []
    digest = registry._digest
    monkeypatch.setattr(registry, "_digest", lambda *args: calls.append(args) or digest(*args))
    datasets.fetch("toy", "good")
    datasets.fetch("toy", "good")
    assert len(calls) == 1
    (toy / "good").write_bytes(GOOD[::-1])
    os.utime(toy / "good", ns=(0, 0))
    with pytest.raises(UserError):
        datasets.fetch("toy", "good")
    assert len(calls) == 2


def test_nothing_is_written_beside_a_cached_file(toy):
    toy.mkdir(parents=True)
    (toy / "good").write_bytes(GOOD)
    os.utime(toy, ns=(0, 0))
    datasets.fetch("toy", "good")
    assert toy.stat().st_mtime_ns == 0


def test_folder_that_cannot_be_written(toy, server):
    toy.parent.mkdir()
    toy.write_bytes(b"a file where the folder should be")
    with pytest.raises(UserError) as error:
        datasets.fetch("toy", "good")
    assert str(toy.parent) in one_line(error)
    assert "ML_STUDIES_DATA" in one_line(error)
    assert Handler.requests == 0


@pytest.mark.parametrize("algorithm", ["sha256", "md5", "git"])
def test_digest_algorithms(tmp_path, algorithm):
    file = tmp_path / "x"
    file.write_bytes(GOOD)
    assert registry._digest(file, algorithm, len(GOOD)) == f"{algorithm}:{DIGESTS[algorithm]}"


def test_git_digest_is_that_of_git(tmp_path):
    # git hash-object of "hello\n", a well-known id
    (tmp_path / "x").write_bytes(b"hello\n")
    expected = "git:ce013625030ba8dba906f756967f9e9ca394464a"
    assert registry._digest(tmp_path / "x", "git", 6) == expected


# What comes with Python and scikit-learn


def test_digits():
    digits = datasets.digits()
    assert digits.images.shape == (1797, 8, 8)
    assert digits.images.dtype == np.float64
    assert digits.images.min() == 0
    assert digits.images.max() == 16
    assert set(digits.labels) == set(range(10))


def test_photographs():
    photographs = datasets.photographs()
    assert photographs.keys() == {"china", "flower"}
    for image in photographs.values():
        assert image.shape == (427, 640, 3)
        assert image.dtype == np.uint8


def test_pydocs():
    documents = datasets.pydocs()
    names = [document.name for document in documents]
    assert names == sorted(set(names))
    assert len(names) > 70
    assert {"with", "yield", "operator-summary"} <= set(names)
    text = datasets.pydocs_text()
    assert len(text) > 400_000
    assert datasets.load_text("pydocs") == datasets.load_text() == text


# The stored files


def test_mnist_is_the_canonical_one():
    needs("mnist")
    mnist = datasets.mnist()
    header = struct.pack(">4I", 2051, 60_000, 28, 28)
    digest = hashlib.md5(header + mnist.train_images.tobytes()).hexdigest()
    assert digest == "6bbc9ace898e44ae57da46a324031adb"
    assert mnist.train_images.shape == (60_000, 28, 28)
    assert mnist.test_images.shape == (10_000, 28, 28)
    assert mnist.train_labels.tolist()[:5] == [5, 0, 4, 1, 9]
    assert mnist.test_labels.tolist()[:5] == [7, 2, 1, 0, 4]
    assert mnist.train_labels.shape == (60_000,)
    for array in (mnist.train_images, mnist.train_labels, mnist.test_images, mnist.test_labels):
        assert array.dtype == np.uint8
        assert array.flags.writeable


def test_cifar10_is_the_canonical_one():
    needs("cifar10", "cifar10_labels.js", *(f"cifar10_batch_{i}.png" for i in (*range(10), 50)))
    cifar = datasets.cifar10(train_batches=10)
    assert cifar.train_images.shape == (10_000, 32, 32, 3)
    assert cifar.test_images.shape == (1000, 32, 32, 3)
    assert cifar.test_labels.shape == (1000,)
    # The binary version: a label, then the red, the green and the blue plane.
    pixels = cifar.train_images.transpose(0, 3, 1, 2).reshape(10_000, 3072)
    rows = np.concatenate([cifar.train_labels[:, None], pixels], axis=1)
    assert hashlib.md5(rows.tobytes()).hexdigest() == "5dd7e06a14cb22eb9f671a540d1b7c25"
    # test_batch begins with a cat and two ships.
    assert [cifar.class_names[i] for i in cifar.test_labels[:3]] == ["cat", "ship", "ship"]


@pytest.mark.parametrize("n", [0, 51, -1])
def test_cifar10_batches_out_of_range(n):
    with pytest.raises(ValueError, match=f"train_batches must be between 1 and 50, got {n}"):
        datasets.cifar10(n)


def test_fashion_mnist_missing_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("ML_STUDIES_DATA", str(tmp_path))
    with pytest.raises(UserError, match="study fetch fashion_mnist"):
        datasets.fashion_mnist()


def test_tinyshakespeare():
    needs("tinyshakespeare")
    text = datasets.tinyshakespeare()
    assert len(text) == 1_115_394
    assert len(set(text)) == 65
    assert text.startswith("First Citizen:\n")


def test_names():
    needs("names")
    names = datasets.names()
    assert len(names) == 32_033
    assert names[:3] == ["emma", "olivia", "ava"]
    assert set("".join(names)) == set("abcdefghijklmnopqrstuvwxyz")


@pytest.mark.parametrize(("split", "tokens"), [("valid", 217_646), ("test", 245_569)])
def test_wikitext2(split, tokens):
    needs("wikitext2", f"{split}.txt")
    text = datasets.wikitext2(split)
    assert sum(len(line.split()) + 1 for line in text.splitlines()) == tokens


def test_wikipedia():
    needs("wikipedia", "wiki_00", "wiki_01")
    documents = datasets.wikipedia(n_files=2)
    assert documents[0].name == "Anarchism"
    assert documents[0].text.startswith("Anarchism\n\nAnarchism is a political philosophy")
    assert not any("<doc" in document.text or "</doc>" in document.text for document in documents)
    with pytest.raises(ValueError, match="n_files must be between 1 and 20, got 0"):
        datasets.wikipedia(0)


def test_parse_documents():
    block = '<doc id="1" url="u" title="A &amp; B">\nA & B\n\ntext\n\n</doc>\n'
    assert texts.parse_documents(block * 2) == [texts.Document("A & B", "A & B\n\ntext")] * 2
    assert texts.parse_documents("") == []
    for broken in (block.replace("</doc>", "") + block, '<doc id="x">\n</doc>\n', block[:-8]):
        with pytest.raises(UserError, match="wiki_00 has a <doc"):
            texts.parse_documents(broken, source="wiki_00")


def test_sst2():
    needs("sst2")
    splits = datasets.sst2()
    assert {name: len(rows) for name, rows in splits.items()} == {
        "train": 6920,
        "dev": 872,
        "test": 1821,
    }
    assert splits["dev"][0] == ("one long string of cliches", 0)
    assert {row.label for rows in splits.values() for row in rows} == {0, 1}


@pytest.mark.parametrize(
    ("split", "n"), [("train", 29_000), ("val", 1014), ("test_2016_flickr", 1000)]
)
def test_multi30k(split, n):
    needs("multi30k", f"{split}.de.gz", f"{split}.en.gz")
    pairs = datasets.multi30k(split)
    assert len(pairs) == n
    assert all(pair.de and pair.en for pair in pairs)
    if split == "train":
        assert pairs[0].en == "Two young, White males are outside near many bushes."


@pytest.mark.parametrize("call", [datasets.multi30k, datasets.wikitext2])
def test_unknown_split(call):
    with pytest.raises(ValueError, match=r"split must be one of train, .*got 'trian'"):
        call("trian")


def test_california_housing():
    needs("california_housing")
    housing = datasets.california_housing()
    assert housing.features.shape == (20_640, 8)
    assert housing.features.dtype == np.float64
    assert len(housing.feature_names) == 8
    missing = np.isnan(housing.features).sum(axis=0)
    assert dict(zip(housing.feature_names, missing, strict=True))["total_bedrooms"] == 207
    assert missing.sum() == 207
    assert len(set(housing.ocean_proximity)) == 5
    assert housing.target.shape == (20_640,)
    assert housing.target.max() == 500_001


def test_adult():
    needs("adult")
    features, target = datasets.adult()
    assert features.shape == (32_561, 14)
    assert target.sum() == 7841
    assert features["workclass"].isna().sum() == 1836
    assert set(features["sex"]) == {"Male", "Female"}
    assert features["age"].dtype == np.int64


def test_titanic():
    needs("titanic", "train.csv")
    table = datasets.titanic()
    assert table.shape == (891, 12)
    assert table["Survived"].sum() == 342


# Decoders on bad files


def test_png_of_another_size_is_refused_before_decoding(tmp_path):
    from PIL import Image

    Image.new("L", (785, 3000)).save(tmp_path / "x.png")
    with pytest.raises(UserError, match=r"x\.png is an image of .*785, 3000.*, expected"):
        images._png(tmp_path / "x.png", (3000, 784))


def test_idx_of_another_shape_is_refused(tmp_path):
    import gzip

    right = struct.pack(">HBBI", 0, 8, 1, 3) + b"abc"
    file = tmp_path / "x.gz"
    file.write_bytes(gzip.compress(right))
    assert images._idx(file, (3,)).tolist() == [97, 98, 99]
    for wrong in (right[:-1], right + b"d", b"\1" + right[1:], b""):
        file.write_bytes(gzip.compress(wrong))
        with pytest.raises(UserError, match="is not an idx file"):
            images._idx(file, (3,))


@pytest.mark.parametrize("labels", ["[1, 2]", str([0] * 50_999 + [10]), str([True] * 51_000)])
def test_cifar10_labels_are_read_strictly(tmp_path, labels):
    file = tmp_path / "labels.js"
    file.write_text(f"var labels={labels.lower()};\n", encoding="ascii")
    with pytest.raises(UserError, match="does not hold 51,000 labels"):
        images._cifar10_labels(file)


# Texts


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "holds no text"),
        (b" \n\t\n", "holds no text"),
        (b"\xef\xbb\xbf\n", "holds no text"),
        (b"ab\0c", "byte 2 is NUL"),
        (b"caf\xe9\n", "is not UTF-8 text: byte 3 is 0xe9"),
        (b"ab\xe2\x82", "byte 2 is 0xe2"),
    ],
)
def test_bad_text_file(tmp_path, content, problem):
    file = tmp_path / "x.txt"
    file.write_bytes(content)
    with pytest.raises(UserError) as error:
        datasets.read_text_file(file)
    assert one_line(error).startswith(str(file))
    assert problem in one_line(error)


def test_text_file_missing_or_a_directory(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.txt does not exist"):
        datasets.read_text_file(tmp_path / "nowhere.txt")
    with pytest.raises(UserError, match="is a directory"):
        datasets.load_text(file=tmp_path)


@settings(max_examples=50, deadline=None)
@given(st.text(min_size=1).filter(lambda s: s.strip() and "\0" not in s and s[0] != "\ufeff"))
def test_text_file_comes_back_as_written(tmp_path_factory, text):
    file = tmp_path_factory.getbasetemp() / "any.txt"
    file.write_bytes(text.encode())
    assert datasets.read_text_file(file) == text
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert datasets.read_text_file(file) == text


def test_load_text(tmp_path):
    file = tmp_path / "x.txt"
    file.write_text("hello", encoding="utf-8")
    assert datasets.load_text(None, file) == "hello"
    with pytest.raises(UserError, match="not both"):
        datasets.load_text("pydocs", file)
    with pytest.raises(UserError, match="unknown text 'pydoc'; did you mean pydocs"):
        datasets.load_text("pydoc")


def test_load_text_of_stored_data():
    needs("names")
    assert datasets.load_text("names").splitlines() == datasets.names()


@functools.cache
def lego_views():
    return datasets.nerf_lego(100)


def test_lego_views_are_pictures_on_white_from_a_sphere():
    needs("nerf_lego")
    views = lego_views()
    assert views.images.shape == (34, 100, 100, 3)
    assert views.images.dtype == np.float32
    assert 0 <= views.images.min() < views.images.max() <= 1
    np.testing.assert_allclose(views.images[:, 0, 0], 1, atol=1e-6)  # nothing is in the corner
    np.testing.assert_allclose(np.linalg.norm(views.poses[:, :3, 3], axis=1), 4.0311, atol=1e-3)
    turns = views.poses[:, :3, :3]
    np.testing.assert_allclose(
        turns @ turns.transpose(0, 2, 1), np.tile(np.eye(3), (34, 1, 1)), atol=1e-5
    )
    back = views.poses[:, :3, 3] / 4.0311
    np.testing.assert_allclose(turns[:, :, 2], back, atol=1e-4)  # cameras look at the center
    assert views.focal == pytest.approx(138.89, abs=0.01)  # 1111.1 for 800 pixels


@pytest.mark.parametrize("size", [0, 300, -100])
def test_lego_sizes_that_do_not_divide_are_named(size):
    with pytest.raises(ValueError, match=f"size must divide 800, got {size}"):
        datasets.nerf_lego(size)


def test_lego_that_is_not_there_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("ML_STUDIES_DATA", str(tmp_path))
    with pytest.raises(
        UserError, match=r"transforms_train\.json is not in .*study fetch nerf_lego"
    ):
        datasets.nerf_lego()
