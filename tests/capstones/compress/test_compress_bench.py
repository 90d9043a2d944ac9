"""The bench: what is measured, by which protocol, and what a table may compare."""

import dataclasses
import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lm_eval import utils
from safetensors.torch import load_file

from compress import cli
from compress.artifact.folder import save
from compress.benchmark import bench as benchmark
from compress.benchmark import grid, probe, quality, rivals, speed, tables
from compress.benchmark.bench import QUICK, Size, bench
from compress.benchmark.forms import FORMS, FloatSums, fused, judged, opened
from compress.benchmark.lines import lines, perplexity
from compress.benchmark.making import stored
from compress.benchmark.off_grid import distance_from_grid, leave_grid, on_grid
from compress.benchmark.pareto import front
from compress.benchmark.speed import speeds, summary
from compress.benchmark.speed_worker import Network, turn
from compress.calibration import calibrate
from compress.models.opening import open_model
from compress.models.testing import tiny_model
from compress.options import Making
from compress.pipeline.recipe import recipe_from
from compress.pipeline.run import compress
from shared.errors import UserError
from week18.gguf_blocks import LAYOUT, dequantize
from week19.quantized_linear import DynamicInt8Linear

SIZE = Size(4, 24, 1, 3, ("mini_mcqa",), 2, 16, 8, 2, 1, (1,))
NAMES = ["int8 weight-only", "int4 GPTQ g64", "50 % magnitude"]


