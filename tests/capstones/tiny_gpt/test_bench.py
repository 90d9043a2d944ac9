"""The benchmark's machinery: verdicts, turns, records, the stand-in, the ablation, the fit."""

import json
import math
import os
from threading import Thread

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import UserError
from tiny_gpt.benchmark import ablation, bench, duels, measure, recipes, rival, wikipedia
from tiny_gpt.benchmark.rows import bench as run_rows
from tiny_gpt.data.batches import Batches
from tiny_gpt.data.prepare import prepare
from tiny_gpt.data.shards import open_data
from tiny_gpt.model.gpt import GPT
from tiny_gpt.training import state

TEXT = "the quick brown fox jumps over the lazy dog; " * 60


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    options = {"tokenizer": "char", "split": "tail", "dedup": "off", "workers": 1}
    prepare(folder / "text.txt", folder / "data", **options)
    return folder / "data"


def run_of(seed, loss, loop, whole, parameters=800_000):
    seconds = {"loop_seconds": loop, "whole_seconds": whole}
    run = {"recipe": "x", "seed": seed, "steps": 10, "val_loss": loss, **seconds}
    return run | {"n_parameters": parameters}


def pair_of(seed, ours, rival=(1.9, 100.0, 110.0)):
    return {"seed": seed, "rival": run_of(seed, *rival), "ours": run_of(seed, *ours)}


# ---- verdicts


def test_a_loss_target_is_reached_only_if_every_seed_reaches_it():
    pairs = [pair_of(0, (1.80, 1, 1)), pair_of(1, (1.80, 1, 1)), pair_of(2, (1.90, 1, 1))]
    loss = duels.judge("speed", pairs)[0]
    assert (loss["what"], loss["measured"], loss["reached"]) == ("loss", 1.90, False)
    assert duels.judge("speed", pairs[:2])[0]["reached"]


def test_a_ratio_is_of_the_same_turn_and_the_median_over_turns():
    pairs = [
        pair_of(0, (1.8, 2.0, 10.0), (1.9, 40.0, 100.0)),  # 20 and 10
        pair_of(1, (1.8, 8.0, 10.0), (1.9, 800.0, 200.0)),  # 100 and 20: a busy moment for both
        pair_of(2, (1.8, 1.0, 5.0), (1.9, 10.0, 125.0)),  # 10 and 25
    ]
    verdicts = {v["what"]: v for v in duels.judge("speed", pairs)}
    assert verdicts["loop"]["measured"] == 20
    assert verdicts["loop"]["reached"]
    assert verdicts["whole"]["measured"] == 20
    assert (verdicts["whole"]["reached"], verdicts["whole"]["stretch_reached"]) == (True, False)


def test_the_stand_in_must_land_where_nanogpt_does():
    record = {"rows": {"speed": {"pairs": [pair_of(0, (1.8, 1, 1), (1.896, 1, 1))]}}}
    assert duels.rival_is_one(record)
    record["rows"]["speed"]["pairs"][0]["rival"]["val_loss"] = 1.88
    assert not duels.rival_is_one(record)
    assert duels.rival_is_one({"rows": {}}) is None


# ---- turns


class Fake(bench.Bench):
    """Trains nothing, remembers the order."""

    def __init__(self, log, **options):
        super().__init__(data="text", **options)
        self.log = log

    def prepared(self):
        return None

    def warm_up(self, recipe):
        self.warmed = recipe

    def ours(self, recipe, **changes):
        assert self.warmed
        if (recipe, changes["seed"]) == getattr(self, "breaks", None):
            raise UserError("stopped")
        self.log.append((recipe, changes["seed"]))
        return run_of(changes["seed"], 1.8, 1.0, 2.0) | {"evaluated": [], "settings": {}}

    def rival(self, what, **options):
        self.log.append(("rival", options["seed"]))
        return run_of(options["seed"], 1.9, 100.0, 110.0)


