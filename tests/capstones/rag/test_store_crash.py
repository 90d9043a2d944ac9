"""Kills at random moments, and files that were torn or altered: one state or the other, or a line.

What a reader finds after a crash is the last committed state or the new one; of an altered file it
is told, at the latest by `verify`.
"""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_store import Hashed, content, make_documents, make_store, open_store

from rag.store.store import Store
from shared.errors import UserError

KILL = """
import os, random, signal, time
from pathlib import Path
from tiny_store import content, make_documents, make_store, open_store

first, second = make_documents(40), make_documents(60, seed=1)[10:]

def run(folder, documents):
    with open_store(Path(folder)) as store:
        store.ingest(documents, prune=True)

def seen(folder):
    with open_store(Path(folder)) as store:
        assert store.verify() == []
        return content(store)

make_store(Path("s")).close()
run("s", first); old = seen("s")
make_store(Path("new")).close()
run("new", first)
start = time.perf_counter(); run("new", second); seconds = time.perf_counter() - start
new = seen("new")
assert old != new
draw, killed, attempt, window = random.Random(0), 0, 0, seconds
while killed < 20:
    attempt += 1
    assert attempt < 200, (killed, window, seconds)
    child = os.fork()
    if child == 0:
        run("s", second)
        os._exit(0)
    time.sleep(window * (attempt % 20 + draw.random()) / 20)
    os.kill(child, signal.SIGKILL)
    if os.WIFSIGNALED(os.waitpid(child, 0)[1]):
        killed += 1
        window *= 1.02
    else:  # it was faster than its killer
        window *= 0.8
    now = seen("s")
    assert now in (old, new), attempt
    if now == new:
        run("s", first)
        assert seen("s") == old
run("s", second)
assert seen("s") == new
names = sorted(p.name for p in Path("s/generations").iterdir())
assert len(names) == 1, names
"""


def test_killed_at_random_moments(tmp_path):
    path = os.pathsep.join(["tests", *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", KILL],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]) + os.pathsep + path},
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("step", ["write", "record", "sweep", "refresh"])
def test_stopped_before_each_step(tmp_path, monkeypatch, step):
    """The steps of a commit, each of which the process does not reach."""
    with make_store(tmp_path / "s") as store:
        store.ingest(make_documents(10))
        old = content(store)
        with make_store(tmp_path / "new") as other:
            other.ingest(make_documents(12, seed=1))
            new = content(other)

        def stop(*_, **__):
            raise KeyboardInterrupt

        where = {"write": "rag.store.generation.write", "refresh": "rag.store.store.Store.refresh"}
        with monkeypatch.context() as patch:
            if step in ("sweep", "refresh"):  # both are also called before; the commit's come last
                record = sys.modules["rag.store.writing"].record

                def recorded(*arguments):
                    record(*arguments)
                    patch.setattr(where.get(step, f"rag.store.writing.{step}"), stop)

                patch.setattr("rag.store.writing.record", recorded)
            else:
                patch.setattr(where.get(step, f"rag.store.writing.{step}"), stop)
            with pytest.raises(KeyboardInterrupt):
                store.ingest(make_documents(12, seed=1))
    with open_store(tmp_path / "s") as store:
        assert content(store) == (old if step in ("write", "record") else new)
        store.ingest(make_documents(12, seed=1))
        assert content(store) == new
        assert store.verify() == []
    assert len(list((tmp_path / "s" / "generations").iterdir())) == 1


def files_of(folder):
    return sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "s"
    with make_store(folder) as store:
        store.ingest(make_documents(30))
        seen = content(store)
    return folder, seen


def look(folder):
    """What a reader finds: None if it is told that something is wrong, in one line."""
    try:
        with open_store(folder) as store:
            if problems := store.verify():
                assert all("\n" not in line and line for line in problems)
                return None
            return content(store)
    except UserError as error:
        said = str(error)
    assert said
    assert "\n" not in said
    return None


def test_truncated_files(whole, tmp_path):
    folder, seen = whole
    for name in files_of(folder):
        size = (folder / name).stat().st_size
        for keep in {0, size // 2, max(size - 1, 0)} if size else ():
            copy = tmp_path / "copy"
            shutil.copytree(folder, copy)
            os.truncate(copy / name, keep)
            found = look(copy)
            assert found is None or (found == seen and name.name == "embeddings.sqlite"), name
            shutil.rmtree(copy)


def test_missing_files(whole, tmp_path):
    folder, seen = whole
    for name in files_of(folder):
        copy = tmp_path / "copy"
        shutil.copytree(folder, copy)
        (copy / name).unlink()
        found = look(copy)
        assert found is None or (found == seen and "embeddings" in name.name), name
        shutil.rmtree(copy)


def test_flipped_bytes(whole, tmp_path):
    folder, seen = whole
    draw, told = random.Random(0), 0
    for name in files_of(folder):
        data = (folder / name).read_bytes()
        for _ in range(12 if name.suffix == ".sqlite" else 5):
            copy = tmp_path / "copy"
            shutil.copytree(folder, copy)
            altered = bytearray(data)
            altered[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
            (copy / name).write_bytes(altered)
            found = look(copy)
            assert found in (None, seen), name
            assert found is None or name.suffix == ".sqlite", name  # free space in its pages
            told += found is None
            shutil.rmtree(copy)
    assert told > 20


def test_altered_text_is_never_shown(whole, tmp_path):
    folder, _ = whole
    shutil.copytree(folder, tmp_path / "s")
    path = tmp_path / "s" / "store.sqlite"
    data = path.read_bytes()
    with open_store(tmp_path / "s") as store:
        text = store.document("d7.md").text
    path.write_bytes(data.replace(text.encode(), text[::-1].encode()))
    with open_store(tmp_path / "s") as store:
        for read in (lambda: store.document("d7.md"), lambda: store.chunks(store.rows_of("d7.md"))):
            with pytest.raises(
                UserError, match=r"store\.sqlite was altered: (document|chunk) .*d7"
            ):
                read()


def test_cache_survives_everything(whole, tmp_path):
    folder, _ = whole
    shutil.copytree(folder, tmp_path / "s")
    for junk in (b"", b"junk" * 2000):
        (tmp_path / "s" / "embeddings.sqlite").write_bytes(junk)
        with open_store(tmp_path / "s") as store:
            store.ingest(make_documents(len(junk) + 3, seed=2)[:40])
            assert store.verify() == []


def test_foreign_folders(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.png").write_bytes(b"x")
    with pytest.raises(UserError, match="is not empty"):
        make_store(tmp_path / "photos")
    with pytest.raises(UserError, match="is no store"):
        Store.open(tmp_path / "photos", embedder=Hashed())
    for junk in (b"", b"junk" * 2000):
        (tmp_path / "photos" / "store.sqlite").write_bytes(junk)
        with pytest.raises(UserError, match=r"is no store|altered or is torn"):
            Store.open(tmp_path / "photos", embedder=Hashed())