@pytest.fixture(scope="module")
def ref(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench") / "model"
    model, _ = tiny_model(0, d_model=64, d_ff=128)
    save(compress(model, recipe_from([{"cast": {"dtype": "float32"}}])), folder)
    return f"compress:{folder}"


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    return {"out": folder / "bench.json", "home": folder / "rows"}


@pytest.fixture(scope="module")
def record(ref, where):
    return bench(ref, names=NAMES, size=SIZE, metrics=("ppl", "acc"), **where)


def test_every_number_has_its_protocol(record):
    for name in ["float32", *NAMES]:
        read, answered = record[name]["ppl"], record[name]["acc"]["answers"]
        assert "protocol:gptq|windows:4|context:24|unit:token" in read["signature"]
        assert "lm-eval rolling" in read["page_signature"]
        assert all("shots:" in task["signature"] for task in answered.values())
        assert len(read["nats"]) == 4
    for name, text in tables.pages(record).items():
        if name == "findings.md":
            continue
        assert "`text:" in text
        assert "Measured on" in text


def test_a_table_names_the_machines_that_measured_its_rows(record):
    found = json.loads(json.dumps(record))
    rival = {"rival": NAMES[0], "ppl": found["float32"]["ppl"], "bytes": {"file": 2_000_000}}
    found["torchao int8"] = rival | {"machine": found["about"]["machine"] | {"cpu": "Loom"}}
    pages = tables.pages(found)
    assert "Loom" not in pages["quality.md"]
    assert "Measured on Loom" in pages["rivals.md"]
    assert "by what it says: this processor has" in pages["quality.md"]
    ours = f"| {found[NAMES[0]]['bytes']['file'] / 1e6:.1f} file |"
    assert "| 2.0 file |" in pages["rivals.md"]
    assert ours in pages["rivals.md"]
    found["about"]["machine"]["cpu"] = "Abacus"  # its words say nothing of another's numbers
    assert "by what it says" not in tables.pages(found)["quality.md"]


def test_a_row_is_the_model_of_its_recipe(ref, record, where):
    for name in NAMES:
        place = f"compress:{where['home'] / grid_folder(name)}"
        text = quality.wikitext(open_model(ref).tokenizer.encode, windows=4, context=24, pages=1)
        assert record[name]["ppl"]["nats"] == quality.window_nats(open_model(place).model, text)
        files = list((where["home"] / grid_folder(name)).glob("*.safetensors"))
        assert record[name]["bytes"]["file"] == sum(file.stat().st_size for file in files)


def grid_folder(name):
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def test_perplexity_is_that_of_both_protocols(ref):
    """By hand: windows side by side, and each page with all its tokens."""
    opened_ = open_model(ref)
    text = quality.wikitext(opened_.tokenizer.encode, windows=3, context=20, pages=1)
    nats = quality.window_nats(opened_.model, text)
    log_p = opened_.model(text.windows).log_softmax(-1)
    by_hand = [
        -sum(log_p[i, t, text.windows[i, t + 1]].item() for t in range(19)) / 19 for i in range(3)
    ]
    assert nats == pytest.approx(by_hand, abs=1e-5)
    assert perplexity(nats) == pytest.approx(math.exp(sum(by_hand) / 3))
    (page, tokens), total = text.pages[0], 0.0
    theirs = utils.get_rolling_token_windows(tokens, quality.PREFIX, max_seq_len=20, context_len=1)
    for context, said in map(utils.make_disjoint_window, theirs):
        log_p = opened_.model(torch.tensor([[*context, *said][:-1]]))[0].log_softmax(-1)
        total -= log_p[-len(said) :].gather(1, torch.tensor(said)[:, None]).sum().item()
    by_lm_eval = math.exp(total / len(re.split(r"\s+", page)))
    assert quality.word_perplexity(opened_.model, text) == pytest.approx(by_lm_eval, rel=1e-4)


def test_what_was_measured_is_not_measured_again(ref, record, where, monkeypatch):
    monkeypatch.setattr(quality, "window_nats", pytest.fail)
    monkeypatch.setattr(quality, "answers", pytest.fail)
    again = bench(ref, names=NAMES, size=SIZE, metrics=("ppl", "acc"), **where)
    assert again["float32"]["ppl"] == record["float32"]["ppl"]


def test_another_protocol_is_measured_anew_and_not_compared(ref, record, tmp_path):
    other = json.loads(json.dumps(record))
    other["float32"]["ppl"]["signature"] += "|another"
    assert [line.lost for line in lines(other)][1] is None
    assert [line.lost for line in lines(record)][1] is not None


def test_losses_are_paired_with_float32_by_window():
    found = quality.nats_lost([1.1, 3.1, 2.1], [1.0, 3.0, 2.0])
    assert found["mean"] == pytest.approx(0.1)
    assert found["high"] - found["low"] < 1e-6  # the windows differ by one, the changes do not


def test_answers_are_paired_by_document():
    def side(right):
        return {"t": {"signature": "s", "right": {str(i): x for i, x in enumerate(right)}}}

    found = quality.accuracy_change(side([1, 1, 0, 0] * 5), side([1, 1, 0, 1] * 5))
    assert found["change"] == pytest.approx(-0.25)
    assert found["low"] < -0.25 < found["high"] <= 0
    other = side([1] * 20)
    other["t"]["signature"] = "another"
    with pytest.raises(UserError, match="must be equal"):
        quality.accuracy_change(side([1] * 20), other)


def test_a_row_made_again_with_the_same_bytes_is_the_same_row(ref, tmp_path, monkeypatch):
    names = ["int4 RTN g64", "int4 RTN g64", "int8 weight-only", "int8 dynamic"]
    digests = []
    for place, name in zip("abcd", names, strict=True):
        monkeypatch.setattr(sys, "argv", ["compress", place])
        found, _ = benchmark.made(ref, grid.BY_NAME[name], tmp_path / place, Making(), print)
        digests.append(benchmark.facts(found)["digest"])
    assert digests[0] == digests[1]
    assert len({*digests}) == 3  # the last two have the same integers and compute otherwise


def test_bytes_of_blocks_are_their_matrices(ref):
    model = open_model(ref).model
    found = stored(open_model(ref).folder)
    matrices = sum(p.nbytes for name, p in model.named_parameters() if "_proj" in name)
    assert found["blocks"] == matrices
    assert found["file"] > sum(p.nbytes for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"metrics": ("taste",)}, "metrics must be among"),
        ({"names": ("int9",)}, "row must be among"),
    ],
)
def test_a_mistake_is_said_before_any_work(ref, tmp_path, options, says):
    with pytest.raises(UserError, match=says):
        bench(ref, out=tmp_path / "r.json", home=tmp_path / "rows", **options)
    assert list(tmp_path.iterdir()) == []


