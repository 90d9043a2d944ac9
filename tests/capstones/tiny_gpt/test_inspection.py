"""What a folder is said to hold is what it holds, and no damaged byte goes unseen."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from shared.errors import UserError
from tiny_gpt.data.prepare import prepare
from tiny_gpt.data.shards import open_data
from tiny_gpt.model.config import GPTConfig
from tiny_gpt.model.gpt import GPT
from tiny_gpt.report.costs import flops_per_token, parameters, training_memory
from tiny_gpt.report.describe import describe, parameters_of_run, show
from tiny_gpt.report.page import write_report
from tiny_gpt.report.verify import verify
from tiny_gpt.settings import Settings
from tiny_gpt.training import checkpoints
from tiny_gpt.training.optimizers import Optimizers
from tiny_gpt.training.train import train
from week16.activation_checkpointing import SavedTensors

WORDS = "the quick brown fox jumps over the lazy dog and runs away from all of them "
STEPS = ("00000004", "00000006")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A prepared folder, and a run of six steps on it."""
    folder = tmp_path_factory.mktemp("made")
    texts = folder / "texts"
    texts.mkdir()
    for i in range(40):
        (texts / f"{i}.txt").write_text(f"{i} {WORDS[i % 9 :] * (2 + i % 3)}", encoding="utf-8")
    prepare(texts, folder / "data", tokenizer="byte", dedup="off", workers=1)
    sizes = {"n_layers": 1, "n_heads": 2, "d_model": 16, "context": 16, "batch_size": 4, "steps": 6}
    run = {"data": str(folder / "data"), "out": folder / "run", "dtype": "fp32", "threads": 1}
    train(open_data(folder / "data"), Settings(**run, **sizes, eval_every=2, save_every=2))
    return folder


@pytest.fixture
def run(made, tmp_path):
    return Path(shutil.copytree(made / "run", tmp_path / "run"))


@pytest.fixture
def data(made, tmp_path):
    return Path(shutil.copytree(made / "data", tmp_path / "data"))


def flip(path, at=-1):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(bytes(content))


# ---- what it costs

CONFIGS = [
    GPTConfig.of(arch, 50, context=16, n_layers=n, n_heads=4, d_model=32, **changes)
    for arch, changes in (
        ("gpt2", {}),
        ("gpt2", {"dropout": 0.1, "d_ff": 40}),
        ("llama", {"n_kv_heads": 2}),
        ("llama", {"dropout": 0.2}),
        ("modern", {}),
        ("modern", {"n_kv_heads": 1, "mlp": "swiglu", "norm": "rms"}),
        ("modern", {"qk_norm": False, "d_ff": 48}),
    )
    for n in (1, 3)
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_parameters_are_all_and_once(config):
    assert sum(parameters(config).values()) == GPT(config).n_parameters()


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_flops_are_those_torch_counts(config):
    model, tokens = GPT(config), torch.zeros(2, config.context, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(tokens)
    assert counter.get_total_flops() == flops_per_token(config) * tokens.numel()


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_activations_are_those_autograd_keeps(config, recompute):
    model, batch = GPT(config), 3
    model.checkpoint_blocks = recompute
    tokens = torch.randint(config.vocab_size, (batch, config.context))
    with SavedTensors(list(model.parameters())) as saved:
        logits = model(tokens)
        F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="sum").backward()
    predicted = training_memory(config, batch, recompute=recompute)["activations"]
    # Left out: indices, angles, a checkpoint's random state, one more input of a fused block.
    assert predicted == pytest.approx(saved.peak, rel=0.09)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("config", CONFIGS[::3], ids=str)
def test_weights_gradients_and_buffers_to_the_byte(config, optimizer):
    model = GPT(config)
    optimizers = Optimizers(model, Settings(optimizer=optimizer))
    tokens = torch.randint(config.vocab_size, (1, config.context))
    model(tokens).square().sum().backward()
    optimizers.step()
    predicted = training_memory(config, 1, optimizer=optimizer)
    assert predicted["weights"] == sum(p.nbytes for p in model.parameters())
    assert predicted["gradients"] == sum(p.grad.nbytes for p in model.parameters())
    assert predicted["optimizer"] == sum(t.nbytes for t in optimizers.state()[0].values())


# ---- describe


def test_a_run_is_described_by_its_best_checkpoint(run):
    d = describe(run)
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    best = min((r["val_loss"], r["step"]) for r in log if "val_loss" in r)
    assert (d["validation"]["loss"], d["validation"]["step"]) == best
    assert (d["kind"], d["steps"], d["checkpoints"]) == ("run", 6, [4, 6])
    assert (d["step"], d["architecture"], d["dtype"]) == (best[1], "modern", "float32")
    assert d["best_loss"] == best[0]
    assert d["batch_size"] == 4
    assert d["parameters"]["total"] == checkpoints.load_checkpoint(run).model.n_parameters()
    assert d["files"]["tensors.safetensors"] == (run / "best/tensors.safetensors").stat().st_size
    assert d["tokenizer"]["kind"] == "byte"
    json.dumps(d)


def test_a_checkpoint_and_data_are_known_by_their_looks(run, data):
    folder = run / "checkpoints" / "step-00000004"
    assert describe(folder)["kind"] == "checkpoint"
    assert describe(folder)["step"] == 4
    d = describe(data)
    assert d["kind"] == "data"
    opened = open_data(data)
    assert d["splits"]["train"]["tokens"] == opened.splits["train"].n_tokens
    assert d["splits"]["val"]["bytes"] == opened.splits["val"].n_bytes
    assert d["begins"] == opened.tokenizer.decode(opened.splits["train"].read(0, 64))
    assert {"duplicates", "leaks"} <= d["report"].keys()
    json.dumps(d)


def test_other_folders_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / "nothing"):
        for function in (describe, verify):
            with pytest.raises(UserError, match="neither a run, nor a checkpoint, nor prepared"):
                function(path)


