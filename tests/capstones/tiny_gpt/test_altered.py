"""Altered, swapped, forged: no file of a run or of its data is believed that is not as it was."""

import hashlib
import io
import json
import os
import random
import shutil
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shared import artifacts
from tiny_gpt import cli
from tiny_gpt.data.shards import open_data
from tiny_gpt.data.token_files import HEADER_BYTES, read_header

SIZES = {"n_layers": 1, "n_heads": 1, "d_model": 8, "context": 8, "batch_size": 2, "steps": 6}
SIZES |= {"eval_every": 2, "save_every": 2, "samples": 0, "threads": 1, "dtype": "fp32"}
SIZES |= {"device": "cpu", "tokenizer": "byte", "dedup": "off"}
TRAIN = ["train", *(f"--{name.replace('_', '-')}={value}" for name, value in SIZES.items())]


def call(*words) -> tuple[int, str, str]:
    """A command's status and what it printed; a hang is a failure."""

    def hangs(*_):
        raise AssertionError(f"{words} hangs")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(150)
    out, err = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
            patch.setattr(cli.console, "_file", out)
            patch.setattr(sys, "stdin", io.StringIO(""))
            status = cli.main([str(word) for word in words])
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return status, out.getvalue(), err.getvalue()


def refused(*words) -> str:
    """What is said of what is refused: one line."""
    status, _, err = call(*words)
    assert status in (2, 3), (status, err)
    assert err.startswith("tiny-gpt: error: ")
    assert err.count("\n") == 1
    return err


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A text, what is prepared of it, and a run."""
    folder = tmp_path_factory.mktemp("made") / "first"
    folder.mkdir()
    lines = [json.dumps({"text": f"document {i} says {'cat ' * (i % 7)}"}) for i in range(40)]
    (folder / "text.jsonl").write_text("\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        words = ["prepare", "text.jsonl", "--out", "data", "--tokenizer", "byte"]
        assert call(*words, "--dedup", "off", "--workers", 1)[0] == 0
        assert call(*TRAIN, "--data", "data", "--out", "run")[0] == 0
    return folder.rename(folder.with_name("made"))  # what lies at a place is not there any more


@pytest.fixture
def here(made, tmp_path, monkeypatch):
    """A copy of it all as the working folder, so that the data lies beside the runs."""
    shutil.copytree(made, tmp_path / "all")
    monkeypatch.chdir(tmp_path / "all")
    return tmp_path / "all"


def snapshot(folder: Path) -> dict[str, tuple]:
    paths = sorted(folder.rglob("*"))
    return {str(p): (p.stat().st_mtime_ns, p.is_file() and p.read_bytes()) for p in paths}


def flip(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def reseal(folder: Path, manifest: str, change=lambda body: None) -> None:
    """Make files and manifest agree again, as somebody would who knows how."""
    path = folder / manifest
    body = json.loads(path.read_bytes())
    del body["sha256"]
    for name in body["files"]:
        if not name.endswith((".tokens", ".documents")):
            body["files"][name] = artifacts._facts((folder / name).read_bytes())
    change(body)
    path.write_bytes(artifacts.sealed(body))


# ---- what was altered is neither trained on nor shown


@pytest.mark.parametrize("name", ["train-00000.tokens", "val-00000.tokens", "tokenizer.json"])
def test_altered_data_does_not_train(name, here):
    flip(here / "data" / name, at=200)
    for words in ([*TRAIN, "--data", "data", "--out", "new"], ["eval", "run"], ["inspect", "data"]):
        assert name in refused(*words)
    assert not (here / "new").exists()
    assert call("verify", "data")[0] == 3


LOOSE = ["settings.toml", "log.jsonl", "timing.jsonl", "seal.json"]


@pytest.mark.parametrize("name", [*LOOSE, "evaluation.json", "samples.json", "report.html"])
def test_every_file_of_a_run_is_sealed(name, here):
    flip(here / "run" / name, at=1)
    status, out, _ = call("verify", "run")
    assert (status, name in out) == (3, True)
    if name in LOOSE:
        assert name in refused(*TRAIN, "--data", "data", "--out", "run")
    if name in LOOSE and name != "timing.jsonl":
        assert name in refused("inspect", "run")


def test_what_stands_after_the_sealed_log_is_not_believed(here):
    before = call("inspect", "run", "--json")[1]
    with (here / "run" / "log.jsonl").open("a") as stream:
        stream.write('{"step": 7, "loss": 1.0}\n{"step": 7, "val_loss": 0.001}\n')
    shown, log = call("inspect", "run", "--json")[1], (here / "run" / "log.jsonl").read_text()
    assert shown == before
    status, out, _ = call("verify", "run")
    assert (status, "goes on after what was saved" in out) == (0, True)
    assert call(*TRAIN, "--data", "data", "--out", "run")[0] == 0
    assert (here / "run" / "log.jsonl").read_text() == log[: log.index('{"step": 7')]
    assert "every byte" in call("verify", "run")[1]


def test_killed_before_any_rename_a_seal_is_true_and_the_run_goes_on(here, monkeypatch):
    train = [*TRAIN, "--data", "data", "--out", "run"]
    shutil.rmtree(here / "run" / "checkpoints" / "step-00000006")
    shutil.copytree(here / "run", here / "cut")
    names = ("log.jsonl", "evaluation.json", "samples.json", "best/state.json")
    names += ("checkpoints/step-00000006/tensors.safetensors", "best/tensors.safetensors")

    class Killed(BaseException):
        pass

    def counting(rename):
        def counted(*paths):
            nonlocal left
            if not left:
                raise Killed
            left -= 1
            rename(*paths)

        return counted

    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, counting(getattr(os, name)))
    left = -1
    assert call(*train)[0] == 0
    renames, whole = -1 - left, [(here / "run" / name).read_bytes() for name in names]
    assert renames > 10
    for at in range(renames):
        shutil.rmtree(here / "run")
        shutil.copytree(here / "cut", here / "run")
        left = at
        with pytest.raises(Killed):
            call(*train)
        left = -1
        status, out, _ = call("verify", "run")
        assert (status, "fatal" in out) == (0, False), (at, out)
        assert call(*train)[0] == 0, at
        assert [(here / "run" / name).read_bytes() for name in names] == whole


# ---- nothing that is not the same thing is replaced


@pytest.mark.parametrize(
    "words",
    [
        "export run --out run/best",
        "export run --out run/checkpoints/step-00000004",
        "export run --out run/checkpoints/step-00000007",
        "export run --out run/best/hf",
        "export run --out data/hf",
        "export run --out alone",
        "export run --out run",
        "prepare text.jsonl --out run/best",
        "prepare text.jsonl --out data/more",
        "prepare text.jsonl --out mine",
        "train --data data --out data",
        "train --data data --out run/best",
        "train --data data --out run/checkpoints/a",
        "train --data data --out data/run",
    ],
)
def test_only_its_like_is_replaced(words, here):
    shutil.copytree(here / "run" / "best", here / "alone")
    (here / "mine").mkdir()
    (here / "mine" / "data.json").write_text('{"files": {}}')
    (here / "mine" / "thesis.txt").write_text("years of work")
    before = snapshot(here)
    assert refused(*words.split(), *(TRAIN[1:] if words.startswith("train") else []))
    assert snapshot(here) == before


def test_an_export_is_replaced_but_not_with_what_others_put_there(here):
    words = ["export", "run", "--out", "hf", "--no-verify"]
    assert call(*words)[0] == call(*words)[0] == 0
    (here / "hf" / "README.md").write_text("a model card")
    assert "not replaced" in refused(*words)
    assert (here / "hf" / "README.md").exists()


# ---- artifacts do not decide where is read or written


NAMES = ["../text.jsonl", "/etc/passwd", "a/b.tokens", "..", ".hidden", "gone.txt"]


@pytest.mark.parametrize("name", NAMES)
def test_a_forged_manifest_names_no_file_elsewhere(name, here):
    facts = artifacts._facts((here / "text.jsonl").read_bytes())
    reseal(here / "data", "data.json", lambda body: body["files"].update({name: facts}))
    assert Path(name).name in refused("inspect", "data").replace("\\", "")
    reseal(here / "run", "seal.json", lambda body: body["files"].update({name: facts}))
    assert Path(name).name in call("verify", "run")[1]


def with_items(change):
    """A token file with other items, its header and the manifest made to fit them."""

    def forge(data):
        items = np.fromfile(path := data / change[0], dtype=change[1], offset=HEADER_BYTES)
        change[2](items)
        header = replace(read_header(path), payload=hashlib.sha256(items).hexdigest())
        path.write_bytes(header.to_bytes() + items.tobytes())
        facts = {"bytes": header.file_bytes, "sha256": header.payload}
        reseal(data, "data.json", lambda body: body["files"].update({path.name: facts}))

    return forge


def renumbered(data):
    (data / "train-00000.tokens").rename(data / "train-00001.tokens")
    files = json.loads((data / "data.json").read_bytes())["files"]
    files["train-00001.tokens"] = files.pop("train-00000.tokens")
    body = {"format": "tiny-gpt data 1", "meta": {}, "files": files}
    (data / "data.json").write_bytes(artifacts.sealed(body))


FORGED = {
    "id": (with_items(("val-00000.tokens", "<u2", lambda x: x.put(3, 257))), "below 257, got 257"),
    "end": (with_items(("val.documents", "<i8", lambda x: x.put(-2, 3))), "does not fit"),
    "order": (with_items(("train.documents", "<i8", lambda x: x.put(0, 10**6))), "does not fit"),
    "bytes": (with_items(("train.documents", "<i8", lambda x: x.put(1, -1))), "does not fit"),
    "number": (renumbered, "does not fit"),
}


@pytest.mark.parametrize("how", FORGED)
def test_well_sealed_nonsense_is_refused(how, here):
    forge, says = FORGED[how]
    forge(here / "data")
    for words in (["inspect", "data"], [*TRAIN, "--data", "data", "--out", "new"], ["eval", "run"]):
        assert refused(*words).count("data") >= 1
    assert says in refused("inspect", "data")


def linked(path, *_):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def piped(path, *_):
    path.unlink()
    os.mkfifo(path)


ODD = ["run/seal.json", "run/log.jsonl", "run/timing.jsonl", "run/settings.toml"]
ODD += ["run/best/state.json", "run/best/MANIFEST.json", "data/data.json", "data/tokenizer.json"]
ODD += ["data/train-00000.tokens", "run/report.html", "run/.lock"]


@pytest.mark.parametrize("change", [linked, piped, lambda path: (path.unlink(), path.mkdir())])
@pytest.mark.parametrize("name", ODD)
def test_links_pipes_and_folders_are_no_files(name, change, here):
    change(here / name)
    top, *_, file = name.split("/")
    status, out, err = call("verify", top)
    assert (status, file in out) == (3, True) or file == ".lock", err
    status, out, err = call(*TRAIN, "--data", "data", "--out", "run")
    assert status in (0, 1, 2, 3), err  # 1: all but the report is there
    if status == 0:  # what is not read is written anew, and not through a link
        assert name in ("run/report.html", "run/best/state.json", "run/.lock")


@pytest.mark.parametrize("name", ["best", "checkpoints", "checkpoints/step-00000006"])
def test_a_linked_folder_leads_out_of_the_run(name, here):
    (here / "run" / name).rename(here / "elsewhere")
    (here / "run" / name).symlink_to(here / "elsewhere")
    before = snapshot(here / "elsewhere")
    train = [*TRAIN, "--data", "data", "--out", "run"]
    for words in (["verify", "run"], ["inspect", "run"], train):
        assert "leads out of the run" in refused(*words)
    assert snapshot(here / "elsewhere") == before


def test_reading_commands_write_nothing(here):
    (here / "other").mkdir()
    (here / "other" / "a.txt").write_text("other text " * 99)
    text = (here / "run" / "settings.toml").read_text()
    forged = text.replace('data = "data"', 'data = "other"')
    assert forged != text
    (here / "run" / "settings.toml").write_text(forged)
    reseal(here / "run", "seal.json")
    before = snapshot(here)
    for words in ("eval run", "inspect run", "verify run", "sample run -p a", "inspect data"):
        assert call(*words.split())[0] == 0, words
    shutil.rmtree(here / "data")
    reseal(here / "run", "seal.json", lambda body: body.update(data=["../other", "gone"]))
    assert "is gone; give it by --data" in refused("eval", "run")
    words = ["prepare", "text.jsonl", "--out", "data", "--tokenizer", "byte", "--seed", 1]
    assert call(*words, "--dedup", "off", "--workers", 1)[0] == 0
    reseal(here / "run", "seal.json", lambda body: body.update(data=["../data"]))
    assert "its content differs" in refused("eval", "run")
    shutil.rmtree(here / "data")
    assert snapshot(here).keys() <= before.keys()


# ---- data is known by its content


@pytest.fixture
def on_text(here):
    """A run on a text that was prepared on the way."""
    words = [*TRAIN, "--data", "text.jsonl", "--out", "runs/a"]
    assert call(*words)[0] == 0
    return words


def test_text_that_changed_after_training_is_not_evaluated(here, on_text):
    before = call("eval", "runs/a", "--json")[1]
    text = here / "text.jsonl"
    stamps = text.stat().st_atime_ns, text.stat().st_mtime_ns
    text.write_text(text.read_text().replace("cat", "dog"))
    os.utime(text, ns=stamps)  # neither its size nor its time tells
    state = snapshot(here / "runs")
    assert call("eval", "runs/a", "--json")[1] == before
    assert snapshot(here / "runs") == state
    assert "text.jsonl is not what runs/a was trained on" in refused(*on_text)
    prepared = sorted((here / "runs" / "data").iterdir())
    assert len(prepared) == 2
    other = next(p for p in prepared if "dog" in json.dumps(call("inspect", p, "--json")[1]))
    asked = json.loads(call("eval", "runs/a", "--data", other, "--json")[1])["signature"]
    assert asked.endswith(f"|v1|data:{open_data(other).sha256[:6]}")
    for folder in prepared:
        shutil.rmtree(folder)
    assert "give it by --data" in refused("eval", "runs/a")


def test_a_text_that_is_as_it_was_is_not_prepared_again(here, on_text):
    os.utime(here / "text.jsonl")
    assert call(*on_text)[0] == 0
    assert len(list((here / "runs" / "data").iterdir())) == 1


def test_data_is_found_from_any_folder_and_with_the_run(here, on_text, tmp_path, monkeypatch):
    before = call("eval", "runs/a", "--json")[1]
    monkeypatch.chdir("/")
    assert call("eval", here / "runs" / "a", "--json")[1] == before
    shutil.copytree(here / "runs" / "a", tmp_path / "alone")
    assert call("eval", tmp_path / "alone", "--json")[1] == before
    (here / "runs").rename(tmp_path / "moved")
    assert call("eval", tmp_path / "moved" / "a", "--json")[1] == before
    assert call("eval", tmp_path / "moved" / "a" / "best", "--json")[1] == before
    assert "is gone" in refused("eval", tmp_path / "alone")


def test_new_rows_of_a_hugging_face_data_set_are_noticed(here):
    datasets = pytest.importorskip("datasets")
    words = [*TRAIN, "--data", f"hf:{here}/rows", "--out"]
    for n, run in ((40, "runs/a"), (50, "runs/b")):
        rows = {"text": [f"row {i} says {'cat ' * (i % 7)}" for i in range(n)]}
        shutil.rmtree(here / "rows", ignore_errors=True)
        datasets.Dataset.from_dict(rows).save_to_disk(here / "rows")
        assert call(*words, run)[0] == 0
    assert len(list((here / "runs" / "data").iterdir())) == 2
    assert "is not what" in refused(*words, "runs/a")


def test_a_run_goes_on_with_its_data_where_it_lies(here):
    shutil.rmtree(here / "run" / "checkpoints" / "step-00000006")
    (here / "data").rename(here / "moved")
    assert call(*TRAIN, "--data", "moved", "--out", "run")[0] == 0
    assert call("eval", "run")[0] == 0


# ---- a few hundred alterations of every kind: refused in one line, or as if nothing had happened

COMMANDS = {
    "run": [
        ["inspect", "run", "--json"],
        ["eval", "run", "--json"],
        ["sample", "run", "-p", "a", "--max-new-tokens", "3"],
    ],
    "data": [["inspect", "data", "--json"], ["eval", "run", "--json"]],
}
WRONG = [None, "x", [], {}, True, 1.5, -1, 10**30, [["x"]], {"x": {}}]


def flipped(path, rng, others):
    flip(path, rng.randrange(path.stat().st_size))


def cut(path, rng, others):
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


def emptied(path, rng, others):
    path.write_bytes(b"")


def lengthened(path, rng, others):
    path.write_bytes(path.read_bytes() + rng.choice([b"\0", b"\n", b"{}", b'{"step": 9}\n']))


def removed(path, rng, others):
    path.unlink()


def swapped(path, rng, others):
    mine, other = path.read_bytes(), rng.choice(others)
    path.write_bytes(other.read_bytes())
    other.write_bytes(mine)


def stranger(path, rng, others):
    path.with_name(f"new{path.suffix}").write_bytes(path.read_bytes())


def forged(path, rng, others):
    """A value of another kind, or none, in what is JSON or TOML; and all seals made to fit."""
    folder = path.parent
    manifest = next(n for n in ("MANIFEST.json", "data.json", "seal.json") if (folder / n).exists())
    if path.name == manifest:
        reseal(
            folder,
            manifest,
            lambda body: spoiled(body["files"] if rng.random() < 0.7 else body, rng),
        )
    elif path.suffix == ".json" and path.name != "report.json":
        body = json.loads(path.read_bytes())
        spoiled(body, rng)
        path.write_text(json.dumps(body))
        reseal(folder, manifest)
    elif path.suffix == ".safetensors":
        data = path.read_bytes()
        n = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + n])
        spoiled(header, rng)
        text = json.dumps(header).encode()
        head = rng.choice([len(text), len(text), 0, 2**40, 2**63]).to_bytes(8, "little") + text
        path.write_bytes(head + data[8 + n :])
        reseal(folder, manifest)
    else:
        flipped(path, rng, others)


def spoiled(value, rng):
    """Go to a random place in a tree and remove what is there, or put something else."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    keys = [key for key in keys if key not in ("meta", "argv", "program", "metadata")]
    if not keys:
        return
    key = rng.choice(keys)
    if isinstance(value[key], dict | list) and value[key] and rng.random() < 0.8:
        spoiled(value[key], rng)
    elif rng.random() < 0.4:
        del value[key]
    else:
        known = (float, int) if type(value[key]) is float else (type(value[key]),)
        value[key] = rng.choice([x for x in WRONG if type(x) not in known])