def test_all_recipes_of_the_grid_are_sound():
    for row in grid.rows("full"):
        grid.recipe_of(row)
        assert row.form in FORMS
        assert not row.like or not grid.BY_NAME[row.like].like
    assert {row.name for row in grid.rows("quick")} < {row.name for row in grid.rows("default")}
    assert len(QUICK.threads + Size().threads) > 1
    assert Size().repeats >= 10


# ---- forms and speed


def int8_inputs(folder):
    model, _ = tiny_model(0, d_model=64, d_ff=128)
    step = {"quantize": {"method": "rtn", "bits": 8, "group_size": None, "symmetric": True}}
    step["quantize"]["int8_inputs"] = True
    save(compress(model, recipe_from([step])), folder)
    return f"compress:{folder}"


def test_integers_summed_as_floats_are_the_kernels_sums(tmp_path):
    ref = int8_inputs(tmp_path / "int8")
    tokens = torch.arange(40)[None]
    theirs = open_model(ref).model
    assert isinstance(theirs.blocks[0].q_proj, DynamicInt8Linear)
    exact = theirs(tokens)
    ours = judged(theirs)
    assert isinstance(ours.blocks[0].q_proj, FloatSums)
    torch.testing.assert_close(ours(tokens), exact, atol=1e-5, rtol=0)


def test_the_fused_kernel_takes_the_artifacts_integers(tmp_path):
    ref = int8_inputs(tmp_path / "int8")
    one = torch.tensor([[7]])  # with one row nothing is shared but the kind of grid
    exact, fast = open_model(ref).model(one), fused(open_model(ref).model)(one)
    assert (fast - exact).norm() / exact.norm() < 0.1  # 7 bits without VNNI
    layer = open_model(ref).model.blocks[0].q_proj
    unpacked = torch.ops.quantized.linear_unpack(
        fused(open_model(ref, kernels=True).model).blocks[0].q_proj.packed
    )[0]
    assert torch.equal(unpacked.int_repr(), layer.q)
    weight = layer.q * layer.scale[:, None]
    torch.testing.assert_close(unpacked.dequantize(), weight, atol=1e-7, rtol=0)


@pytest.mark.parametrize("form", [name for name in FORMS if name not in ("kernels", "fused")])
def test_every_form_computes_nearly_the_same(ref, form):
    with torch.no_grad():
        tokens = torch.arange(24)[None] * 5 % 257
        plain = open_model(ref).model(tokens)
        found = opened(ref, form).model(tokens).float()
    lost = (found - plain).norm() / plain.norm()
    assert lost < (0.6 if "int4" in form else 0.1)  # of a random model


def test_a_turn_reads_the_prompt_and_writes_token_by_token(ref):
    network = Network(ref, "float32")
    asked = []
    begin = network.begin
    network.begin = lambda n: lambda tokens: (asked.append(tokens.shape), step(tokens))[1]
    step = begin(20)
    found = turn(network, 8, 3)
    assert asked == [(1, 8), (1, 1), (1, 1), (1, 1)]
    assert len(found["steps"]) == 3
    assert found["prefill"] > 0


def test_summaries_are_medians_and_high_percentiles():
    turns = [{"prefill": 1.0, "steps": [0.1] * 19 + [9.0]}] * 3
    found = summary(turns, prefill=10)
    assert found["decode_per_second"] == pytest.approx(10)
    assert found["decode_p95_ms"] == pytest.approx(9000)


def test_forms_are_timed_in_processes_of_their_own_in_turns(ref, tmp_path):
    said = []
    found = speeds(
        [(ref, "float32")], threads=(1,), prefill=8, decode=2, repeats=2, say=said.append
    )
    (row,) = found
    assert row["speed"]["1"]["signature"].startswith("threads:1|batch:1|prefill:8|decode:2")
    assert [line for line in said if "round" in line][-1] == "1 threads, round 2 of 2"


def test_memory_is_measured_in_a_process_and_kept(ref, where, monkeypatch):
    found = bench(ref, names=NAMES[:1], size=SIZE, metrics=("memory",), **where)
    for name in ("float32", NAMES[0]):
        kept = found[name]["memory"]
        assert 0 < kept["held"] <= kept["peak"] < kept["bare"]
        assert kept["bare"] > 50e6
    monkeypatch.setattr(benchmark, "memory", pytest.fail)
    again = bench(ref, names=NAMES[:1], size=SIZE, metrics=("memory",), **where)
    assert again["float32"]["memory"] == found["float32"]["memory"]