def test_turns_are_interleaved_and_what_is_done_is_not_done_again(tmp_path):
    out, log = tmp_path / "bench.json", []
    b = Fake(log, out=out)
    b.breaks = ("same-size", 1)
    with pytest.raises(UserError):
        duels.run_duels(b, ["speed", "same-size"])
    first = [("rival", 0), ("speed", 0), ("same-size", 0), ("rival", 1), ("speed", 1)]
    assert log == first
    b.breaks = None
    log.clear()
    duels.run_duels(b, ["speed", "same-size"])
    # The turn that was cut short has a rival of its own again.
    assert log == [("rival", 1), ("same-size", 1), ("rival", 2), ("speed", 2), ("same-size", 2)]
    rows = measure.read_record(out)["rows"]
    assert [p["seed"] for p in rows["same-size"]["pairs"]] == [0, 1, 2]
    assert rows["speed"]["verdicts"] == duels.judge("speed", rows["speed"]["pairs"])
    assert {"versions", "cpu", "threads", "commit", "date"} <= rows["speed"]["machine"].keys()
    log.clear()
    duels.run_duels(b, ["speed", "same-size"])
    assert log == []


def test_turns_of_another_recipe_or_machine_are_not_mixed_in(tmp_path, monkeypatch):
    out, log = tmp_path / "bench.json", []
    duels.run_duels(Fake(log, out=out, seeds=1), ["speed"])
    log.clear()
    duels.run_duels(Fake(log, out=out, seeds=1, threads=3), ["speed"])
    assert log == [("rival", 0), ("speed", 0)]
    monkeypatch.setitem(recipes.RECIPES, "speed", recipes.RECIPES["speed"] | {"d_model": 32})
    log.clear()
    duels.run_duels(Fake(log, out=out, seeds=1, threads=3), ["speed"])
    assert log == [("rival", 0), ("speed", 0)]


def test_a_quick_trial_never_enters_the_committed_record():
    with pytest.raises(UserError, match="quick"):
        run_rows(["ngrams"], quick=True)
    with pytest.raises(UserError, match="got nonsense"):
        run_rows(["nonsense"])


def test_ngrams_predict_every_character_of_the_validation_split(data, tmp_path, monkeypatch):
    from week14.ngram import WittenBell

    b, seen, original = bench.Bench(out=tmp_path / "r.json", data="text"), [], WittenBell.log_probs
    monkeypatch.setattr(b, "prepared", lambda: data, raising=False)
    monkeypatch.setattr(WittenBell, "log_probs", lambda *a: seen.append(original(*a)) or seen[-1])
    duels.run_ngrams(b)
    assert list(map(len, seen)) == [open_data(data).splits["val"].n_tokens] * 2
    lines = measure.read_record(b.out)["rows"]["ngrams"]["lines"]
    assert [line["order"] for line in lines] == [4, 5]
    assert [line["val_loss"] for line in lines] == [-found.mean() for found in seen]


# ---- measuring


def test_rows_are_merged_one_by_one_by_many_writers(tmp_path):
    out = tmp_path / "r.json"

    def write(i):
        for _ in range(4):
            measure.merge(out, f"row-{i}", lambda row: {"n": (row or {"n": 0})["n"] + 1})

    threads = [Thread(target=write, args=(i,)) for i in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert measure.read_record(out)["rows"] == {f"row-{i}": {"n": 4} for i in range(4)}
    with pytest.raises(ValueError, match="JSON"):
        measure.merge(out, "bad", lambda row: {"n": math.nan})
    assert len(measure.read_record(out)["rows"]) == 4
    assert list(tmp_path.iterdir()) == [out]
    out.write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        measure.read_record(out)


CHILD = """
import os, sys, time

def work(threads, a):
    print("chatter")
    time.sleep(0.3)
    cached = not sys.dont_write_bytecode
    return {"omp": os.environ["OMP_NUM_THREADS"], "threads": threads, "a": a, "cached": cached}

def fail(threads):
    raise SystemExit("no such thing")

def vanish(threads):
    os._exit(0)
"""


@pytest.fixture
def on_path(tmp_path, monkeypatch):
    (tmp_path / "measured_child.py").write_text(CHILD, encoding="utf-8")
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    return tmp_path


def test_a_child_is_timed_whole_has_its_threads_and_its_own_peak(on_path, monkeypatch):
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    ballast = np.ones(150_000_000, dtype=np.int8)  # this process's peak must not become the child's
    found = measure.child("measured_child:work", threads=3, a=on_path)
    assert (found["omp"], found["threads"], found["a"]) == ("3", 3, str(on_path))
    assert found["whole_seconds"] > found["inside_seconds"] > 0.3
    assert found["peak_bytes"] < len(ballast)
    assert found["cached"]


def test_a_child_that_fails_is_one_line(on_path):
    with pytest.raises(UserError, match="status 1: no such thing") as caught:
        measure.child("measured_child:fail", threads=1)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="reported nothing"):
        measure.child("measured_child:vanish", threads=1)


