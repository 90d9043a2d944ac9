"""Prepared folders: what was written is read, and what was altered is refused by name."""

import hashlib
import json
import os
import shutil
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.artifacts import ArtifactError
from shared.errors import UserError
from tiny_gpt.data.shards import ShardWriter, open_data, publish, write_data_manifest
from tiny_gpt.data.tokenizers import train_tokenizer

BYTES = train_tokenizer("byte", [])
TEXTS = [f"document {i}" * (i % 4) for i in range(9)]


def write_split(folder, split, texts, tokenizer=BYTES, *, shard_tokens=50):
    with ShardWriter(folder, split, tokenizer.sha256, tokenizer.vocab_size, shard_tokens) as writer:
        for text in texts:
            tokens = np.append(tokenizer.encode(text), tokenizer.end_of_text)
            writer.append(tokens, len(text.encode()))


def prepared(folder, texts=TEXTS, tokenizer=BYTES, **options):
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes(tokenizer.to_bytes())
    (folder / "report.json").write_text("{}")
    write_split(folder, "train", texts, tokenizer, **options)
    write_split(folder, "val", [text[::-1] for text in texts], tokenizer, **options)
    write_data_manifest(folder, {"source": "test", "texts": len(texts)})
    return folder


@pytest.fixture
def folder(tmp_path):
    return prepared(tmp_path / "data")


@given(
    lengths=st.lists(st.integers(0, 30), max_size=8),
    shard_tokens=st.integers(1, 40),
    wide=st.booleans(),
    data=st.data(),
)
def test_what_is_written_is_read(tmp_path_factory, lengths, shard_tokens, wide, data):
    folder = tmp_path_factory.mktemp("data")
    vocab_size = 2**20 if wide else 2**16
    rng = np.random.default_rng(len(lengths))
    documents = [rng.integers(0, vocab_size, n) for n in lengths]
    (folder / "tokenizer.json").write_bytes(BYTES.to_bytes())
    with ShardWriter(folder, "train", BYTES.sha256, vocab_size, shard_tokens) as writer:
        for document in documents:
            writer.append(document, 3 * len(document))
    write_data_manifest(folder, {})
    split = open_data(folder, verify=True).splits["train"]
    stream = np.concatenate([np.empty(0, dtype=np.int64), *documents])
    assert (split.n_tokens, split.n_documents) == (len(stream), len(documents))
    assert split.n_bytes == 3 * len(stream)
    assert split.offsets.tolist() == [0, *np.cumsum(lengths, dtype=np.int64).tolist()]
    assert split.document_bytes.tolist() == [3 * n for n in lengths]
    assert split.read(0, split.n_tokens).tolist() == stream.tolist()
    start = data.draw(st.integers(0, len(stream)))
    stop = data.draw(st.integers(start, len(stream)))
    assert split.read(start, stop).tolist() == stream[start:stop].tolist()
    length = data.draw(st.integers(0, len(stream)))
    starts = np.array(data.draw(st.lists(st.integers(0, len(stream) - length), max_size=5)))
    rows = split.gather(starts.astype(np.int64), length)
    assert rows.tolist() == [stream[start : start + length].tolist() for start in starts]


def test_text_comes_back_document_by_document(folder):
    data = open_data(folder, verify=True)
    assert data.meta == {"source": "test", "texts": len(TEXTS)}
    assert data.tokenizer.sha256 == BYTES.sha256
    split = data.splits["train"]
    for i, text in enumerate(TEXTS):
        tokens = split.read(int(split.offsets[i]), int(split.offsets[i + 1]))
        assert tokens[-1] == split.end_of_text == data.tokenizer.end_of_text
        assert data.tokenizer.decode(tokens[:-1]) == text
        assert split.document_bytes[i] == len(text)


def test_a_token_takes_two_bytes_up_to_65536_ids(tmp_path):
    for vocab_size, size in ((2**16, 2), (2**16 + 1, 4)):
        folder = tmp_path / str(vocab_size)
        folder.mkdir()
        with ShardWriter(folder, "train", "0" * 64, vocab_size) as writer:
            writer.append(np.array([0, vocab_size - 1]), 1)
        raw = (folder / "train-00000.tokens").read_bytes()
        assert np.frombuffer(raw[128:], f"<u{size}").tolist() == [0, vocab_size - 1]