def linked_to_zero(path, rng, others):
    path.unlink()
    path.symlink_to("/dev/zero")


def in_place_of_a_folder(path, rng, others):
    if path.parent.parent.name in ("run", "checkpoints"):
        shutil.rmtree(path.parent)
        path.parent.write_bytes(b"x")


ALTERATIONS = [flipped, flipped, cut, emptied, lengthened, removed, swapped, stranger, forged]
ALTERATIONS += [forged, forged, linked, piped, linked_to_zero, in_place_of_a_folder]
QUIET = (
    lengthened,
    swapped,
    stranger,
    forged,
    in_place_of_a_folder,
)  # may have made what is as good as before


def shown(words, out):
    """What a command says, but for how large the files are."""
    return {**json.loads(out), "files": None} if words[0] == "inspect" else out


@pytest.mark.parametrize("seed", range(3))
def test_alterations_are_refused_or_change_nothing(seed, made, tmp_path, monkeypatch):
    rng, work = random.Random(seed), tmp_path / "all"
    shutil.copytree(made, work)
    monkeypatch.chdir(work)
    before = {str(w): shown(w, call(*w)[1]) for words in COMMANDS.values() for w in words}
    files = [p for p in sorted(work.glob("*/**/*")) if p.is_file() and p.name != ".lock"]
    for _ in range(60):
        path, change = rng.choice(files), rng.choice(ALTERATIONS)
        top = path.relative_to(work).parts[0]
        change(path, rng, [p for p in files if p != path and p.parts[-2] == path.parts[-2]])
        what = f"{change.__name__} {path.relative_to(work)}"
        status, out, err = call("verify", top)
        assert status in (0, 2, 3), (what, err)
        assert status or change in QUIET, what
        words = rng.choice(COMMANDS[top])
        status, out, err = call(*words)
        assert status in (0, 2, 3), (what, words, err)
        if status:
            assert err.startswith("tiny-gpt: error: "), (what, words)
            assert err.count("\n") == 1, (what, words)
        else:
            assert shown(words, out) == before[str(words)], (what, words)
        shutil.rmtree(work)
        shutil.copytree(made, work)
        monkeypatch.chdir(work)