# ---- recipes


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_recipes_are_settings_and_never_choose_by_validation_loss(name):
    settings = recipes.settings_of(name)
    assert settings.eval_every == 0
    assert recipes.n_parameters(settings, 65) > 0
    if name in duels.DUELS:
        assert (settings.tokenizer, settings.split) == ("char", "tail")
        assert settings.context == (256 if name == "quality-256" else 64)
        assert settings.max_time is None  # schedules count steps


def test_a_recipe_trains_and_reports_the_loss_of_its_last_step(data):
    tiny = {"n_layers": 1, "d_model": 16, "context": 16, "batch_size": 4, "steps": 4}
    found = recipes.train_recipe("speed", data, threads=1, seed=3, eval_every=2, **tiny)
    assert [step for step, _ in found["evaluated"]] == [2, 4]
    assert found["val_loss"] == found["evaluated"][-1][1]
    assert found["seed"] == 3
    vocab = open_data(data).tokenizer.vocab_size
    config = recipes.settings_of("speed", **tiny).model_config(vocab)
    assert found["n_parameters"] == GPT(config).n_parameters()
    assert found["tokens_per_second"] == pytest.approx(4 * 4 * 16 / found["loop_seconds"])
    json.dumps(found)


# ---- the rival


def test_the_stand_in_has_nanogpts_parameters_and_no_biases():
    model = rival.RivalGPT()
    assert sum(p.numel() for p in model.trained()) == 804_096
    groups = rival.optimizer_for(model).param_groups
    assert sum(p.numel() for g in groups for p in g["params"]) == 804_096
    assert [g["weight_decay"] for g in groups] == [0.1, 0.0]
    assert all(p.ndim == 1 for p in groups[1]["params"])
    assert all(g["betas"] == (0.9, 0.99) for g in groups)
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            assert not p.requires_grad
            assert not p.any()


def test_the_rivals_rate_is_torchs_cosine_after_the_warm_up():
    rates = torch.optim.lr_scheduler
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-3)
    rise = rates.LambdaLR(optimizer, lambda step: (step + 1) / 101)
    fall = rates.CosineAnnealingLR(optimizer, 1900, eta_min=1e-4)
    torchs = rates.SequentialLR(optimizer, [rise, fall], [100])
    for step in range(2000):
        assert rival.learning_rate(step) == pytest.approx(torchs.get_last_lr()[0], rel=1e-6)
        optimizer.step()
        torchs.step()


def small_rival(vocab_size, seed=0, made=rival.RivalGPT):
    return made(vocab_size, context=8, n_layers=1, n_heads=2, d_model=16, seed=seed)


def test_the_uncached_loop_is_the_greedy_text_of_the_cropped_context(monkeypatch):
    model = small_rival(20).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    read, last = [], model.last
    monkeypatch.setattr(model, "last", lambda tokens: read.append(tokens) or last(tokens))
    start = torch.tensor([[1, 2], [7, 3]])
    found = torch.stack(list(rival.generate_uncached(model, start, 14, temperature=1e-4)), 1)
    text = start
    with torch.no_grad():
        for window in read:  # runs far beyond the context of 8
            assert torch.equal(window, text[:, -8:])
            new = model(text[:, -8:])[:, -1].argmax(-1, keepdim=True)
            text = torch.cat([text, new], 1)
    assert torch.equal(found, text[:, 2:])


