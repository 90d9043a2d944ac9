"""`prepare` keeps each text once, on one side, gives the same bytes always, and can be killed."""

import hashlib
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import UserError
from tiny_gpt.data import leaks
from tiny_gpt.data import prepare as module
from tiny_gpt.data.duplicates import Corpus, Measure
from tiny_gpt.data.prepare import prepare
from tiny_gpt.data.shards import open_data
from tiny_gpt.data.sources import SourceDocument
from tiny_gpt.data.tokenizers import train_tokenizer
from week15.corpus import find_leaks, split_of
from week15.deduplication import deduplicate, jaccard, normalize, shingles


def make_texts(n, *, n_words=60, seed=0):
    rng = np.random.default_rng(seed)
    words = ["".join(rng.choice(list("abcdefghijklmnop"), 5)) for _ in range(400)]
    return [" ".join(rng.choice(words, n_words)) + "." for _ in range(n)]


def edited(text, n_edits, rng):
    words = text.split()
    for at in rng.choice(len(words), n_edits, replace=False):
        words[at] = f"edit{rng.integers(10**6)}"
    return " ".join(words)


def with_copies(n, *, most_edits, seed=0):
    """Originals, then exact and edited copies of some, shuffled after the originals."""
    rng = np.random.default_rng(seed)
    originals = make_texts(n, seed=seed)
    edits = [int(rng.integers(0, most_edits + 1)) for _ in range(n // 2)]
    copies = [edited(originals[i], n_edits, rng) for i, n_edits in enumerate(edits)]
    copies += [f"  {originals[i].upper()}\n" for i in range(0, n // 2, 5)]
    return originals + [copies[i] for i in rng.permutation(len(copies))]


def write(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def prepared_bytes(source, out, **options):
    return prepare(source, out, tokenizer="byte", workers=1, **options)


def digests(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def texts_in(folder):
    """The documents of each split, decoded; each must be closed by the end-of-text token."""
    data = open_data(folder, verify=True)
    found = {}
    for name, split in data.splits.items():
        found[name] = []
        for start, stop in itertools.pairwise(split.offsets.tolist()):
            ids = split.read(start, stop)
            if data.tokenizer.end_of_text is not None:
                assert ids[-1] == data.tokenizer.end_of_text
                ids = ids[:-1]
            found[name].append(data.tokenizer.decode(ids.tolist()))
        assert [len(text.encode()) for text in found[name]] == split.document_bytes.tolist()
    return found


def decided(texts, folder, *, near=0.8):
    """Which documents are kept, by `Corpus` alone, and the others' kinds."""
    folder.mkdir()
    corpus = Corpus(folder, exact=True, near=near)
    measure = Measure(corpus.texts, near, 0.1, "")
    documents = [SourceDocument(str(i), text) for i, text in enumerate(texts)]
    n = 0
    for chunk in corpus.stage(documents, 2000):
        corpus.decide(n, measure(chunk))
        n += len(chunk)
    rows = corpus.database.execute("SELECT id, copy_of, kind, similarity FROM documents").fetchall()
    corpus.close()
    kept = [i for i, copy_of, *_ in rows if copy_of is None]
    return kept, [(i, of, kind, s) for i, of, kind, s in rows if of is not None]


# ---- duplicates


def test_recall_against_brute_force_and_no_false_exact(tmp_path):
    texts = with_copies(200, most_edits=4, seed=1)  # 4 edits leave a similarity of about .5
    _, removed = decided(texts, tmp_path / "a")
    runs = [set(shingles(text).tolist()) for text in texts]

    def similarity_of(a, b):
        return len(a & b) / len(a | b)

    expected_kept = []
    for i, ours in enumerate(runs):
        if all(similarity_of(ours, runs[j]) < 0.8 for j in expected_kept):
            expected_kept.append(i)
    expected_removed = set(range(len(texts))) - set(expected_kept)
    found = {i for i, *_ in removed}
    assert len(expected_removed) > 50
    assert len(found & expected_removed) >= 0.99 * len(expected_removed)
    assert found <= expected_removed  # the texts decide, so nothing is removed by chance
    for i, copy_of, kind, similarity in removed:
        assert copy_of < i
        assert (normalize(texts[i]) == normalize(texts[copy_of])) == (kind == "exact")
        assert similarity == similarity_of(runs[i], runs[copy_of])


def test_a_chain_of_edits_does_not_join_its_ends(tmp_path):
    words = make_texts(1)[0].split()
    chain = [" ".join(words[i : i + 54]) for i in (0, 3, 6)]  # .89 between neighbors, .79 not
    assert jaccard(shingles(chain[0]), shingles(chain[2])) < 0.8
    kept, removed = decided(chain, tmp_path / "a")
    assert kept == [0, 2]
    assert [(i, of, kind) for i, of, kind, _ in removed] == [(1, 0, "near")]
    assert deduplicate(chain).kept == [0]  # week 15 joins them


@given(st.lists(st.sampled_from(["a b", "A  b", "a b!", "c", "...", "…", ""]), max_size=12))
def test_exact_copies(tmp_path_factory, texts):
    kept, _ = decided(texts, tmp_path_factory.mktemp("copies") / "a")
    texts = [text for text in texts if text.strip()]
    reference = deduplicate(texts)
    assert kept == reference.kept


@pytest.mark.parametrize(("dedup", "n"), [("off", 8), ("exact", 6), ("minhash", 5)])
def test_what_is_removed_and_reported(tmp_path, dedup, n):
    a, b, c, d, e = make_texts(5)
    near = edited(a, 1, np.random.default_rng(0))
    source = write(tmp_path / "in.jsonl", [a, b, near, "", a.upper(), c, d, f" {a}", e])
    report = prepared_bytes(source, tmp_path / "out", dedup=dedup, split="tail")
    removed = report["duplicates"]
    assert report["read"]["documents"] == 8
    assert report["read"]["blank_documents_left_out"] == 1
    assert removed["exact"]["documents"] == (0 if dedup == "off" else 2)
    assert removed["near"]["documents"] == (1 if dedup == "minhash" else 0)
    assert report["leaks"]["near"] == (0 if dedup == "minhash" else None)
    pieces = report["splits"]["train"]["documents"] + report["splits"]["val"]["documents"]
    assert pieces - (report["split"]["cut_document"] is not None) == n
    if dedup == "minhash":
        exact = {"document": "in.jsonl:5", "copy_of": "in.jsonl:1", "similarity": 1.0}
        assert removed["exact"]["examples"][0] == exact
        (example,) = removed["near"]["examples"]
        assert (example["document"], example["copy_of"]) == ("in.jsonl:3", "in.jsonl:1")
        assert 0.8 <= example["similarity"] < 1
        assert removed["near"]["characters"] == len(near)


# ---- splits


def test_split_by_hash_is_week_15s_and_goes_before_everything_else(tmp_path):
    texts = with_copies(60, most_edits=1)
    source = write(tmp_path / "in.jsonl", texts)
    report = prepare(source, tmp_path / "out", vocab_size=300, val_fraction=0.3, seed=7, workers=1)
    kept = [texts[i] for i in deduplicate(texts).kept]
    fractions = {"val": 0.3, "train": 0.7}
    expected = {
        name: [t for t in kept if split_of(t, fractions, salt="seed 7") == name]
        for name in ("train", "val")
    }
    assert texts_in(tmp_path / "out") == expected
    assert report["split"]["kind"] == "hash"
    assert (report["leaks"]["exact"], report["leaks"]["near"]) == (0, 0)
    learned = train_tokenizer("bpe", expected["train"], vocab_size=300)
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == learned.to_bytes()
    for name, texts in expected.items():
        counts = report["splits"][name]
        assert counts["documents"] == len(texts)
        assert counts["bytes"] == counts["characters"] == sum(map(len, texts))
        assert counts["tokens"] == sum(len(learned.encode(t)) + 1 for t in texts)
        assert counts["bytes_per_token"] == counts["bytes"] / counts["tokens"]


def test_one_document_is_cut_at_nine_tenths(tmp_path):
    text = "Zwölf Boxkämpfer jagen Viktor.\n" * 33 + "ß"
    (tmp_path / "in.txt").write_text(text)
    report = prepare(tmp_path / "in.txt", tmp_path / "out", tokenizer="char", workers=1)
    n = len(text)
    assert texts_in(tmp_path / "out") == {
        "train": [text[: int(0.9 * n)]],
        "val": [text[int(0.9 * n) :]],
    }
    assert report["tokenizer"]["end_of_text"] is None
    assert report["tokenizer"]["vocab_size"] == len(set(text))  # ß, in validation only, has an id
    assert report["split"]["kind"] == "tail"
    assert report["split"]["cut_document"] == "in.txt"
    # The line repeats: what validation shares with training is said.
    assert report["leaks"]["share_of_runs_in_training"] == 0.5


@given(
    st.lists(st.text("abä", min_size=1, max_size=9), min_size=2, max_size=6), st.floats(0.1, 0.9)
)
def test_tail_is_the_last_characters_of_all(tmp_path_factory, texts, fraction):
    folder = tmp_path_factory.mktemp("tail")
    source = write(folder / "in.jsonl", texts)
    options = {"dedup": "off", "split": "tail", "val_fraction": fraction}
    joined = "".join(texts)
    cut = int((1 - fraction) * len(joined))
    if not 0 < cut < len(joined):
        with pytest.raises(UserError, match="too few"):
            prepared_bytes(source, folder / "out", **options)
        return
    prepared_bytes(source, folder / "out", **options)
    found = texts_in(folder / "out")
    assert "".join(found["train"]) == joined[:cut]
    assert "".join(found["val"]) == joined[cut:]


def test_auto_and_hash_say_what_they_do(tmp_path):
    source = write(tmp_path / "in.jsonl", make_texts(19))
    split = prepared_bytes(source, tmp_path / "out")["split"]
    assert (split["kind"], split["reason"]) == ("tail", "19 documents, by hash from 20 on")
    for fraction, empty in ((1e-9, "val"), (1 - 1e-9, "train")):
        with pytest.raises(UserError, match=f"leaves {empty} without any of 19 documents; use"):
            prepared_bytes(source, tmp_path / "no", val_fraction=fraction, split="hash")
    assert not (tmp_path / "no").exists()
    source = write(tmp_path / "in.jsonl", make_texts(20))
    assert prepared_bytes(source, tmp_path / "out")["split"]["kind"] == "hash"
    split = prepared_bytes(source, tmp_path / "out", val_fraction=1e-3)["split"]
    assert split["kind"] == "tail"
    assert "one split" in split["reason"]


def test_auto_does_not_trust_a_hash_that_holds_out_too_little(tmp_path):
    def held_out(text):
        return split_of(text, {"val": 0.1, "train": 0.9}, salt="seed 0") == "val"

    short = [text for text in make_texts(60) if held_out(text)]
    long = [f"{text} {f'{i} word ' * 400}" for i, text in enumerate(make_texts(60, seed=1))]
    source = write(tmp_path / "in.jsonl", short + [text for text in long if not held_out(text)])
    split = prepared_bytes(source, tmp_path / "out")["split"]
    assert split["kind"] == "tail"
    assert "hold out only" in split["reason"]
    assert prepared_bytes(source, tmp_path / "out", split="hash")["split"]["kind"] == "hash"


def test_bpe_learns_from_a_sample_of_the_training_documents(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SAMPLE_BYTES", 1000)
    source = write(tmp_path / "in.jsonl", [f"ä{t}ö" for t in make_texts(40)])
    report = prepare(source, tmp_path / "out", vocab_size=300, workers=1)
    total = report["splits"]["train"]["bytes"]
    assert report["tokenizer"]["learned_from"] == f"1000 of {total} bytes of the training documents"
    whole = train_tokenizer("bpe", texts_in(tmp_path / "out")["train"], vocab_size=300)
    assert report["tokenizer"]["sha256"] != whole.sha256


# ---- leaks


def leaky_texts():
    texts = make_texts(60, n_words=50)
    fractions = {"val": 0.3, "train": 0.7}

    def part(name, texts):
        return [t for t in texts if split_of(t, fractions, salt="seed 0") == name]

    train, val = part("train", texts), part("val", texts)
    # Training quotes one validation text whole, and a half of another, within longer ones.
    around = [make_texts(1, n_words=90, seed=seed)[0] for seed in (90, 91)]
    train += part("train", [f"{around[0]} {val[1]}", f"{around[1]} {val[3][:150]}"])
    assert len(train) + len(val) == 62
    return train, val


@pytest.mark.parametrize("chunk_bytes", [1, 1000, 10**6])
def test_overlap_is_week_15s(tmp_path, monkeypatch, chunk_bytes):
    monkeypatch.setattr(module, "CHUNK_BYTES", chunk_bytes)
    train, val = leaky_texts()
    source = write(tmp_path / "in.jsonl", train + val)
    report = prepared_bytes(source, tmp_path / "out", val_fraction=0.3)
    assert texts_in(tmp_path / "out") == {"train": train, "val": val}
    found = report["leaks"]
    reference = find_leaks(train, val)
    assert (found["exact"], found["near"]) == (len(reference.exact), len(reference.near)) == (0, 0)
    runs = np.array([len(shingles(text, 13)) for text in val])
    assert found["runs"] == runs.sum()
    share = (reference.overlap * runs).sum() / runs.sum()
    assert found["share_of_runs_in_training"] == pytest.approx(share, abs=1e-12)
    worst = [(f"in.jsonl:{len(train) + i + 1}", reference.overlap[i]) for i in (1, 3)]
    assert [(w["name"], w["share"]) for w in found["worst_documents"]] == worst
    assert worst[0][1] == 1.0
    assert 0.1 < worst[1][1] < 0.6


def test_too_many_runs_are_sampled_by_hash(tmp_path, monkeypatch):
    train, val = leaky_texts()
    source = write(tmp_path / "in.jsonl", train + val)
    monkeypatch.setattr(leaks, "MAX_RUNS", 200)
    found = []
    for chunk_bytes in (500, 10**6):
        monkeypatch.setattr(module, "CHUNK_BYTES", chunk_bytes)
        report = prepared_bytes(source, tmp_path / "out", val_fraction=0.3)
        found.append(report["leaks"])
    assert found[0] == found[1]
    modulus = found[0]["runs_sampled_one_in"]
    assert modulus > 1
    sampled = [r[r % np.uint64(modulus) == 0] for r in (shingles(text, 13) for text in val)]
    assert found[0]["runs"] == sum(map(len, sampled))
    assert len(np.unique(np.concatenate(sampled))) <= 200
    seen = np.concatenate([shingles(text, 13) for text in train])
    hits = sum(int(np.isin(runs, seen).sum()) for runs in sampled)
    assert found[0]["share_of_runs_in_training"] == hits / found[0]["runs"]


def test_leaks_of_a_tail_without_deduplication_are_counted(tmp_path):
    texts = make_texts(10)
    source = write(tmp_path / "in.jsonl", [*texts, texts[0].upper()])
    report = prepared_bytes(source, tmp_path / "out", dedup="off", split="tail")
    assert report["leaks"]["exact"] == 1


# ---- the same bytes


OPTIONS = {"vocab_size": 320, "shard_tokens": 700, "val_fraction": 0.2}


@pytest.fixture
def prepared(tmp_path):
    """A corpus and the digests of what one process makes of it in one chunk."""
    source = write(tmp_path / "in.jsonl", with_copies(60, most_edits=3))
    report = prepare(source, tmp_path / "a", **OPTIONS, workers=1)
    reference = digests(tmp_path / "a")
    assert json.loads((tmp_path / "a" / "report.json").read_bytes()) == report
    assert sum(name.endswith(".tokens") for name in reference) > 4
    return source, reference


@pytest.mark.parametrize(("chunk_bytes", "workers"), [(1, 1), (999, 1), (2000, 2)])
def test_same_bytes_for_any_chunks_and_processes(
    prepared, tmp_path, monkeypatch, chunk_bytes, workers
):
    source, reference = prepared
    monkeypatch.setattr(module, "CHUNK_BYTES", chunk_bytes)
    prepare(source, tmp_path / "b", **OPTIONS, workers=workers)
    assert digests(tmp_path / "b") == reference


def test_same_bytes_in_another_process(prepared, tmp_path):
    _, reference = prepared
    code = "from tiny_gpt.data.prepare import prepare; "
    code += f"prepare('in.jsonl', 'b', **{OPTIONS}, workers=1)"
    environment = {**os.environ, "PYTHONHASHSEED": "123"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    assert digests(tmp_path / "b") == reference


def test_one_after_another_does_not_use_the_first_ones_tokenizer(tmp_path):
    for name in "ab":
        source = write(tmp_path / f"{name}.jsonl", [name * 30, f"{name}xyz"])
        prepare(source, tmp_path / name, tokenizer="char", workers=1)
        assert "".join(texts_in(tmp_path / name)["train"]).startswith(name * 30)


# ---- crashes and wrong input


@pytest.fixture
def old(tmp_path):
    """A source that was prepared, and the digests of its folder `a`."""
    source = write(tmp_path / "in.jsonl", make_texts(30))
    prepare(source, tmp_path / "a", **OPTIONS, workers=1)
    reference = digests(tmp_path / "a")
    yield source
    assert digests(tmp_path / "a") == reference
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "in.jsonl"]


def test_leftovers_of_a_crash_are_cleared_away(old, tmp_path):
    left = tmp_path / ".a.preparing"
    (left / "data").mkdir(parents=True)
    for name in ("texts", "documents.sqlite", "runs", "data/val-00099.tokens"):
        (left / name).write_bytes(b"stale")
    prepare(old, tmp_path / "a", **OPTIONS, workers=1)


def test_failure_keeps_the_old_folder(old, tmp_path):
    torn = old.read_bytes() + b'{"text": "\xff"}\n'
    for content, message in ((torn, r"in\.jsonl is not UTF-8"), (b"\n", "holds no text")):
        old.write_bytes(content)
        with pytest.raises(UserError, match=message):
            prepare(old, tmp_path / "a", **OPTIONS, workers=1)


def test_other_folders_are_not_replaced(tmp_path):
    source = write(tmp_path / "in.jsonl", make_texts(3))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.png").write_bytes(b"x")
    for target in ("photos", "in.jsonl"):
        with pytest.raises(UserError, match=r"holds something else|is not a folder"):
            prepared_bytes(source, tmp_path / target)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.jsonl", "photos"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_fraction": 0.0}, "val_fraction must be between 0 and 1, got 0"),
        ({"near_duplicate": 1.5}, r"near_duplicate must be between 0.04 and 1, got 1\.5"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"shard_tokens": 0}, "shard_tokens must be at least 1, got 0"),
        ({"vocab_size": 100}, "vocab_size must be at least 257"),
    ],
)
def test_wrong_options_are_named_before_anything_is_written(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        prepare("pydocs", tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


KILL = """
import hashlib, os, random, signal, time
from pathlib import Path
from tiny_gpt.data.prepare import prepare
from tiny_gpt.data.shards import open_data

def digests(folder):
    files = sorted(folder.iterdir())
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

def run(out, seed):
    prepare("in.jsonl", out, vocab_size=300, val_fraction=0.2, seed=seed, workers=1)

run("old", 0); run("out", 0)
start = time.perf_counter(); run("new", 1); seconds = time.perf_counter() - start
old, new = digests(Path("old")), digests(Path("new"))
assert old != new
draw, killed, attempt, window = random.Random(0), 0, 0, seconds
while killed < 20:
    attempt += 1
    assert attempt < 200, (killed, window, seconds)
    child = os.fork()
    if child == 0:
        run("out" if attempt % 2 else "fresh", 1)
        os._exit(0)
    time.sleep(window * (attempt % 20 + draw.random()) / 20)
    os.kill(child, signal.SIGKILL)
    if os.WIFSIGNALED(os.waitpid(child, 0)[1]):
        killed += 1
        window *= 1.02
    else:  # it was faster than its killer
        window *= 0.8
    for out, before in (("out", old), ("fresh", None)):
        if Path(out).exists() or before:
            open_data(Path(out), verify=True)
            assert digests(Path(out)) in ((old, new) if before else (new,)), attempt
run("out", 1); run("fresh", 1)
assert digests(Path("out")) == digests(Path("fresh")) == new
names = sorted(p.name for p in Path().iterdir())
assert names == ["fresh", "in.jsonl", "new", "old", "out"], names
"""


def test_killed_at_random_moments(tmp_path):
    write(tmp_path / "in.jsonl", with_copies(60, most_edits=2))
    done = subprocess.run(
        [sys.executable, "-c", KILL],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_memory_does_not_grow_with_the_corpus(tmp_path):
    code = (
        "import re, sys; from tiny_gpt.data.prepare import prepare\n"
        "status = lambda: open('/proc/self/status').read()\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', status())[1])\n"
        "before = peak()\n"
        "prepare(sys.argv[1], sys.argv[2], tokenizer='byte', dedup='exact', workers=1)\n"
        "print(peak() - before)"
    )
    text, growth = " ".join(make_texts(1, n_words=3000)), {}
    for megabytes in (1, 6):
        texts = (f"{i} {text[i % 999 :]}" for i in range(megabytes * 10**6 // len(text)))
        source = write(tmp_path / f"{megabytes}.jsonl", texts)
        command = [sys.executable, "-c", code, str(source), str(tmp_path / "out")]
        done = subprocess.run(command, capture_output=True, check=True)
        growth[megabytes] = int(done.stdout)  # kB
    assert growth[6] < 1.5 * growth[1], growth
