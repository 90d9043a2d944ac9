"""Prepared folders: what was written is read, and what was altered is refused by name."""

import hashlib
import json
import os
import shutil
import struct
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
            # A wrong size is seen unread, and all but the tokens is read in any case.
            with pytest.raises(ArtifactError) as caught:
                open_data(folder, verify="flipped" in what and name.endswith(".tokens"))
            assert name in str(caught.value), what
            assert "\n" not in str(caught.value)
        path.unlink()
        with pytest.raises(ArtifactError, match=f"{name} cannot be read"):
            open_data(folder)
        path.write_bytes(whole)
    open_data(folder, verify=True)


def test_a_new_tokenizer_beside_old_shards_is_refused(folder):
    (folder / "tokenizer.json").write_bytes(train_tokenizer("char", TEXTS).to_bytes())
    with pytest.raises(ArtifactError, match=r"tokenizer.json is not the one"):
        open_data(folder)
    (folder / "data.json").unlink()
    with pytest.raises(ArtifactError, match="is stale"):  # nor can it be sealed again
        write_data_manifest(folder, {})


def stale(folder):
    other = prepared(
        folder.with_name("other"), tokenizer=train_tokenizer("bpe", TEXTS, vocab_size=270)
    )
    shutil.copy(other / "val-00000.tokens", folder)


def swapped(folder):
    first, second = folder / "train-00000.tokens", folder / "train-00001.tokens"
    first.rename(folder / "x")
    second.rename(first)
    (folder / "x").rename(second)


def edited(folder):
    content = json.loads((folder / "data.json").read_text())
    content["meta"]["texts"] = 1
    (folder / "data.json").write_text(json.dumps(content, indent=1) + "\n")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (stale, r"val-00000.tokens is stale"),
        (swapped, r"train-00000.tokens is not the one"),
        (edited, r"data.json was altered"),
    ],
)
def test_whole_files_that_do_not_belong_are_refused(folder, change, message):
    change(folder)
    with pytest.raises(ArtifactError, match=message):
        open_data(folder)


def test_what_is_missing_is_said(tmp_path, folder):
    with pytest.raises(ArtifactError, match="there is no prepared data"):
        open_data(tmp_path / "nothing")
    with pytest.raises(ArtifactError, match=r"data.json cannot be read"):
        open_data(tmp_path)
    for name in ("train.documents", "tokenizer.json"):
        (folder / name).unlink()
        with pytest.raises(ArtifactError, match=f"{name} is missing"):
            write_data_manifest(folder, {})


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


def test_wrong_input_is_refused(tmp_path, folder):
    writer = ShardWriter(tmp_path, "train", BYTES.sha256, 10)
    for tokens, n_bytes, message in (
        ([10], 1, "tokens must lie between 0 and 9"),
        ([-1], 1, "tokens must lie"),
        ([0, 2**16], 1, "tokens must lie"),
        ([1], -1, "n_bytes must be at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            writer.append(np.array(tokens), n_bytes)
    writer.close()
    for arguments, kind, message in (
        (("train", BYTES.sha256, 10), FileExistsError, "exists"),
        (("../train", BYTES.sha256, 10), ValueError, "split must be"),
        (("val", "abc", 10), ValueError, "tokenizer_sha256 must be"),
        (("val", BYTES.sha256, 10, 0), ValueError, "shard_tokens must be"),
    ):
        with pytest.raises(kind, match=message):
            ShardWriter(tmp_path, *arguments)
    split = open_data(folder).splits["train"]
    n = split.n_tokens
    for start, stop in ((-1, 2), (0, n + 1), (3, 2)):
        with pytest.raises(ValueError, match="start and stop"):
            split.read(start, stop)
    for starts in ([-1], [0, n - 3]):
        with pytest.raises(ValueError, match="starts must leave room"):
            split.gather(np.array(starts), 4)


def test_tokens_are_mapped_once(folder):
    split = open_data(folder).splits["train"]
    whole = split.read(0, split.n_tokens)
    shutil.rmtree(folder)  # nothing is opened again
    assert split.gather(np.array([3]), 60)[0].tolist() == whole[3:63].tolist()


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
        """A SIGKILL: no clean-up of ours runs after it."""

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
