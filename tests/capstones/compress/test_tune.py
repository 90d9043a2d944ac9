"""A choice of bits: exact under a budget, and what was chosen is what is made."""

import itertools
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compress import cli
from compress.artifact.folder import save
from compress.export.writing import codes_of
from compress.models.opening import open_model
from compress.models.testing import tiny_model
from compress.pipeline.recipe import recipe_from
from compress.pipeline.run import compress
from compress.tuning.choosing import frontier, within_cost, within_loss
from compress.tuning.sensitivity import grid_of, part_bytes, scan
from compress.tuning.tune import numbers, rise, share, tuned
from shared.errors import UserError
from week19.quantization import fake_quantize

OPTIONS = st.dictionaries(
    st.sampled_from([2, 3, 4, 8]),
    st.tuples(st.integers(1, 40), st.floats(-0.5, 2.0, width=32)),
    min_size=1,
)
PARTS = st.lists(OPTIONS, min_size=1, max_size=5)


def all_choices(parts):
    """Every choice there is: (cost, loss)."""
    for picked in itertools.product(*(part.values() for part in parts)):
        loss = 0.0
        for _, lost in picked:  # in the same order, so that sums are the same to the bit
            loss += lost
        yield sum(cost for cost, _ in picked), loss


@given(PARTS, st.floats(0, 1))
def test_the_best_within_a_budget_is_the_best_of_all(parts, at):
    every = list(all_choices(parts))
    low, high = min(c for c, _ in every), max(c for c, _ in every)
    budget = low + at * (high - low)
    found = within_cost(frontier(parts), budget)
    assert found.cost <= budget
    assert found.loss == pytest.approx(min(loss for cost, loss in every if cost <= budget))
    told = [part[name] for part, name in zip(parts, found.options, strict=True)]
    assert found.cost == sum(cost for cost, _ in told)
    assert found.loss == pytest.approx(sum(loss for _, loss in told))


@given(PARTS, st.floats(-1, 4))
def test_the_smallest_that_loses_little_is_the_smallest_of_all(parts, most):
    every = list(all_choices(parts))
    found = within_loss(frontier(parts), most)
    fitting = [cost for cost, loss in every if loss <= most]
    if fitting and found.loss <= most:
        assert found.cost == min(fitting)
    else:  # none fits: the one that loses least
        assert found.loss == pytest.approx(min(loss for _, loss in every))


@given(
    st.lists(st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3), min_size=1, max_size=12)
)
def test_never_worse_than_the_same_bits_everywhere(rises):
    sizes = {8: 80, 4: 44, 3: 34}
    parts = [
        {b: (size, lost) for (b, size), lost in zip(sizes.items(), of_part, strict=True)}
        for of_part in rises
    ]
    for b, size in sizes.items():
        uniform = sum(part[b][1] for part in parts)
        found = within_cost(frontier(parts), size * len(parts))
        assert found.cost <= size * len(parts)
        assert found.loss <= uniform + 1e-6


def test_a_budget_below_everything_is_one_line():
    with pytest.raises(UserError, match="budget must be at least 7 for these options, got 6"):
        within_cost(frontier([{4: (7, 0.1)}]), 6)


# ---- the scan


@pytest.fixture(scope="module")
def opened():
    return tiny_model(3, n_layers=3, d_ff=64)