def test_tables_show_the_numbers_and_no_markup(run, data):
    for path in (run, run / "best", data):
        d = describe(path)
        d["begins"] = "[red]not a color[/red] [/]"
        console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
        console.print(show(d))
        text = console.export_text()
        assert "[red]not a color[/red] [/]" in text
        shown = d["parameters"]["total"] if path != data else d["splits"]["train"]["tokens"]
        assert f"{shown:,}" in text


def test_a_run_before_its_first_checkpoint(run):
    shutil.rmtree(run / "checkpoints")
    shutil.rmtree(run / "best")
    assert describe(run)["steps"] == 6
    assert parameters_of_run(run) is None


def test_the_report_of_a_real_run(run):
    html = write_report(run).read_text(encoding="utf-8")
    n = describe(run)["parameters"]["total"]
    assert f"<dt>parameters</dt><dd>{n / 1000:.3g}k</dd>" in html
    assert "<dt>tokens</dt><dd>384</dd>" in html  # 6 steps of 4 windows of 16


# ---- verify


def test_an_untouched_run_and_data_have_no_findings(run, data):
    assert verify(run) == []
    assert verify(data) == []
    assert verify(run / "best") == []
    assert verify(run / "checkpoints" / "step-00000006") == []


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    "name", ["tensors.safetensors", "config.json", "state.json", "tokenizer.json", "MANIFEST.json"]
)
def test_one_flipped_bit_is_found_and_a_good_checkpoint_offered(run, step, name):
    folder = run / "checkpoints" / f"step-{step}"
    flip(folder / name, at=40)
    (finding,) = verify(run)
    assert finding.file == folder / name
    assert finding.fatal
    other = next(s for s in STEPS if s != step)
    assert finding.good == run / "checkpoints" / f"step-{other}"
    assert str(finding.good) in str(finding)


def test_a_cut_file_of_the_best_and_a_lone_checkpoint(run):
    path = run / "best" / "tensors.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    (finding,) = verify(run)
    assert finding.file == path
    last = run / "checkpoints" / "step-00000006"
    (last / "config.json").unlink()
    (finding,) = verify(last)
    assert finding.file == last / "config.json"
    assert finding.good == run / "checkpoints" / "step-00000004"


def test_a_renamed_checkpoint_is_found(run):
    (run / "checkpoints" / "step-00000006").rename(run / "checkpoints" / "step-00000005")
    (finding,) = verify(run)
    assert "holds step 6" in finding.what


@pytest.mark.parametrize("name", ["train-00000.tokens", "val.documents", "tokenizer.json"])
def test_every_byte_of_data_counts(data, name):
    flip(data / name)
    (finding,) = verify(data)
    assert finding.file == data / name
    assert finding.fatal


def test_what_an_interruption_left_is_a_note_and_a_missing_file_is_fatal(run):
    left, log = run / "checkpoints" / ".step-00000008.saving", run / "log.jsonl"
    left.mkdir()
    with log.open("a") as stream:
        stream.write('{"step": 7, "lo')
    assert {(f.file, f.fatal) for f in verify(run)} == {(left, False), (log, False)}
    left.rmdir()
    for path in (log, run / "settings.toml"):
        path.unlink()
    assert {(f.file, f.what, f.fatal) for f in verify(run)} == {
        (log, "is missing", True),
        (run / "settings.toml", "is missing", True),
    }


EDITS = {  # of a log's lines, and what is said about it
    "gap": (lambda lines: lines.pop(1), "step 1 is followed by step 3"),
    "twice": (lambda lines: lines.insert(1, lines[0]), "step 1 is followed by step 1"),
    "torn": (lambda lines: lines.__setitem__(3, lines[3][:9]), "line 4 is torn"),
    "cut": (lambda lines: lines.__delitem__(slice(-4, None)), "before the checkpoint of step 6"),
    "no beginning": (lambda lines: lines.pop(0), "step 0 is followed by step 2"),
    "shortened": (
        lambda lines: lines.__setitem__(0, lines[0].replace(" ", "")),  # only its size tells
        "before the checkpoint of step 6",
    ),
    "validated": (
        lambda lines: lines.__setitem__(2, lines[2].replace('"step": 2', '"step": 1')),
        "line 3 validates step 1 out of place",
    ),
}


@pytest.mark.parametrize("how", EDITS)
def test_a_log_with_something_missing(run, how):
    path, (edit, says) = run / "log.jsonl", EDITS[how]
    lines = path.read_text().splitlines()
    edit(lines)
    path.write_text("\n".join(lines) + "\n")
    findings = verify(run)
    assert any(says in f.what and f.fatal and f.file == path for f in findings)
    assert all(f.good == run / "checkpoints" / "step-00000006" for f in findings)


def test_no_good_checkpoint_is_no_advice(run):
    for folder in (run / "best", *(run / "checkpoints" / f"step-{s}" for s in STEPS)):
        flip(folder / "tensors.safetensors")
    findings = verify(run)
    assert len(findings) == 3
    assert {f.good for f in findings} == {None}
    assert not any("go back" in str(f) for f in findings)