def test_header_is_as_documented(folder):
    """Read without our code, by the table of `token_files`."""
    raw = (folder / "train-00000.tokens").read_bytes()
    magic, version, kind, item_bytes, zero, n = struct.unpack_from("<8sIIIIQ", raw)
    assert (magic, version, kind, item_bytes, zero, n) == (b"TINYGPT\0", 1, 0, 2, 0, 50)
    assert raw[32:64].hex() == hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()
    assert raw[64:96] == hashlib.sha256(raw[128:]).digest()
    assert raw[96:124] == bytes(28)
    assert struct.unpack_from("<I", raw, 124) == (zlib.crc32(raw[:124]),)
    raw = (folder / "train.documents").read_bytes()
    assert struct.unpack_from("<IIIQ", raw, 12) == (1, 16, 0, len(TEXTS))
    assert np.frombuffer(raw[128:], "<i8").reshape(-1, 2)[1].tolist() == [1 + 11, 10]


def damages(data):
    """Truncated, and one byte flipped, at several places each."""
    size = len(data)
    for at in sorted({0, 1, 64, 127, 128, size // 2, size - 1} & set(range(size))):
        yield f"truncated to {at}", data[:at]
        for bit in (1, 0x80):
            yield f"byte {at} flipped", data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]
    yield "longer", data + b"\0"


def test_any_damage_to_any_file_is_named_in_one_line(folder):
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) > 8
    for name in names:
        path = folder / name
        whole = path.read_bytes()
        for what, damaged in damages(whole):
            path.write_bytes(damaged)
            with pytest.raises(ArtifactError) as caught:
                open_data(folder, verify="flipped" in what)  # a wrong size is seen unread
            assert name in str(caught.value), what
            assert "\n" not in str(caught.value)
        path.unlink()
        with pytest.raises(ArtifactError, match=f"{name} cannot be read"):
            open_data(folder)
        path.write_bytes(whole)
    open_data(folder, verify=True)


def test_all_but_the_tokens_is_checked_without_verify(folder):
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        if path.suffix == ".tokens":
            open_data(folder)
        else:
            with pytest.raises(ArtifactError, match=path.name):
                open_data(folder)
        path.write_bytes(whole)


def test_stale_shards_are_refused(tmp_path, folder):
    other = train_tokenizer("bpe", TEXTS, vocab_size=270)
    elsewhere = prepared(tmp_path / "other", tokenizer=other)
    shutil.copy(elsewhere / "val-00000.tokens", folder)
    with pytest.raises(ArtifactError, match=r"val-00000.tokens is stale"):
        open_data(folder)


def test_a_new_tokenizer_beside_old_shards_is_refused(folder):
    (folder / "tokenizer.json").write_bytes(train_tokenizer("char", TEXTS).to_bytes())
    with pytest.raises(ArtifactError, match=r"tokenizer.json is not the one"):
        open_data(folder)
    (folder / "data.json").unlink()
    with pytest.raises(ArtifactError, match="is stale"):  # nor can it be sealed again
        write_data_manifest(folder, {})


def test_swapped_shards_are_refused(folder):
    first, second = folder / "train-00000.tokens", folder / "train-00001.tokens"
    first.rename(folder / "x")
    second.rename(first)
    (folder / "x").rename(second)
    with pytest.raises(ArtifactError, match=r"train-00000.tokens is not the one"):
        open_data(folder)


def test_manifest_cannot_be_edited(folder):
    content = json.loads((folder / "data.json").read_text())
    content["meta"]["texts"] = 1
    (folder / "data.json").write_text(json.dumps(content, indent=1) + "\n")
    with pytest.raises(ArtifactError, match=r"data.json was altered"):
        open_data(folder)


def test_what_is_no_folder_of_data_is_said_so(tmp_path):
    with pytest.raises(ArtifactError, match="there is no prepared data"):
        open_data(tmp_path / "nothing")
    with pytest.raises(ArtifactError, match=r"data.json cannot be read"):
        open_data(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArtifactError, match="cannot be read"):
        open_data(tmp_path / "file")