def test_the_rival_trains(data, monkeypatch):
    monkeypatch.setattr(rival, "RivalGPT", small_rival)
    monkeypatch.setattr(rival, "CONTEXT", 8)
    found = rival.train_rival(data, steps=30, threads=1, eval_every=10)
    assert [step for step, _ in found["evaluated"]] == [10, 20, 30]
    assert found["evaluated"][-1][1] < found["evaluated"][0][1]
    assert rival.train_rival(data, steps=30, threads=1)["val_loss"] == found["val_loss"]


# ---- the ablation


def test_each_ingredient_changes_what_it_says_and_swiglu_is_as_large():
    base = recipes.settings_of("ablation")
    changes = {k: c for i in ablation.INGREDIENTS for k, c in i.alternatives.items()}
    assert len(changes) == sum(len(i.alternatives) for i in ablation.INGREDIENTS)
    assert changes.pop("random") == {"batches": "random"}
    for own in changes.values():
        assert recipes.settings_of("ablation", **own) != base
    assert changes["swiglu"]["d_ff"] == 171
    swiglu = recipes.settings_of("ablation", **changes["swiglu"])
    sizes = [recipes.n_parameters(settings, 65) for settings in (swiglu, base)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.005)


def test_random_batches_are_a_function_of_seed_and_step_and_differ(data):
    split = open_data(data).splits["train"]
    options = {"context": 16, "batch_size": 8}
    drawn = ablation.RandomBatches(split, seed=1, **options)
    again = ablation.RandomBatches(split, seed=1, **options)
    again(7)
    assert torch.equal(drawn(3).inputs, again(3).inputs)
    assert torch.equal(drawn(3).inputs[:, 1:], drawn(3).targets[:, :-1])
    assert not torch.equal(drawn(3).inputs, drawn(4).inputs)
    assert not torch.equal(drawn(3).inputs, Batches(split, seed=1, **options)(3).inputs)
    with ablation.changed(batches="random"):
        assert state.Batches is ablation.RandomBatches
    assert state.Batches is Batches


def test_jobs_are_resumed_one_by_one_and_never_see_the_validation_text(data, tmp_path, monkeypatch):
    out, done = tmp_path / "ablation.json", []
    source = tmp_path / "text.txt"
    source.write_text("a" * 900 + "b" * 90 + "V" * 110, encoding="utf-8")

    def job(folder, seed, changes, *, threads):
        prepared = open_data(folder)
        for split in prepared.splits.values():
            assert "V" not in prepared.tokenizer.decode(split.read(0, split.n_tokens))
        if len(done) == 5 and not out.with_suffix(".stop").exists():
            out.with_suffix(".stop").touch()
            raise KeyboardInterrupt
        done.append(seed)
        return {"val_loss": 1.5 + seed, "n_parameters": 1, "steps": 2, "loop_seconds": 1.0}

    monkeypatch.setattr(ablation, "run_job", job)
    options = {"out": out, "source": source, "threads": 1}
    with pytest.raises(KeyboardInterrupt):
        ablation.ablate(**options)
    record = ablation.ablate(**options)
    labels = ["base", *(label for i in ablation.INGREDIENTS for label in i.alternatives)]
    assert {*record["rows"]} == {f"{label}/{seed}" for label in labels for seed in range(3)}
    assert len(done) == 3 * len(labels)
    ablation.ablate(**options, steps=5)  # another base: all of it again
    assert len(done) == 6 * len(labels)


def ablation_record():
    rng, rows = np.random.default_rng(0), {}
    shift = {"base": 0.0, "learned": 0.1, "adamw-0.003": 0.3, "adamw-0.006": 0.05}
    shift["adamw-0.012"] = 0.2
    for seed in range(4):
        common = rng.normal()
        for label, by in shift.items():
            loss = 2 + common + by + 0.01 * rng.normal()
            row = {"label": label, "seed": seed, "val_loss": loss, "n_parameters": 7}
            rows[f"{label}/{seed}"] = row
    return {"rows": rows}


