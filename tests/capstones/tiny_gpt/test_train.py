"""Training: it learns, it is the same in pieces, resumed or interrupted, and it loses nothing."""

import hashlib
import json
import math
import os
import shutil
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shared.artifacts import TENSORS, ArtifactError
from shared.errors import UserError
from shared.tensors import unpack
from tiny_gpt.data.batches import Batches
from tiny_gpt.data.prepare import prepare
from tiny_gpt.data.shards import open_data
from tiny_gpt.model.gpt import GPT
from tiny_gpt.settings import PRESETS, Settings, seconds_of
from tiny_gpt.training import checkpoints, precision, state, stopping, train
from tiny_gpt.training.checkpoints import load_checkpoint
from tiny_gpt.training.optimizers import Guard, learning_rate
from tiny_gpt.training.precision import loss_sum, precision_for
from tiny_gpt.training.train import Diverged, Listener
from week16.loss_scaling import LossScaler

WORDS = ["the", "cat", "saw", "a", "dog", "and", "it", "sat", "on", "mat", "while", "we", "ran"]
SIZES = {"n_layers": 1, "n_heads": 2, "d_model": 16, "context": 8, "batch_size": 4, "steps": 12}
PLAIN = {"dtype": "fp32", "device": "cpu", "compile": "off", "samples": 0}
SMALL = Settings(**SIZES, **PLAIN, eval_every=5, save_every=1, keep=100)


def sentence(n: int, seed: int) -> str:
    generator = torch.Generator().manual_seed(seed)
    return " ".join(WORDS[i] for i in torch.randint(len(WORDS), (n,), generator=generator))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def data(folder):
    """One text of characters."""
    (folder / "text.txt").write_text(sentence(1500, 0))
    prepare(folder / "text.txt", folder / "char", tokenizer="char", split="tail", workers=1)
    return open_data(folder / "char")


@pytest.fixture(scope="module")
def documents(folder):
    """Documents of very unequal lengths."""
    lines = [json.dumps({"text": sentence(1 + 7 * (i % 5), i)}) for i in range(60)]
    (folder / "documents.jsonl").write_text("\n".join(lines))
    options = {"tokenizer": "byte", "dedup": "off", "workers": 1}
    prepare(folder / "documents.jsonl", folder / "documents", **options)
    return open_data(folder / "documents")


def log_of(run) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def steps_of(run) -> list[dict]:
    return [line for line in log_of(run) if "loss" in line]