def test_an_interrupted_writer_leaves_nothing_to_read(tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(BYTES.to_bytes())

    def write():
        with ShardWriter(tmp_path, "train", BYTES.sha256, BYTES.vocab_size, 4) as writer:
            writer.append(np.arange(6), 6)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    with pytest.raises(ArtifactError, match="no intact header"):
        write_data_manifest(tmp_path, {})


def test_files_that_are_missing_when_sealed_are_named(tmp_path):
    with pytest.raises(ArtifactError, match=r"tokenizer.json is missing"):
        write_data_manifest(tmp_path, {})
    (tmp_path / "tokenizer.json").write_bytes(BYTES.to_bytes())
    write_split(tmp_path, "train", TEXTS)
    (tmp_path / "train.documents").unlink()
    with pytest.raises(ArtifactError, match=r"train.documents is missing"):
        write_data_manifest(tmp_path, {})


def test_wrong_input_is_refused(tmp_path, folder):
    writer = ShardWriter(tmp_path, "train", BYTES.sha256, 10)
    for tokens in ([10], [-1], [0, 2**16]):
        with pytest.raises(ValueError, match="tokens must lie between 0 and 9"):
            writer.append(np.array(tokens), 1)
    with pytest.raises(ValueError, match="n_bytes must be at least 0"):
        writer.append(np.array([1]), -1)
    writer.close()
    with pytest.raises(FileExistsError):
        ShardWriter(tmp_path, "train", BYTES.sha256, 10)
    with pytest.raises(ValueError, match="split must be"):
        ShardWriter(tmp_path, "../train", BYTES.sha256, 10)
    with pytest.raises(ValueError, match="tokenizer_sha256 must be"):
        ShardWriter(tmp_path, "val", "abc", 10)
    with pytest.raises(ValueError, match="shard_tokens must be"):
        ShardWriter(tmp_path, "val", BYTES.sha256, 10, 0)
    split = open_data(folder).splits["train"]
    n = split.n_tokens
    for start, stop in ((-1, 2), (0, n + 1), (3, 2)):
        with pytest.raises(ValueError, match="start and stop"):
            split.read(start, stop)
    for starts in ([-1], [0, n - 3]):
        with pytest.raises(ValueError, match="starts must leave room"):
            split.gather(np.array(starts), 4)


def test_tokens_are_mapped_once_and_never_loaded(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes(BYTES.to_bytes())
    document = np.random.default_rng(0).integers(0, 257, 200_000)
    tracemalloc.start()
    try:
        with ShardWriter(folder, "train", BYTES.sha256, 257) as writer:
            before = tracemalloc.get_traced_memory()[1]
            for _ in range(20):
                writer.append(document, len(document))
        write_data_manifest(folder, {})
        split = open_data(folder).splits["train"]
        split.gather(np.array([0, 3_000_000]), 1000)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000  # bytes; the tokens are 8,000,000
    shutil.rmtree(folder)  # nothing is opened again
    assert split.gather(np.array([200_000]), 1000)[0].tolist() == document[:1000].tolist()


def test_publish_replaces_only_data_and_only_by_data(tmp_path, folder):
    target = tmp_path / "out"
    with pytest.raises(ValueError, match="staging must be a sealed folder"):
        publish(tmp_path, target)
    target.mkdir()
    (target / "thesis.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="holds something else"):
        publish(folder, target)
    assert (target / "thesis.txt").read_text() == "mine"
    (target / "thesis.txt").unlink()
    publish(folder, target)
    assert open_data(target, verify=True).path == target
    assert not folder.exists()
    with pytest.raises(UserError, match="cannot be written"):
        publish(target, tmp_path / "no" / "parent")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArtifactError, match="is not a folder"):
        publish(target, tmp_path / "file")


@pytest.mark.parametrize("crash_at", [1, 2])
def test_at_every_instant_of_publish_old_or_new_opens(tmp_path, folder, monkeypatch, crash_at):
    target = tmp_path / "out"
    publish(folder, target)
    new = prepared(tmp_path / "new", TEXTS[:3])
    renames, seen = [], []
    rename = os.rename

    class Crash(BaseException):
        """The process is killed: no clean-up of ours runs after it."""

    def crashing_rename(*arguments):
        renames.append(arguments)
        seen.append(open_data(target, verify=True).splits["train"].n_documents)
        if len(renames) >= crash_at:
            raise Crash
        rename(*arguments)

    monkeypatch.setattr(os, "rename", crashing_rename)
    with pytest.raises(Crash):
        publish(new, target)
    monkeypatch.setattr(os, "rename", rename)
    assert set(seen) == {len(TEXTS)}
    assert open_data(target, verify=True).splits["train"].n_documents == len(TEXTS)
    publish(new, target)
    assert open_data(target, verify=True).splits["train"].n_documents == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_a_folder_moved_in_while_opening_is_read(tmp_path, folder, monkeypatch):
    """The manifest is the old one's, the shards are the new one's: begin again, do not complain."""
    from tiny_gpt.data import shards

    target = tmp_path / "out"
    publish(folder, target)
    new = [prepared(tmp_path / "new", TEXTS[:3])]
    manifest = shards._manifest

    def slow_manifest(path):
        body = manifest(path)
        while new:
            publish(new.pop(), target)
        return body

    monkeypatch.setattr(shards, "_manifest", slow_manifest)
    assert open_data(target, verify=True).splits["train"].n_documents == 3