def test_altered_runs_are_refused_or_go_on_to_the_same_bytes(made, tmp_path, monkeypatch):
    rng, work = random.Random(0), tmp_path / "all"
    names = ("log.jsonl", "settings.toml", "evaluation.json", "best/state.json")
    names += ("checkpoints/step-00000006/tensors.safetensors", "best/tensors.safetensors")
    whole, statuses = None, set()
    for _ in range(30):
        shutil.copytree(made, work)
        monkeypatch.chdir(work)
        shutil.rmtree(work / "run" / "checkpoints" / "step-00000006")
        files = [p for p in sorted(work.glob("*/**/*")) if p.is_file() and p.name != ".lock"]
        path, change = rng.choice(files), rng.choice(ALTERATIONS)
        if whole is not None:  # first as it is
            change(path, rng, [p for p in files if p != path and p.parts[-2] == path.parts[-2]])
        status, _, err = call(*TRAIN, "--data", "data", "--out", "run")
        what = f"{change.__name__} {path.relative_to(work)}"
        if status:
            assert (status in (2, 3), err.count("\n")) == (True, 1), (what, err)
        else:
            found = [(work / "run" / name).read_bytes() for name in names]
            whole = whole or found
            assert found == whole, what
            assert call("verify", "run")[0] == 0, what
        statuses.add(status)
        shutil.rmtree(work)
    assert statuses >= {0, 3}