def test_effects_are_paired_and_the_best_alternative_counts():
    from scipy.stats import ttest_rel

    record = ablation_record()
    found = {effect.label: effect for effect in ablation.effects(record)}
    assert found.keys() == {"learned", "adamw-0.006"}
    losses = {
        label: [record["rows"][f"{label}/{seed}"]["val_loss"] for seed in range(4)]
        for label in ("learned", "base")
    }
    interval = ttest_rel(losses["learned"], losses["base"]).confidence_interval()
    change = found["learned"].change
    assert (change.low, change.high) == pytest.approx((interval.low, interval.high))
    assert change.mean > 0  # the loss is higher without


# ---- the curve's asymptote


@given(st.floats(0.5, 4), st.floats(0.5, 3), st.floats(0.15, 1.5))
def test_the_fit_finds_a_planted_curve(E, share, alpha):
    step = np.arange(50.0, 2000, 50)
    planted = wikipedia.Curve(E, share * 50**alpha, alpha)
    found = wikipedia.fit_curve(step, planted(step))
    assert abs(found.E - E) < 0.02
    assert found.alpha == pytest.approx(alpha, rel=0.05)


def test_the_asymptotes_interval_covers_what_was_planted_and_says_when_it_is_vague():
    step = np.arange(100.0, 2000, 40)
    planted = wikipedia.Curve(3.0, 20.0, 0.6)
    rng, hits, widths = np.random.default_rng(0), 0, []
    for _ in range(12):
        noise = rng.normal(0, 0.01, (3, len(step)))
        _, interval = wikipedia.asymptote(step, planted(step) + noise, rng=rng, n_resamples=60)
        hits += interval.low <= 3.0 <= interval.high
        widths.append(interval.high - interval.low)
    assert hits >= 8
    assert 0 < np.mean(widths) < 0.5


def test_the_fit_refuses_what_it_cannot_fit_and_bears_a_flat_curve():
    with pytest.raises(ValueError, match="4 pairs"):
        wikipedia.fit_curve(np.ones(3), np.ones(3))
    flat = wikipedia.fit_curve(np.arange(1.0, 9), np.full(8, 2.0))
    assert flat(np.array([100.0])) == pytest.approx(2.0)
    with pytest.raises(UserError, match="evaluate more often"):
        wikipedia.stable_part([(10, 1.0)], 100, 0)
    evaluated = [(i, 5 - i / 100) for i in range(5, 101, 5)]
    step, _ = wikipedia.stable_part(evaluated, 100, 20)
    assert (step.min(), step.max()) == (20, 80)


def test_a_small_wikipedia_run_is_recorded_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [json.dumps({"text": f"{i} {TEXT[i % 45 :][: 200 + i]}"}) for i in range(60)]
    (tmp_path / "text.jsonl").write_text("\n".join(lines), encoding="utf-8")
    said = []
    b = bench.Bench(
        out=tmp_path / "bench.json", quick=True, quick_steps=40, threads=1, say=said.append
    )
    sizes = {"n_layers": 1, "d_model": 16, "context": 8, "batch_size": 2, "val_fraction": 0.3}
    options = {"source": tmp_path / "text.jsonl", "evaluations": 20, **sizes}
    wikipedia.run_wikipedia(b, "wikipedia-small", **options)
    row = measure.read_record(tmp_path / "wikipedia.json")["rows"]["wikipedia-small"]
    assert row["fit"]["steps"] == [4, 32]
    assert len(row["evaluated"]) == 20
    assert any("asymptote" in line for line in said)
    before = (tmp_path / "runs").rglob("log.jsonl")
    logs = {path: path.read_bytes() for path in before}
    wikipedia.run_wikipedia(b, "wikipedia-small", **options)  # it was finished
    assert {path: path.read_bytes() for path in logs} == logs
    both = {"rows": {name: row | {"title": name} for name in ("wikipedia", "wikipedia-small")}}
    text = wikipedia.render(both)
    assert text.splitlines()[0] == "| | wikipedia | wikipedia-small |"
    assert {line.count(" | ") for line in text.splitlines()[1:-1]} == {2}