def digests(run, step: int = 12) -> dict[str, str]:
    """Of everything that a resumed run must have in common with a straight one."""
    files = [run / "log.jsonl"]
    for folder in (checkpoints.folder_of(run, step), run / "best"):
        # Not the manifest, which holds the command line.
        files += [folder / name for name in ("tensors.safetensors", "state.json", "config.json")]
    return {
        str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def interrupted_after(run, step: int, to) -> None:
    """A copy of a run as it was when it had saved a step, its log running on."""
    shutil.copytree(run, to)
    for other in checkpoints.steps_saved(to):
        if other > step:
            shutil.rmtree(checkpoints.folder_of(to, other))
    if load_checkpoint(run / "best").step > step:
        shutil.rmtree(to / "best")


# ---- it trains


def test_loss_falls_and_without_a_signal_it_does_not(data, tmp_path, monkeypatch):
    sizes = {"d_model": 32, "context": 16, "batch_size": 16, "steps": 80, "eval_every": 0}

    class Shuffled(state.Batches):
        def __call__(self, step):
            batch = super().__call__(step)
            generator = torch.Generator().manual_seed(step)
            order = torch.randperm(batch.targets.numel(), generator=generator)
            return batch._replace(targets=batch.targets.flatten()[order].view_as(batch.targets))

    losses = {}
    for name, batches in (("real", state.Batches), ("shuffled", Shuffled)):
        monkeypatch.setattr(state, "Batches", batches)
        train.train(data, replace(SMALL, **sizes, save_every=0, out=tmp_path / name))
        losses[name] = torch.tensor([x["loss"] for x in steps_of(tmp_path / name)])
    counts = torch.bincount(torch.from_numpy(data.splits["train"].read(0, 5000))).double()
    p = counts[counts > 0] / counts.sum()
    entropy = float(-(p * p.log()).sum())  # what frequencies alone would give
    first, last = losses["real"][0], losses["real"][-16:]
    assert first == pytest.approx(math.log(data.tokenizer.vocab_size), abs=1e-5)  # zero head
    assert last.mean() < 0.6 * entropy
    assert losses["shuffled"][-16:].mean() > 0.97 * entropy


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("arch", ["modern", "gpt2"])
def test_micro_batches_equal_one_batch(arch, mask, documents, tmp_path):
    base = replace(SMALL, arch=arch, context=16, batch_size=8, packing="bestfit", clip=0.5)
    base = replace(base, document_mask=mask, eval_every=0, save_every=0, steps=10)
    if arch == "gpt2":  # keys' biases have no gradient but rounding, of which Adam makes steps
        base = replace(base, optimizer="adamw", bias=False, lr=1e-3)
    weights = {}
    for size in (None, 1, 3):
        out = tmp_path / str(size)
        train.train(documents, replace(base, micro_batch_size=size, out=out))
        weights[size] = load_checkpoint(out).model.state_dict()
        assert min(line["tokens"] for line in steps_of(out)) < 8 * 16  # padding is no token
        for ours, whole in zip(steps_of(out), steps_of(tmp_path / "None"), strict=True):
            assert ours == pytest.approx(whole, rel=2e-6)
    for size in (1, 3):
        for name, value in weights[None].items():
            torch.testing.assert_close(weights[size][name], value, rtol=0, atol=1e-6)


# ---- resume

ADAMW = replace(SMALL, arch="gpt2", optimizer="adamw", lr=1e-2, weight_decay=0.1, clip=0.5)
CASES = {
    "muon": SMALL,
    "adamw": replace(ADAMW, schedule="cosine", warmup_steps=3, micro_batch_size=3),
    "dropout": replace(SMALL, dropout=0.3, schedule="wsd"),
    "fp16": replace(SMALL, dtype="fp16", clip=0.3),
    "guard": replace(SMALL, spike_factor=1.01, steps=30, eval_every=8),
}


@pytest.fixture
def quick_scaler(monkeypatch):
    """Loss scaling that grows every three steps and overflows at once."""
    scaler = partial(LossScaler, 2.0**20, growth_interval=3)
    monkeypatch.setattr(state, "LossScaler", scaler)


@pytest.mark.parametrize("case", CASES)
def test_resumed_at_any_step_gives_the_same_bytes(case, data, tmp_path, quick_scaler):
    settings = CASES[case]
    straight = tmp_path / "straight"
    train.train(data, replace(settings, out=straight))
    expected = digests(straight, settings.steps)
    lines = steps_of(straight)
    if case == "guard":
        assert {line.get("skipped") for line in lines[16:]} == {None, "spike"}
    if case == "fp16":
        assert len({line["scale"] for line in lines}) > 2
        assert lines[0]["skipped"] == "nan"
    first = 1 if settings.steps == 12 else 15  # before that the guard only collects
    saved = [step for step in checkpoints.steps_saved(straight) if first <= step]
    # All steps but the last, and but those at which gradients were refused.
    refused = [line["step"] for line in lines[first - 1 :] if "skipped" in line]
    assert {*saved, *refused} == {*range(first, settings.steps + 1)}
    for step in saved[: -1 : 1 if case == "muon" else 3]:
        out = tmp_path / str(step)
        interrupted_after(straight, step, out)
        outcome = train.train(data, replace(settings, out=out, resume="must", save_every=0))
        assert outcome.finished
        assert outcome.step == settings.steps
        assert digests(out, settings.steps) == expected, step


def test_saving_and_a_finished_run_change_nothing(data, tmp_path):
    often, never = replace(SMALL, out=tmp_path / "a"), replace(SMALL, out=tmp_path / "b")
    train.train(data, often)
    train.train(data, replace(never, save_every=0))
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    before, said = digests(tmp_path / "a"), []
    outcome = train.train(data, often, Listener(say=said.append))
    assert outcome.finished
    assert any("it was finished" in line for line in said)
    assert digests(tmp_path / "a") == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_after_the_step_and_the_run_goes_on(number, data, tmp_path):
    settings = replace(SMALL, save_every=0)
    train.train(data, replace(settings, out=tmp_path / "straight"))
    settings = replace(settings, out=tmp_path / "run")
    handler = signal.getsignal(number)

    def kill(step, loss, speed):
        if step in (5, 9):
            os.kill(os.getpid(), number)

    for step in (5, 9):
        outcome = train.train(data, settings, Listener(step=kill))
        assert (outcome.step, outcome.finished) == (step, False)
        assert load_checkpoint(checkpoints.folder_of(tmp_path / "run", step)).step == step
    assert train.train(data, settings, Listener(step=kill)).finished
    assert signal.getsignal(number) is handler
    assert digests(tmp_path / "run") == digests(tmp_path / "straight")


def test_a_second_ctrl_c_does_not_wait(data, tmp_path):
    def kill(step, loss, speed):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train.train(data, replace(SMALL, out=tmp_path / "run"), Listener(step=kill))


def test_max_time(data, tmp_path, monkeypatch):
    train.train(data, replace(SMALL, out=tmp_path / "straight"))
    settings = replace(SMALL, out=tmp_path / "run", max_time="60s")
    clock = [0.0]
    monkeypatch.setattr(stopping.time, "monotonic", lambda: clock[0])

    def hurry(step, loss, speed):
        clock[0] += 10

    assert train.train(data, settings, Listener(step=hurry)).step == 6
    assert train.train(data, settings, Listener(step=hurry)).step == 12
    assert digests(tmp_path / "run") == digests(tmp_path / "straight")
    none = replace(settings, out=tmp_path / "none", max_time="0")
    assert not train.train(data, none).finished
    assert train.train(data, replace(none, max_time=None, resume="must")).finished
    assert digests(tmp_path / "none") == digests(tmp_path / "straight")


OTHERS = {"lr": 0.5, "steps": 13, "d_model": 32, "seed": 1, "batch_size": 5, "dropout": 0.1}
OTHERS |= {"optimizer": "adamw", "eval_every": 4, "dtype": "bf16", "clip": 1.0}
OTHERS |= {"arch": "llama", "document_mask": True}


@pytest.mark.parametrize("name", OTHERS)
def test_other_settings_are_refused_by_name(name, data, tmp_path):
    settings = replace(SMALL, out=tmp_path / "run", steps=2)
    train.train(data, settings)
    before = digests(tmp_path / "run", 2)
    with pytest.raises(UserError, match=rf"^{name} = .* does not fit .* choose another --out"):
        train.train(data, replace(settings, **{name: OTHERS[name]}))
    assert digests(tmp_path / "run", 2) == before


def test_other_data_is_refused(data, folder, tmp_path):
    settings = replace(SMALL, out=tmp_path / "run", max_time="0")
    train.train(data, settings)
    for text, what in ((sentence(1500, 0)[::-1], "data"), ("xyz" * 900, "tokenizer")):
        (tmp_path / "text.txt").write_text(text)
        target = tmp_path / what
        prepare(tmp_path / "text.txt", target, tokenizer="char", split="tail", workers=1)
        with pytest.raises(UserError, match=f"the {what} differs"):
            train.train(open_data(target), settings)


def test_resume_never_and_must(data, tmp_path):
    settings = replace(SMALL, out=tmp_path / "run", steps=2)
    with pytest.raises(UserError, match="holds none"):
        train.train(data, replace(settings, resume="must"))
    train.train(data, replace(settings, resume="never"))
    with pytest.raises(UserError, match="holds a run already"):
        train.train(data, replace(settings, resume="never"))


def test_a_run_that_saved_only_its_best_goes_on_from_it(data, tmp_path):
    train.train(data, replace(SMALL, out=tmp_path / "straight"))
    run, settings = tmp_path / "run", replace(SMALL, out=tmp_path / "run", save_every=0)

    def kill(step, loss, speed):
        if step == 7:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train.train(data, settings, Listener(step=kill))
    assert not checkpoints.steps_saved(run)
    assert load_checkpoint(run).step == 5
    said = []
    # What does not change the numbers may be chosen anew.
    free = replace(settings, resume="must", keep=3, threads=2, dtype="auto", compile="auto")
    train.train(data, free, Listener(say=said.append))
    assert any("resumed at step 5 of 12" in line for line in said)
    assert digests(run) == digests(tmp_path / "straight")


def test_one_run_has_one_writer(data, tmp_path):
    settings = replace(SMALL, out=tmp_path / "run")

    def again(step, loss, speed):
        with pytest.raises(UserError, match="trained by another process"):
            train.train(data, settings)

    train.train(data, replace(settings, steps=1), Listener(step=again))


def test_torn_settings_and_logs_are_named(data, tmp_path):
    settings = replace(SMALL, out=tmp_path / "run", steps=2)
    train.train(data, settings)
    path, log = tmp_path / "run" / "settings.toml", tmp_path / "run" / "log.jsonl"
    text, torn = path.read_text(), r"settings\.toml was altered or is torn"
    for file, content, message in (
        (path, text.replace("n-heads", "n-hats"), torn),
        (path, text[:-3], torn),
        (path, text.replace("= 4", "= 'x'"), torn),
        (log, "", r"log\.jsonl has 0 bytes, fewer than"),
        (path, None, r"settings\.toml cannot be read"),
    ):
        path.write_text(text)
        file.unlink() if content is None else file.write_text(content)
        with pytest.raises(ArtifactError, match=message):
            train.train(data, settings)


# ---- what must not be applied, and what must not be lost


def nan_losses(monkeypatch, bad):
    """Losses of NaN at the steps for which `bad` says so."""
    calls = [0]

    def poisoned(*args):
        total, n = loss_sum(*args)
        calls[0] += 1
        return (total * math.nan if bad(calls[0]) else total), n

    monkeypatch.setattr(train, "loss_sum", poisoned)


def test_a_nan_is_skipped(data, tmp_path, monkeypatch):
    nan_losses(monkeypatch, lambda step: step in (6, 7))
    train.train(data, replace(SMALL, out=tmp_path / "run", eval_every=0))
    lines = steps_of(tmp_path / "run")
    assert [line["step"] for line in lines if line.get("skipped") == "nan"] == [6, 7]
    assert lines[5]["loss"] == "nan"
    saved = checkpoints.steps_saved(tmp_path / "run")
    assert saved == [1, 2, 3, 4, 5, 8, 9, 10, 11, 12]  # nothing while steps are refused
    assert math.isfinite(lines[-1]["loss"])


def test_divergence_stops_and_leaves_the_last_good_checkpoint(data, tmp_path, monkeypatch):
    straight, run = tmp_path / "straight", tmp_path / "run"
    train.train(data, replace(SMALL, out=straight, steps=60, eval_every=0))
    nan_losses(monkeypatch, lambda step: step > 6)
    settings = replace(SMALL, out=run, steps=60, eval_every=0, save_every=2, keep=1)
    message = r"20 steps in a row .* step 26; .* checkpoint of step 6 stay"
    with pytest.raises(Diverged, match=message):
        train.train(data, settings)
    good = load_checkpoint(run)
    assert good.step == 6
    reference = load_checkpoint(checkpoints.folder_of(straight, 6))
    for p, q in zip(good.model.parameters(), reference.model.parameters(), strict=True):
        assert torch.equal(p, q)
    assert Diverged.status == 1


def test_weights_that_are_not_finite_are_not_saved(data, tmp_path):
    run = tmp_path / "run"
    settings = replace(SMALL, out=run, arch="gpt2", optimizer="adamw", lr=1e300, save_every=1)
    with pytest.raises(Diverged, match="weights of step 1 are not finite and are not saved"):
        train.train(data, settings)
    assert not checkpoints.steps_saved(run)


def scripted(monkeypatch, losses):
    """Validation losses in turn."""
    results = (
        SimpleNamespace(nats_per_token=loss, bits_per_byte=SimpleNamespace(mean=loss))
        for loss in losses
    )
    monkeypatch.setattr(train, "evaluate", lambda *args, **options: next(results))


def test_the_best_is_kept_when_validation_gets_worse(data, tmp_path, monkeypatch):
    run = tmp_path / "run"
    settings = replace(SMALL, out=run, eval_every=2, save_every=2, keep=1)
    scripted(monkeypatch, [3.0, 2.0, 2.5, 2.2])
    train.train(data, replace(settings, max_time="100s"), Listener(step=stop_at(8)))
    assert load_checkpoint(run).step == 4
    scripted(monkeypatch, [2.4, 2.1])
    outcome = train.train(data, settings)
    assert outcome.best_loss == 2.0
    best = load_checkpoint(run)
    assert best.path == run / "best"
    assert best.step == 4
    assert best.state["best_loss"] == 2.0
    assert checkpoints.steps_saved(run) == [12]


def stop_at(last):
    def stop(step, loss, speed):
        if step == last:
            os.kill(os.getpid(), signal.SIGTERM)

    return stop


def test_prune_keeps_the_last_and_clears_what_crashes_left(data, tmp_path):
    run = tmp_path / "run"
    train.train(data, replace(SMALL, out=run, keep=3))
    assert checkpoints.steps_saved(run) == [10, 11, 12]
    folder = run / "checkpoints"
    shutil.copytree(folder / "step-00000012", folder / ".step-00000004.saving")
    shutil.copytree(folder / "step-00000012", folder / ".step-00000005.removing")
    (folder / "step-00000011").rename(folder / ".step-00000011.previous")
    assert checkpoints.steps_saved(run) == [10, 11, 12]
    assert load_checkpoint(folder / "step-00000011").step == 11
    checkpoints.prune(run, 1)
    assert [path.name for path in folder.iterdir()] == ["step-00000012"]
    checkpoints.prune(run, 1)
    assert checkpoints.steps_saved(run) == [12]


def test_find_checkpoint(data, tmp_path):
    run = tmp_path / "best"  # a run may be called that
    train.train(data, replace(SMALL, out=run))
    find = checkpoints.find_checkpoint
    assert find(run) == run / "best"
    assert find(run, last=True) == run / "checkpoints" / "step-00000012"
    assert find(run / "best") == run / "best"
    (run / "best").rename(run / ".best.previous")
    assert load_checkpoint(run).path == run / "best"
    shutil.rmtree(run / ".best.previous")
    assert find(run) == run / "checkpoints" / "step-00000012"
    with pytest.raises(ArtifactError, match="there is no checkpoint in"):
        find(tmp_path / "nothing")


@pytest.mark.parametrize("arch", ["gpt2", "llama", "modern"])
def test_a_checkpoint_is_the_model(arch, data, tmp_path):
    settings = replace(SMALL, arch=arch, out=tmp_path / "run", steps=3, eval_every=0)
    train.train(data, settings)
    saved = load_checkpoint(tmp_path / "run")
    again = tmp_path / "again"
    checkpoints.save_checkpoint(
        again, saved.model, saved.tokenizer, 3, tensors=saved.tensors, state=saved.state
    )
    copy = load_checkpoint(again)
    tokens = torch.arange(8)[None] % data.tokenizer.vocab_size
    assert torch.equal(saved.model(tokens), copy.model(tokens))
    stored = unpack((again / "tensors.safetensors").read_bytes())
    assert "model.blocks.0.out.weight" in stored  # as runs have it that were begun earlier
    assert copy.state == saved.state
    assert copy.tensors.keys() == saved.tensors.keys()
    assert (copy.model.head.weight is copy.model.embed.weight) == (arch == "gpt2")
    assert copy.model.n_parameters() == saved.model.n_parameters()


# ---- precision, rates, the guard, settings


def test_half_precision_follows_single(data, tmp_path, monkeypatch):
    """Norms are those of unscaled gradients, so a clip means the same in every format."""
    monkeypatch.setattr(state, "LossScaler", partial(LossScaler, 2.0**8))
    curves = {}
    for dtype in ("fp32", "fp16", "bf16"):
        out = tmp_path / dtype
        train.train(data, replace(SMALL, out=out, dtype=dtype, clip=0.05, steps=10, eval_every=0))
        curves[dtype] = [(x["loss"], x["grad_norm"]) for x in steps_of(out)]
        assert load_checkpoint(out).model.embed.weight.dtype == torch.float32
    exact = torch.tensor(curves["fp32"])
    torch.testing.assert_close(torch.tensor(curves["fp16"]), exact, rtol=5e-3, atol=5e-3)
    torch.testing.assert_close(torch.tensor(curves["bf16"]), exact, rtol=5e-2, atol=5e-2)


def test_auto_precision_says_why_and_leaves_no_gradient(data, tmp_path):
    said = []
    settings = replace(SMALL, out=tmp_path / "run", dtype="auto", steps=1)
    train.train(data, settings, Listener(say=said.append))
    assert any("precision" in line and "float32's time in" in line for line in said)
    assert Settings.of_run(tmp_path / "run").dtype in ("fp32", "bf16", "fp16")
    model = state.GPT(settings.model_config(data.tokenizer.vocab_size))
    batch = state.Batches(data.splits["train"], context=8, batch_size=4, seed=0)(0)
    precision_for("auto", model, batch, torch.device("cpu"))
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("product", "step", "steps_timed", "dtype"),
    [
        (2.0, 0.5, 0, torch.float32),
        (0.9, 2.0, 8, torch.float32),
        (0.9, 0.5, 8, torch.bfloat16),
    ],
)
def test_auto_precision_times_steps_only_where_products_gain(
    product, step, steps_timed, dtype, data, monkeypatch
):
    """Seconds of bfloat16 where float32 takes one; a gain of the product alone decides nothing."""
    clock, timed = [0.0], []

    def pretended(model, batch, device, dtype):
        timed.append(dtype)
        clock[0] += 1.0 if dtype == torch.float32 else step
        return torch.zeros((), requires_grad=True), 1

    def probed(device, dtype):
        return 1.0 if dtype == torch.float32 else product

    choose = precision.choose_precision

    def chosen(device, measure=probed, **options):
        return choose(device, measure=measure, **options)

    monkeypatch.setattr(precision, "loss_sum", pretended)
    monkeypatch.setattr(precision, "choose_precision", chosen)
    monkeypatch.setattr(precision.time, "perf_counter", lambda: clock[0])
    batch = state.Batches(data.splits["train"], context=8, batch_size=4, seed=0)(0)
    found = precision_for("auto", torch.nn.Linear(1, 1), batch, torch.device("cpu"))
    assert found.dtype == dtype
    assert len(timed) == steps_timed