def test_memory_is_told_beyond_the_bare_process(monkeypatch):
    said = {"bare": 600, "resident": 650, "peak": 690}
    for name, answer in (("_start", None), ("_read", said), ("_stop", None)):
        monkeypatch.setattr(speed, name, lambda *words, answer=answer: answer)
    found = speed.memory("smollm2", "float32")
    assert {key: found[key] for key in ("bare", "held", "peak")} == {
        "bare": 600,
        "held": 50,
        "peak": 90,
    }


def test_a_process_that_ends_is_one_line(monkeypatch):
    monkeypatch.setattr(speed.sys, "executable", "/bin/false")
    with pytest.raises(UserError, match="cannot be measured"):
        speeds([("nowhere", "float32")], threads=(1,), prefill=8, decode=2, repeats=1)


@pytest.mark.parametrize(
    ("costs", "best"), [([(1, 1), (2, 2)], [0]), ([(1, 2), (2, 1), (1, 1)], [2]), ([], [])]
)
def test_the_front(costs, best):
    assert front(costs) == best


def test_a_kernel_is_called_faster_only_if_it_is():
    assert probe.verdict(10.4, 10).endswith("no faster")
    assert probe.verdict(11, 10).endswith(": faster")
    assert probe.verdict(9, 10).endswith(": slower")
    assert "torch computes with" in probe.probe()


def test_weights_of_the_packages_format_stand_on_the_grid():
    blocks = np.zeros(64, LAYOUT["Q4_1"])
    rng = np.random.default_rng(0)
    blocks["d"], blocks["m"] = rng.uniform(0.01, 0.1, 64), rng.uniform(-1, 0, 64)
    blocks["q"] = rng.integers(0, 256, (64, 16))
    blocks["q"][:, 0] = 0xF0  # the least and the largest point are taken
    weights = dequantize(blocks.view(np.uint8).reshape(8, -1), "Q4_1")
    assert distance_from_grid(torch.from_numpy(weights)) < 1e-6


def test_the_copy_computes_the_same_off_the_grid():
    model = tiny_model(2, d_model=64, d_ff=128)[0].model
    for name, p in model.named_parameters():
        if "_proj" in name:
            p.data = on_grid(p.data)
    tokens = torch.arange(40)[None] * 3 % 257
    before = model(tokens)
    leave_grid(model)
    torch.testing.assert_close(model(tokens), before, atol=2e-5, rtol=0)
    for name, p in model.named_parameters():
        if "_proj" in name:
            assert distance_from_grid(p) > 0.5, name


def test_a_row_of_another_text_learns_from_it(ref, tmp_path):
    name = "int4 GPTQ g64 sym, by Python's manual"
    size = dataclasses.replace(SIZE, windows=2, n_calib=1, seqlen=8)
    options = {"names": [name, NAMES[1]], "size": size, "metrics": ()}
    found = bench(ref, out=tmp_path / "bench.json", home=tmp_path / "rows", **options)
    assert found[name]["learned"].startswith("calibration:pydocs|windows:1|context:8|")
    expected = calibrate(open_model(ref).tokenizer, n=1, seqlen=8).source
    assert found[NAMES[1]]["learned"].startswith(f"calibration:{expected}|")


# ---- rivals


# optimum-quanto's int4 is compiled when it first computes, which takes a minute and a compiler
LIGHT = [name for name in rivals.NAMES if name.startswith("torchao") or name == "quanto int8"]


@pytest.mark.parametrize("name", LIGHT)
def test_what_is_judged_is_what_the_library_computes(ref, name):
    tokens = torch.arange(24)[None] * 5 % 257
    with torch.no_grad():
        theirs = FORMS[name](open_model(ref).model)
        expected = theirs(tokens)
        found = rivals.floats_of(theirs)(tokens)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


