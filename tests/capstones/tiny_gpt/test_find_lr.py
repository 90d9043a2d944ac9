"""The search for a learning rate: downhill, fair to every rate, and better than where it began."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tiny_gpt import cli
from tiny_gpt.data.prepare import prepare
from tiny_gpt.data.shards import open_data
from tiny_gpt.settings import Settings
from tiny_gpt.training import find_lr, train
from tiny_gpt.training.train import Diverged

SIZES = {"n_layers": 1, "n_heads": 2, "d_model": 16, "context": 16, "batch_size": 8, "steps": 60}
PLAIN = {"dtype": "fp32", "device": "cpu", "compile": "off", "samples": 0, "resume": "never"}
SMALL = Settings(**SIZES, **PLAIN, eval_every=0, save_every=0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lr")
    words = ["the", "cat", "saw", "a", "dog", "and", "it", "sat", "on", "mat", "while", "we", "ran"]
    drawn = torch.randint(len(words), (9000,), generator=torch.Generator().manual_seed(0))
    (folder / "text.txt").write_text(" ".join(words[i] for i in drawn))
    prepare(folder / "text.txt", folder / "data", tokenizer="char", split="tail", workers=1)
    return open_data(folder / "data")


# ---- the way down


@given(st.integers(-8, 8), st.floats(0.1, 10))
def test_a_valley_is_found_wherever_it_lies_and_each_rate_is_tried_once(at, steep):
    tried = []

    def loss(k):
        tried.append(k)
        return steep * (k - at) ** 2

    known = find_lr.descend(loss)
    assert min(known, key=known.get) == at
    assert len(tried) == len(set(tried)) <= abs(at) + 3
    assert all(k in known for k in (at - 1, at + 1) if abs(k) <= 8)


def test_where_everything_diverges_the_way_is_down_and_ends():
    known = find_lr.descend(lambda k: math.inf if k > -5 else abs(k + 6.0))
    assert min(known, key=known.get) == -6
    assert set(find_lr.descend(lambda k: math.inf)) == set(range(-8, 2))
    assert set(find_lr.descend(lambda k: -k)) == set(range(9))  # falling to the edge


# ---- trials


def test_a_trial_is_a_short_training_to_the_bit(data, tmp_path):
    short = replace(SMALL, steps=12, out=tmp_path / "run")
    losses = train.training_losses(data, short)
    train.train(data, short)
    log = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    logged = [line.split('"loss": ')[1].split(",")[0] for line in log if '"loss"' in line]
    assert losses == [float(x) for x in logged]


def test_every_trial_reads_the_same_and_leaves_nothing(data, tmp_path, monkeypatch):
    seen = []

    def losses(data, settings):
        seen.append(settings)
        return [9.0] * 12 + [settings.lr, 2 * settings.lr, 3 * settings.lr, math.nan]

    monkeypatch.setattr(find_lr, "training_losses", losses)
    settings = replace(SMALL, steps=160, warmup_steps=20, lr=0.01, matrix_lr=0.03, dtype="auto")
    with pytest.raises(Diverged, match=r"at every rate, down to --lr 3\.91e-05"):
        find_lr.find_lr(data, settings, steps=16)
    monkeypatch.setattr(
        find_lr, "training_losses", lambda d, s: [*losses(d, s)[:-1], abs(math.log(s.lr / 0.04))]
    )
    seen.clear()
    found = find_lr.find_lr(data, settings, steps=16)
    assert (found.lr, found.matrix_lr, found.factor) == pytest.approx((0.04, 0.12, 4))
    # The last quarter alone counts.
    assert found.losses[1] == pytest.approx((0.06 + math.log(4)) / 4)
    assert not found.at_the_edge
    changed = {"lr", "matrix_lr"}
    same = [{k: v for k, v in vars(s).items() if k not in changed} for s in seen]
    assert all(s == same[0] for s in same)
    assert (seen[0].steps, seen[0].warmup_steps, seen[0].dtype) == (16, 2, "fp32")
    assert {round(s.matrix_lr / s.lr, 6) for s in seen} == {3}


@pytest.mark.parametrize(("optimizer", "start"), [("muon", 1 / 16), ("adamw", 16)])
def test_from_too_low_and_too_high_it_ends_where_training_is_better(data, optimizer, start):
    rates = {"lr": 0.012 * start, "matrix_lr": 0.02 * start}
    began = replace(SMALL, optimizer=optimizer, steps=24, **rates)
    found = find_lr.find_lr(data, began, steps=24)
    assert (found.factor > 1) == (start < 1)
    assert found.losses[found.factor] < found.losses[1] - 0.1
    after = train.training_losses(data, replace(began, lr=found.lr, matrix_lr=found.matrix_lr))
    assert sum(after[-6:]) / 6 == pytest.approx(found.losses[found.factor])


def test_the_command(data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.toml").write_text("n-layers = 1\nd-model = 16\nlr = 0.002\nmatrix-lr = 0.004\n")
    words = ["find-lr", "--config", "c.toml", "--data", str(data.path), "--context=16"]
    words += ["--batch-size=4", "--steps=20", "--threads=1", "--device=cpu"]
    assert cli.main(words) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("--lr 0.002 --matrix-lr 0.004: ")
    assert out[-1].startswith("train with --lr 0.")
    assert [p.name for p in tmp_path.iterdir()] == ["c.toml"]  # no run, no checkpoint
    assert cli.main([*words, "--trial-steps", "3"]) == 2
    assert "--trial-steps" in capsys.readouterr().err
    assert cli.main([*words, "--lr", "0"]) == 2
    assert "lr must be above 0" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "0")
    assert cli.main(words) == 2
    assert "one process" in capsys.readouterr().err