@pytest.mark.parametrize("unit", ["block", "layer"])
def test_rises_are_those_of_models_with_one_part_rounded(opened, unit):
    model, texts = opened[0].model, opened[1].ids
    before = {name: p.clone() for name, p in model.named_parameters()}
    found = scan(model, texts, bits=(8, 3), group_size=16, unit=unit)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert len(found) == (3 if unit == "block" else 21)
    for part in (found[0], found[len(found) // 2], found[-1]):
        for bits in (8, 3):
            assert part.rises[bits] == pytest.approx(
                direct(model, texts, part.name, bits), abs=2e-5
            )


def direct(model, texts, name, bits):
    """The rise, from the whole model run twice."""
    names = [n for n, _ in model.named_modules() if "_proj" in n]
    names = [n for n in names if n == name or n.startswith(name.removesuffix("*"))]
    kept, losses = {}, []
    for _ in range(2):
        with torch.inference_mode():
            logits = model(texts)[:, :-1].flatten(0, 1)
            losses.append(torch.nn.functional.cross_entropy(logits, texts[:, 1:].flatten()))
        for n in names:
            weight = model.get_submodule(n).weight
            kept.setdefault(n, weight.clone())
            granularity = "channel" if bits == 8 else 16
            weight.copy_(
                fake_quantize(weight, bits=bits, symmetric=bits == 8, granularity=granularity)
            )
    for n, weight in kept.items():
        model.get_submodule(n).weight.copy_(weight)
    return (losses[1] - losses[0]).item()


@pytest.mark.parametrize("bits", [8, 4, 3])
@pytest.mark.parametrize("symmetric", [True, False])
def test_bytes_are_those_of_artifacts(tmp_path, opened, bits, symmetric):
    how = grid_of(bits, 16, symmetric)
    quantize = {"quantize": {"method": "rtn", **how}}
    done = compress(tiny_model(3, n_layers=3, d_ff=64)[0], recipe_from([quantize]))
    for name, packed in done.layers.items():
        said = part_bytes(opened[0].model.get_submodule(name).weight, how)
        assert packed.n_bytes == said, name


# ---- the command


@pytest.fixture(scope="module")
def ref(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tune") / "model"
    model, _ = tiny_model(3, n_layers=3, d_ff=64)
    save(compress(model, recipe_from([{"cast": {"dtype": "float32"}}])), folder)
    return f"compress:{folder}"


def choose(ref, out, **rules):
    from compress.options import Making, Scanning

    rules = {"max_drop": "1%", "objective": "size", "budget": None, "method": "rtn"} | rules
    making = Making(n_calib=2, seqlen=16, threads=1, calib="pydocs")
    how = {"scanning": Scanning(group_size=16, texts=2, seqlen=24), "making": making}
    return tuned(ref, out, **how, **rules, progress=lambda done, total: None)


def test_what_was_chosen_is_made_and_measured(ref, tmp_path):
    found = choose(ref, tmp_path / "mixed", budget="42%")
    made = open_model(f"compress:{tmp_path / 'mixed'}")
    assert found["of_float16"] <= 0.42
    assert found["within"] is True
    assert len(set(found["bits"].values())) > 1
    assert found["measured_rise"] == pytest.approx(rise(ref, made.name, 2, 24), abs=1e-6)
    assert found["tried"] == [
        {"bits": list(found["bits"].values()), "measured": found["measured_rise"]}
    ]


def test_a_choice_that_lost_too_much_is_followed_by_a_larger_one(ref, tmp_path, monkeypatch):
    from compress.tuning import tune

    told = iter([0.5, 0.2, 0.001])
    monkeypatch.setattr(tune, "rise", lambda *_: next(told))
    found = choose(ref, tmp_path / "mixed", max_drop="10%")
    sizes = [sum(one["bits"]) for one in found["tried"]]
    assert len(sizes) >= 2
    assert sizes == sorted(sizes)
    assert found["within"] is (found["tried"][-1]["measured"] <= 0.0954)


def test_the_text_that_judges_was_not_scanned(ref, tmp_path, monkeypatch):
    from compress.tuning import tune

    read, plain = [], tune.calibrate
    monkeypatch.setattr(tune, "calibrate", lambda *a, **k: read.append(plain(*a, **k)) or read[-1])
    choose(ref, tmp_path / "mixed", budget="50%")
    scanned, judging = ({tuple(row) for row in text.ids.tolist()} for text in read)
    assert not scanned & judging


def test_a_scan_is_told_by_the_command_line(ref, capsys):
    from compress.cli import main

    options = ["--bits", "8,4", "--group-size", "16", "--texts", "1", "--seqlen", "8"]
    assert main(["sensitivity", ref, *options, "--unit", "layer", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found) == 3 * 7
    assert all(list(part["rises"]) == ["8", "4"] for part in found.values())


def test_latency_takes_grids_that_kernels_read(ref, tmp_path):
    found = choose(ref, tmp_path / "fast", objective="latency", max_drop="100%")
    layers = weights(tmp_path / "fast")
    assert layers
    assert all(weight.symmetric for weight in layers.values())
    assert found["frontier"] >= 1


def weights(folder):
    return codes_of(open_model(f"compress:{folder}"))


@pytest.mark.parametrize("text", ["", "9", "8;4", "x"])
def test_bits_that_are_none(text):
    with pytest.raises(UserError, match="bits must be some of"):
        numbers(text)


@pytest.mark.parametrize("text", ["", "0", "-1%", "101%", "nan", "1e9", "ten"])
def test_shares_that_are_none(text):
    with pytest.raises(UserError, match="budget must be a share"):
        share(text, "budget")


@pytest.mark.parametrize(
    "words",
    [
        ["tune", "REF", "--max-drop", "x"],
        ["tune", "REF", "--budget", "1%", "--texts", "1", "--seqlen", "8", "--group-size", "16"],
        ["tune", "REF", "--objective", "latency", "--budget", "40%", "--group-size", "16"],
        ["sensitivity", "REF", "--bits", "5"],
        ["sensitivity", "REF", "--group-size", "7"],
        ["sensitivity", "nowhere"],
        ["sensitivity", "REF", "--texts", "0"],
        ["bench", "REF", "--metrics", "taste"],
        ["bench", "REF", "--rows", "int9"],
        ["bench", "REF", "--quick", "--record"],
        ["export", "REF", "-o", "x.bin", "--format", "gguf"],
        ["export", "REF"],
    ],
)
def test_a_mistake_is_one_line(ref, words, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert cli.main([ref if word == "REF" else word for word in words]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "Traceback" not in told.err
    assert len(told.err.strip().splitlines()) == 1
    assert list(tmp_path.rglob("*.json")) == []


def test_sensitivity_says_a_line_per_part(ref, capsys):
    words = ["sensitivity", ref, "--group-size", "16", "--texts", "1", "--seqlen", "16", "--json"]
    assert cli.main(words) == 0
    assert capsys.readouterr().out.count('"rises"') == 3


def test_serving_is_told_of_whole_artifacts_only(ref, tmp_path, capsys):
    assert cli.main(["serve", ref]) == 0
    assert capsys.readouterr().out.replace("\n", "").endswith(ref)
    assert cli.main(["serve", str(tmp_path / "nothing")]) == 3