def test_bytes_of_a_library_are_those_of_its_integers(ref):
    model = open_model(ref).model
    n = sum(p.numel() for name, p in model.named_parameters() if "_proj" in name)
    floats = rivals.packed_bytes(model.blocks)
    assert floats >= 4 * n
    assert rivals.packed_bytes(FORMS["quanto int4"](model).blocks) < 0.8 * n


@pytest.mark.parametrize("int8", [False, True])
def test_onnxruntime_judges_the_same_model(ref, tmp_path, int8):
    name = "onnxruntime int8 dynamic" if int8 else "onnxruntime float32"
    model = open_model(ref)
    text = quality.wikitext(model.tokenizer.encode, windows=2, context=24, pages=0)
    found = rivals.judged(ref, name, text, tmp_path / "onnx", {})
    plain = quality.window_nats(model.model, text)
    assert found["ppl"]["nats"] == pytest.approx(plain, abs=0.1 if int8 else 1e-4)
    assert len(list((tmp_path / "onnx").iterdir())) == 1 + int8


def test_llm_compressor_reads_the_windows_that_our_rows_read(ref, monkeypatch, tmp_path):
    opened, asked = open_model(ref), []
    text = quality.wikitext(opened.tokenizer.encode, windows=2, context=24, pages=0)
    monkeypatch.setattr(rivals.subprocess, "run", lambda words, **_: asked.append(words))
    monkeypatch.setattr(rivals, "load_pretrained", lambda folder: opened.model)
    size = {"n_calib": 3, "seqlen": 24}
    found = rivals.judged(ref, rivals.COMPRESSOR, text, tmp_path / "onnx", size)
    assert found["ppl"]["nats"] == quality.window_nats(opened.model, text)
    (*_, worker, model, rows, out) = asked[0]
    assert Path(worker).is_file()
    assert (Path(model), Path(rows).parent) == (opened.folder.absolute(), Path(out))
    ids = load_file(rows)["ids"]
    assert torch.equal(
        ids, Making(**size, threads=1).open(ref, recipe_from([{"quantize": {}}]))[1].ids
    )


def test_a_library_that_cannot_be_had_is_left_out(ref, record, monkeypatch, tmp_path):
    def fails(words, **_):
        raise rivals.subprocess.CalledProcessError(1, words, stderr="No solution found")

    monkeypatch.setattr(rivals.subprocess, "run", fails)
    out, told = tmp_path / "bench.json", []
    out.write_text(json.dumps(record))
    names = [rivals.COMPRESSOR]
    options = {"metrics": ["ppl"], "out": out, "quick": True, "home": tmp_path / "home"}
    options["say"] = told.append
    assert rivals.COMPRESSOR not in rivals.measure(record, names=names, **options)
    assert told[-1] == f"{rivals.COMPRESSOR} is left out: No solution found"


def test_quick_and_record_do_not_go_together(capsys):
    assert cli.main(["bench", "smollm2", "--quick", "--record"]) == 2
    assert "not recorded" in capsys.readouterr().err
    assert benchmark.RECORD.name == "bench.json"


def test_a_number_of_another_protocol_is_not_taken_for_this_one(ref, record, where, tmp_path):
    out = tmp_path / "bench.json"
    out.write_text(json.dumps(record))
    size = dataclasses.replace(SIZE, windows=2)
    again = bench(ref, names=NAMES[:1], size=size, metrics=("ppl",), out=out, home=where["home"])
    assert len(again["float32"]["ppl"]["nats"]) == 2
    assert len(again[NAMES[0]]["ppl"]["nats"]) == 2


def test_the_first_round_warms_up(monkeypatch):
    told = iter([100.0, 1.0, 2.0, 3.0])
    monkeypatch.setattr(speed, "_start", lambda *_: None)
    monkeypatch.setattr(speed, "_read", lambda _: {})
    turns = ({"prefill": t, "steps": [t]} for t in told)
    monkeypatch.setattr(speed, "_ask", lambda *_, **__: next(turns))
    monkeypatch.setattr(speed, "_stop", lambda _: None)
    (found,) = speed.speeds([("a", "b")], threads=(1,), prefill=6, decode=1, repeats=3)
    assert found["speed"]["1"]["prefill_per_second"] == pytest.approx(3)