@given(
    warmup=st.integers(0, 5),
    steps=st.integers(7, 40),
    schedule=st.sampled_from(["linear", "cosine", "constant", "wsd"]),
)
def test_rates_are_those_of_torch(warmup, steps, schedule):
    names = {"steps": steps, "warmup_steps": warmup, "schedule": schedule, "final_lr": 0.1}
    settings, final = Settings(**names), 0.1
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    torch_, flat = torch.optim.lr_scheduler, max(warmup, steps - max(1, steps // 5))
    begin = flat if schedule == "wsd" else warmup
    rise = torch_.LambdaLR(optimizer, lambda step: min(1, (step + 1) / max(1, warmup)))
    fall = {
        "cosine": lambda: torch_.CosineAnnealingLR(optimizer, steps - begin, eta_min=final),
        "constant": lambda: torch_.ConstantLR(optimizer, 1.0),
    }.get(schedule, lambda: torch_.LinearLR(optimizer, 1.0, final, total_iters=steps - begin))()
    scheduler = torch_.SequentialLR(optimizer, [rise, fall], [begin]) if begin else fall
    for step in range(steps):
        assert learning_rate(settings, step) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-6)
        optimizer.step()
        scheduler.step()


def test_the_log_holds_the_rate_that_was_used(data, tmp_path):
    settings = replace(SMALL, out=tmp_path / "run", lr=0.5, warmup_steps=2, steps=6, arch="gpt2")
    train.train(data, replace(settings, optimizer="adamw", eval_every=0))
    lines = steps_of(tmp_path / "run")
    assert [x["lr"] for x in lines] == pytest.approx([0.25, 0.5, 0.5, 0.375, 0.25, 0.125])
    # Adam's first step is as long as the rate, nearly.
    first = load_checkpoint(checkpoints.folder_of(tmp_path / "run", 1)).model
    start = state.GPT(
        settings.model_config(data.tokenizer.vocab_size), torch.Generator().manual_seed(0)
    )
    moved = (first.head.weight - start.head.weight).abs().max()
    assert float(moved) == pytest.approx(0.25, rel=1e-3)


def test_the_guard_learns_what_is_usual():
    guard = Guard(3.0)
    assert [guard.judge(1.0, norm) for norm in [1.0] * 15 + [50.0]] == [None] * 16
    assert guard.judge(1.0, 3.1) == "spike"
    assert guard.judge(1.0, 2.9) is None
    assert guard.judge(math.nan, 1.0) == "nan"
    assert guard.judge(1.0, math.inf) == "nan"
    assert guard.refused == 2
    other = Guard(3.0)
    other.load_state(json.loads(json.dumps(guard.state())))
    assert [other.judge(1.0, 9.0) for _ in range(18)] == ["spike"] * 18
    assert other.exhausted
    assert not guard.exhausted
    calm = Guard(0.0)
    assert [calm.judge(1.0, 10.0**n) for n in range(40)] == [None] * 40


@given(st.integers(1, 8), st.floats(0, 1e3), st.text(max_size=8), st.booleans())
def test_settings_survive_their_file(n, rate, text, flag):
    settings = replace(SMALL, n_layers=n, lr=rate, data=text, document_mask=flag, dtype="auto")
    assert Settings.from_toml(settings.to_toml()) == settings


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_settings(preset):
    Settings(**PRESETS[preset]).model_config(1000)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": -1e-9}, "lr must be at least 0"),
        ({"matrix_lr": math.inf}, "matrix_lr must be at least 0, got inf"),
        ({"momentum": 1.0}, "momentum must lie in"),
        ({"spike_factor": math.nan}, "spike_factor must be at least 0, got nan"),
        ({"spike_factor": 1.0}, "spike_factor must be above 1"),
        ({"final_lr": 1.001}, "final_lr must be a share of the peak"),
        ({"out": Path("\udcff")}, "out must be a name in UTF-8"),
        ({"clip": math.nan}, "clip must be at least 0, got nan"),
        ({"val_fraction": 1.0}, "val_fraction must be between 0 and 1, got 1"),
        ({"warmup_steps": 600}, "warmup_steps must be below steps = 600, got 600"),
        ({"final_lr": 2.0}, "final_lr must be a share of the peak"),
        ({"spike_factor": 0.5}, "spike_factor must be above 1"),
        ({"arch": "gpt2", "zero_head": True}, "zero_head must be off"),
        ({"dropout": 1.0}, "dropout must be in"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_wrong_settings(change, message):
    with pytest.raises(ValueError, match=message):
        Settings(**change)


def test_settings_at_their_limits():
    zero = dict.fromkeys(("lr", "matrix_lr", "weight_decay", "final_lr", "clip"), 0.0)
    Settings(**zero, spike_factor=0.0, warmup_steps=0)
    Settings(final_lr=1.0, spike_factor=1.001, warmup_steps=599, steps=600)


def test_a_tied_head_does_not_start_at_zero():
    assert not Settings(tied=True).model_config(9).zero_head
    for name in ("mix_previous", "qk_norm", "bias"):
        for flag in (True, False):
            assert getattr(Settings(**{name: flag}).model_config(9), name) is flag
    assert Settings(dropout=0.25).model_config(9).dropout == 0.25


def test_the_least_memory_is_nearly_the_weights():
    settings = Settings(d_model=512, n_heads=4, batch_size=3, context=5)
    n = sum(p.numel() for p in GPT(settings.model_config(65)).parameters())
    assert 0.9 * 4 * n < settings.least_memory(65) - 80_000 - 16 * 15 <= 4 * n


def test_durations():
    durations = ("90", "90s", "3m", "1.5h", " 2 m ", "0")
    assert [seconds_of(x) for x in durations] == [90, 90, 180, 5400, 120, 0]


def test_too_little_data_is_told_before_training(tmp_path, data):
    settings = replace(SMALL, out=tmp_path / "run")
    empty = replace(data, splits={"train": data.splits["train"]})
    with pytest.raises(UserError, match="must have 2 tokens of val or more, got 0"):
        train.train(empty, settings)
    with pytest.raises(ValueError, match="must have at least context"):
        train.train(data, replace(settings, context=100_000))
    assert not (tmp_path / "run" / "settings.toml").exists()


def test_memory_that_runs_out_halves_the_pieces(data, tmp_path, monkeypatch):
    settings = replace(SMALL, dropout=0.2, eval_every=0)
    train.train(data, replace(settings, micro_batch_size=1, out=tmp_path / "one"))

    def hungry(model, batch, *args):
        total, n = loss_sum(model, batch, *args)
        if len(batch.inputs) > 1:
            raise torch.OutOfMemoryError
        return total, n

    monkeypatch.setattr(train, "loss_sum", hungry)
    said = []
    train.train(data, replace(settings, out=tmp_path / "halved"), Listener(say=said.append))
    halved, one = ([x["loss"] for x in steps_of(tmp_path / name)] for name in ("halved", "one"))
    assert halved == one  # dropout's masks start again with each attempt
    assert sum("memory ran out" in line for line in said) == 2
    assert Settings.of_run(tmp_path / "halved").micro_batch_size is None


def test_a_step_without_a_target_weighs_nothing(data, tmp_path, monkeypatch):
    """Of six steps the fourth has none: the weights are those of the other five."""
    whole, empty = Batches.__call__, [3]

    def some(self, step):
        batch = whole(self, step)
        return batch._replace(targets=batch.targets * 0 - 100) if step in empty else batch

    monkeypatch.setattr(Batches, "__call__", some)
    settings = replace(SMALL, steps=6, schedule="constant", micro_batch_size=2)
    ends = []
    for steps in (4, 3):
        run = tmp_path / str(steps)
        assert train.train(data, replace(settings, out=run, steps=steps)).finished
        ends.append(unpack((checkpoints.folder_of(run, steps) / TENSORS).read_bytes()))
    assert all(torch.equal(p, ends[1][name]) for name, p in ends[0].items())
    assert steps_of(tmp_path / "4")[3]["skipped"] == "no target"
    assert steps_of(tmp_path / "4")[3]["tokens"] == 0
    assert len(train.training_losses(data, settings)) == 5


def test_a_linked_tensorboard_folder_is_not_followed(data, tmp_path):
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    elsewhere.mkdir()
    run.mkdir()
    (run / "tensorboard").symlink_to(elsewhere)
    (run / ".lock").touch()
    with pytest.raises(UserError, match="tensorboard is a link"):
        train.train(data, replace(SMALL, out=run, tensorboard=True))
    assert not list(elsewhere.iterdir())


def test_steps_done_again_replace_the_old_ones_in_tensorboard(data, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = replace(SMALL, out=tmp_path, tensorboard=True)
    train.train(data, settings)
    for step in range(6, 13):
        shutil.rmtree(checkpoints.folder_of(tmp_path, step))
    train.train(data, settings)
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert [event.step for event in found.Scalars("loss")] == list(range(1, 13))
