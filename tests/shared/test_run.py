"""Checks that can fail, claims that are judged, figures and records that are whole or not there."""

import json
import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import pyplot as plt
from PIL import Image, ImageSequence
from tiny_project import files_in

from shared import calibration, datasets, plots, records
from shared.errors import UserError
from shared.run import Run

SAY = {"against": "a reference", "why": "a reason"}


@pytest.fixture(autouse=True)
def reference_machine(monkeypatch):
    """Calibration takes two seconds; here it is instant."""
    monkeypatch.setattr(calibration, "calibrate", lambda: 1.0)


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "week" / "norm.py"
    path.parent.mkdir()
    path.write_text('"""A script."""\n', encoding="utf-8")
    return path


@pytest.fixture
def make(script, tmp_path):
    def make(**options):
        return Run(script, out=tmp_path / "out", quiet=True, **options)

    return make


@pytest.fixture
def run(make):
    return make()


def last(run):
    return run.checks[-1]


# ---- checks


def test_check_within_its_tolerance(run):
    assert run.check("a", 1.0 + 2**-20, 1.0, atol=2**-20, **SAY)
    assert last(run)["error"] == 2**-20
    assert not run.check("b", 1.0 + 2**-19, 1.0, atol=2**-20, **SAY)
    assert run.check("c", 8.0 + 2**-10, 8.0, rtol=2**-13, **SAY)
    assert not run.check("d", 8.0 + 2**-9, 8.0, rtol=2**-13, **SAY)
    assert run.check("e", [8.5, 8.25], [8.0, 8.0], rtol=2**-5, atol=0.25, **SAY)
    assert not run.check("f", [8.0, 8.51], [8.0, 8.0], rtol=2**-5, atol=0.25, **SAY)


@given(
    st.floats(-1e6, 1e6),
    st.floats(-1e6, 1e6),
    st.floats(0, 1e3),
    st.floats(0, 0.5),
)
def test_check_is_the_stated_inequality(tmp_path_factory, ours, reference, atol, rtol):
    run = Run(tmp_path_factory.getbasetemp() / "any.py", quiet=True)
    expected = abs(ours - reference) <= atol + rtol * abs(reference)
    assert run.check("x", ours, reference, atol=atol, rtol=rtol, **SAY) == expected
    assert last(run)["error"] == abs(ours - reference)


def test_relative_tolerance_is_of_the_reference(run):
    """Not of ours, which would grow with the error, and not for a reference of zero."""
    assert not run.check("ours is large", 100.0, 1.0, rtol=0.99, **SAY)
    assert not run.check("zero", 1e-9, 0.0, rtol=0.5, **SAY)
    assert run.check("negative", -1.4, -1.0, rtol=0.5, **SAY)


@pytest.mark.parametrize(
    ("ours", "reference"),
    [
        (math.nan, 1.0),
        (1.0, math.nan),
        (math.nan, math.nan),
        ([1.0, math.nan], [1.0, math.nan]),
        (math.inf, 1.0),
        (1.0, math.inf),
        (math.inf, -math.inf),
        (complex(math.nan, 0), complex(math.nan, 0)),
        (1e308, -1e308),
    ],
)
def test_nan_and_infinity_agree_with_nothing(run, ours, reference):
    assert not run.check("x", ours, reference, atol=1e9, rtol=0.5, **SAY)
    assert last(run)["error"] is None  # not a large number, and nothing that JSON cannot hold
    assert not run.passed
    run.finish()
    assert records.load(run.out / "record.json")["checks"][0]["error"] is None


def test_the_same_infinity_agrees(run):
    assert run.check("x", [math.inf, -math.inf, 1.0], [math.inf, -math.inf, 1.0], **SAY)
    assert last(run)["error"] == 0


def test_shapes_must_agree(run):
    """Without broadcasting: one right number is not an array of them."""
    assert not run.check("x", np.ones(3), 1.0, **SAY)
    assert not run.check("y", np.ones((3, 1)), np.ones((1, 3)), **SAY)
    assert not run.check("z", np.ones(3), np.ones(0), **SAY)
    assert last(run)["why"] == "shapes differ: ours (3,), reference (0,)"
    assert last(run)["error"] is None


@pytest.mark.parametrize("empty", [[], np.zeros((0, 3)), torch.zeros(0)])
def test_nothing_is_not_compared(run, empty):
    with pytest.raises(ValueError, match="'x' compares nothing"):
        run.check("x", empty, np.zeros(0), **SAY)
    assert run.checks == []


def test_an_object_is_not_compared_with_itself(run):
    array, tensor = np.arange(3.0), torch.arange(3.0, dtype=torch.float64)
    twins = [
        (array, array),
        (array, array[:]),
        (array, np.asarray(array)),
        (tensor, tensor),
        (tensor, tensor.detach()),
        (tensor, tensor.numpy()),
        ([1.0], [1.0]),
    ]
    for i, (ours, reference) in enumerate(twins[:-1]):
        with pytest.raises(ValueError, match="with itself"):
            run.check(f"{i}", ours, reference, **SAY)
    assert run.check("equal lists", *twins[-1], **SAY)
    assert run.check("a copy", array, array.copy(), **SAY)
    assert run.check("equal numbers", 1.0, 1.0, **SAY)
    assert not run.check("reversed", array, array[::-1], **SAY)


def test_tensors(run):
    ours = torch.ones(3, requires_grad=True)
    assert run.check("gradients are let go", ours, np.ones(3), **SAY)
    assert run.check("bfloat16", torch.ones(3, dtype=torch.bfloat16), torch.ones(3), **SAY)
    assert run.check("mixed", torch.tensor(2.5), 2.5, **SAY)
    z = torch.tensor([1 + 2j])
    assert run.check("conjugate view", z.conj(), np.array([1 - 2j]), **SAY)
    assert run.check("negative view", z.conj().imag, np.array([-2.0]), **SAY)
    assert not run.check("float32 is not widened to a tie", torch.tensor(0.1), 0.1, **SAY)


def test_complex(run):
    assert run.check("modulus", [3 + 4j], [0j], atol=5.0, **SAY)
    assert last(run)["error"] == 5.0
    assert not run.check("imaginary part counts", [1 + 1j], [1.0], atol=0.5, **SAY)


def test_integers_beyond_float64(run):
    assert not run.check("one off", 2**53 + 1, 2**53, **SAY)
    assert last(run)["error"] == 1
    assert run.check("equal", [2**62 + 1], np.array([2**62 + 1]), **SAY)
    assert not run.check("across zero", np.array([-(2**63)]), np.array([2**63 - 1]), **SAY)
    assert last(run)["error"] == 2.0**64
    ours = np.array([0], dtype=np.uint64)
    assert run.check("unsigned", ours, np.array([3], dtype=np.uint64), atol=3, **SAY)
    assert run.check("lowest, relative", np.array([-(2**63)]), [-(2**63) + 1], rtol=1e-9, **SAY)
    assert run.check("booleans", [True, False], [1, 0], **SAY)
    assert not run.check("booleans differ", [True, False], [1, 1], **SAY)


@pytest.mark.parametrize("value", ["text", ["a"], [None], {"a": 1}, np.array([object()])])
def test_only_numbers_are_compared(run, value):
    with pytest.raises(ValueError, match="'x' compares numbers, got"):
        run.check("x", value, value if np.isscalar(value) else 1.0, **SAY)


@pytest.mark.parametrize("tolerance", [math.inf, math.nan, -1e-9])
def test_tolerance_has_a_bound(run, tolerance):
    with pytest.raises(ValueError, match="atol must be finite and >= 0"):
        run.check("x", 1.0, 2.0, atol=tolerance, **SAY)
    with pytest.raises(ValueError, match="rtol must be finite and >= 0"):
        run.check("x", 1.0, 2.0, rtol=tolerance, **SAY)


def test_one_failing_check_fails_the_run(run):
    run.check("good", 1.0, 1.0, **SAY)
    assert run.passed
    run.check("bad", 1.0, 2.0, atol=0.5, rtol=0.125, against="theory", why="half")
    run.check("good again", 1.0, 1.0, **SAY)
    assert not run.passed
    assert not run.finish()
    record = records.load(run.out / "record.json")
    assert record["checks"][1] == {
        "name": "bad",
        "against": "theory",
        "kind": "library",
        "error": 1.0,
        "atol": 0.5,
        "rtol": 0.125,
        "why": "half",
        "passed": False,
    }
    assert records.problems(record) == ["check failed: bad"]


# ---- metrics


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_metric_is_a_number(run, value):
    with pytest.raises(ValueError, match="metric 'loss' must be finite"):
        run.metric("loss", value)
    assert run.metric("loss", np.float32(0.5), "nats") == 0.5
    assert run.metric("steps", torch.tensor(3), rtol=None) == 3
    with pytest.raises(ValueError, match="rtol must be finite"):
        run.metric("x", 1.0, rtol=value)
    run.finish()
    assert [m["value"] for m in records.load(run.out / "record.json")["metrics"]] == [0.5, 3.0]


def test_names_are_names(run):
    """Records are compared by name, so a second row of one name would hide the first."""
    run.check("x", 1.0, 1.0, **SAY)
    run.claim("x", [1, 2], at_least=0)
    run.falsifier("x", [-1, -2], breaks="x")
    run.metric("x", 1.0)
    for again in (
        lambda: run.check("x", 1.0, 2.0, **SAY),
        lambda: run.claim("x", [1, 2], at_least=0),
        lambda: run.falsifier("x", [-1, -2], breaks="x"),
        lambda: run.metric("x", 2.0),
    ):
        with pytest.raises(ValueError, match=r"two .* named 'x'"):
            again()


# ---- what a script may use


def test_budget(make):
    assert make(mode="quick").budget(quick=1, default=2, full=3) == 1
    assert make().budget(quick=1, default=2, full=3) == 2
    assert make(mode="full").budget(quick=1, default=2, full=3) == 3
    assert make(mode="full").budget(quick=1, default=2) == 2
    assert make(mode="full").budget(quick=1, default=2, full=0) == 0


def test_seed_decides_every_generator(make):
    def draw(seed, offset=0):
        run = make(seed=seed)
        return run.rng.random(), torch.rand(1, generator=run.generator(offset)).item()

    assert draw(3) == draw(3)
    assert all(a != b for a, b in zip(draw(3), draw(4), strict=True))
    assert draw(3, 1)[1] == draw(4, 0)[1]


def test_device(make, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert make().device == make(device="cpu").device == torch.device("cpu")
    for name in ("cuda", "mps"):
        with pytest.raises(UserError, match=f"--device {name} is not on this machine; it has cpu"):
            make(device=name).prepare()
        with pytest.raises(UserError, match="not on this machine"):
            make(device=name).device  # noqa: B018
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert make().device == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    run = make()
    assert run.record()["device"] == "cpu", "nothing was computed on the GPU"
    assert run.device == torch.device("cuda")
    assert run.record()["device"] == "cuda"


def test_output_folder_that_cannot_be_made(script, tmp_path):
    (tmp_path / "file").touch()
    run = Run(script, out=tmp_path / "file" / "runs", quiet=True)
    with pytest.raises(UserError, match=r"runs cannot be written \(.*STUDY_RUNS"):
        run.prepare()


def test_runs_folder_follows_the_environment(script, tmp_path, monkeypatch):
    monkeypatch.setenv("STUDY_RUNS", str(tmp_path / "elsewhere"))
    assert Run(script).out == tmp_path / "elsewhere" / "norm"
    monkeypatch.delenv("STUDY_RUNS")
    assert Run(records.ROOT / "weeks/14/ngram.py").out == records.ROOT / "runs/weeks/14/ngram"


def test_progress_is_silent_without_a_terminal(script, capsys):
    run = Run(script)
    seen = []
    for i in run.progress(range(3), "counting"):
        run.status(f"step {i}")
        seen += list(run.progress(iter([i]), "inner"))
    run.status("after")
    assert seen == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_progress_on_a_terminal(script, monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    run = Run(script)
    run.console._force_terminal = True
    for _ in run.progress(range(2), "counting"):
        run.status("loss 1.5")
        run._progress.refresh()
    assert "counting" in capsys.readouterr().out
    assert run._progress is None


def test_text_is_printed_as_it_is(script, capsys):
    """No markup and no emoji codes: x[i] and [/] are mathematics, :x: is a slice."""
    run = Run(script, out=script.parent / "out")
    text = "p[x|h] [/] [bold] :x: \\[a]"
    run.say(text)
    run.check(text, 1.0, 1.0, against="[red]", why="")
    run.claim(text + "c", 1, at_least=0, deterministic=True, note="[/i]", unit=":smile:")
    run.metric(text, 1.0, "[m]")
    run.finish()
    told = capsys.readouterr().out
    assert told.count(text) == 4
    for part in ("[red]", "[/i]", "[m]", ":smile:"):
        assert part in told


def test_table_tells_what_failed_and_what_was_not_judged(script, capsys):
    run = Run(script, out=script.parent / "out", mode="quick")
    run.check("sum", 1.0, math.nan, against="theory", why="rounding of the sum", atol=1.5e-6)
    run.claim("large", 0, at_least=1, deterministic=True, quick=False, note="later")
    with run.figure("curve") as axes:
        axes.plot([0, 1])
    run.finish()
    told = capsys.readouterr().out
    assert "✗  sum (rounding of the sum)" in told
    assert "∞" in told
    assert "1.5e-06" in told
    assert "not judged" in told
    assert "later" in told
    assert "data: generated" in told
    assert "norm_curve.png" in told
    assert "quick size, seed 0, cpu, 2 threads" in told


# ---- figures


def photograph():
    rng = np.random.default_rng(0)
    smooth = rng.normal(size=(60, 90, 3)).cumsum(0).cumsum(1)
    smooth = (smooth - smooth.min()) / np.ptp(smooth)
    image = smooth.repeat(10, 0).repeat(10, 1) + 0.15 * rng.random((600, 900, 3))
    return image.clip(0, 1)


def test_figure_is_saved_and_closed(run):
    before = plt.get_fignums()
    with run.figure("curve", "Does it fall?") as axes:
        axes.plot([3, 2, 1])
    assert list(files_in(run.out)) == ["norm_curve.png"]
    assert plt.imread(run.out / "norm_curve.png").std() > 0.01
    with run.figure("two_panels", "Which one?", columns=2) as axes:
        assert axes.shape == (2,)
    assert run.figures == [
        {"file": "norm_curve.png", "title": "Does it fall?"},
        {"file": "norm_two_panels.png", "title": "Which one?"},
    ]
    assert plt.get_fignums() == before
    with pytest.raises(ValueError, match="two figures named 'curve'"):
        run.figure("curve").__enter__()


def test_film_is_saved_frame_by_frame(run):
    frames = np.eye(3)[:, :, None].repeat(4, 2)
    run.film("motion", frames, "Where does it go?", zoom=2)
    assert run.figures == [{"file": "norm_motion.gif", "title": "Where does it go?"}]
    with Image.open(run.out / "norm_motion.gif") as film:
        found = [np.asarray(picture.convert("L")) for picture in ImageSequence.Iterator(film)]
        assert film.info["loop"] == 0
    assert (np.stack(found) == 255 * frames.repeat(2, 1).repeat(2, 2)).all()
    with pytest.raises(ValueError, match="two figures named 'motion'"):
        run.film("motion", frames, "Again?")
    with pytest.raises(ValueError, match=r"frames must be pictures from 0 to 1, got shape \(3,\)"):
        run.film("flat", np.zeros(3), "What?")
    with pytest.raises(ValueError, match="does not fit in max_bytes = 10"):
        run.film("large", frames, "What?", max_bytes=10)
    assert len(run.figures) == 1


def test_colored_film_gets_as_many_colors_as_fit(run):
    frames = np.random.default_rng(0).random((4, 30, 30, 3))
    run.film("many", frames, "What?", zoom=1)
    size = (run.out / "norm_many.gif").stat().st_size
    run.film("few", frames, "What?", zoom=1, smooth=True, max_bytes=size - 1)
    assert (run.out / "norm_few.gif").stat().st_size < size
    with Image.open(run.out / "norm_few.gif") as film:
        assert len(np.unique(np.asarray(film.convert("RGB")).reshape(-1, 3), axis=0)) <= 40
        assert film.n_frames == 4


@pytest.mark.parametrize("columns", [1, 2])
def test_a_long_title_stays_inside_the_figure(run, columns):
    title = "Why is it so long? " * 7
    with run.figure("long", title, columns=columns) as axes:
        first = np.ravel(axes)[0]
        first.set_ylabel("a name\n" * 5)
    text = first.figure._suptitle
    assert text.get_text() == title
    box = text.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= first.figure.bbox.width
    assert box.y0 > first.get_window_extent().y1


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_figure_that_fails_leaves_nothing(run, error):
    before = plt.get_fignums()
    with pytest.raises(error):  # noqa: PT012, SIM117
        with run.figure("curve") as axes:
            axes.plot([3, 2, 1])
            raise error
    assert run.figures == []
    assert not run.out.exists()
    assert plt.get_fignums() == before


def test_figure_is_closed_when_it_cannot_be_saved(script, tmp_path):
    (tmp_path / "file").touch()
    before = plt.get_fignums()
    with pytest.raises(OSError, match="Not a directory"):  # noqa: SIM117
        with Run(script, out=tmp_path / "file" / "out").figure("curve") as axes:
            axes.plot([3, 2, 1])
    assert plt.get_fignums() == before


def test_figure_is_written_at_once(run, monkeypatch):
    """An interruption while the file is written leaves the old figure and no other file."""
    with run.figure("curve") as axes:
        axes.plot([3, 2, 1])
    before = files_in(run.out)

    def interrupted(source, target):
        assert files_in(run.out)["norm_curve.png"] == before["norm_curve.png"]
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupted)
    run.figures.clear()
    with pytest.raises(KeyboardInterrupt), run.figure("curve") as axes:
        axes.plot([1, 2, 3])
    assert files_in(run.out) == before


def test_photograph_fits(run):
    with run.figure("photograph", size=(8, 6)) as axes:
        axes.imshow(photograph())
    path = run.out / "norm_photograph.png"
    assert 10_000 < path.stat().st_size <= plots.MAX_PNG_BYTES == 150_000


# ---- the end


def good(run):
    run.check("sum", 3.0, 3.0, **SAY)
    with run.figure("curve") as axes:
        axes.plot([3, 2, 1])
    return run


def test_publish(make, script):
    results = script.parent / "results"
    run = good(make())
    assert run.finish()
    assert not results.exists(), "finishing alone publishes nothing"
    run.publish({"values": {"metric loss": 1.0}})
    assert list(files_in(results)) == ["norm.json", "norm_curve.png"]
    assert files_in(results)["norm_curve.png"] == files_in(run.out)["norm_curve.png"]
    record = records.load(results / "norm.json")
    assert record.pop("fingerprint") == {"values": {"metric loss": 1.0}}
    assert record.pop("reference_seconds") >= 0
    assert record == json.loads((run.out / "record.json").read_text(encoding="utf-8"))
    assert record["mode"] == "default"
    assert record["versions"]["numpy"] == np.__version__


def published(run):
    run.finish()
    run.publish({})


def test_failing_run_is_not_recorded(make, script):
    published(good(make()))
    before = files_in(script.parent)
    run = good(make(seed=1))
    run.check("bad", 1.0, 2.0, **SAY)
    with pytest.raises(UserError, match="not recorded: a check failed"):
        published(run)
    assert files_in(script.parent) == before


def test_a_claim_that_fails_is_published_so(make, script):
    run = good(make())
    run.claim("bad", [1, 2, 3], at_least=9)
    published(run)
    assert records.load(records.record_of(script))["claims"][0]["verdict"] == "fails"


def test_quick_run_is_not_recorded(make, script):
    published(good(make()))
    before = files_in(script.parent)
    with pytest.raises(UserError, match="not recorded: --quick is for tests"):
        published(good(make(mode="quick", seed=1)))
    assert files_in(script.parent) == before


def test_stale_figures_go_and_others_stay(make, script):
    results = script.parent / "results"
    results.mkdir()
    (script.parent / "norm_squared.py").touch()
    for name in ("norm_old.png", "norm_squared_curve.png", "norm_squared.json", "angle_curve.png"):
        (results / name).write_bytes(b"old")
    published(good(make()))
    assert sorted(files_in(results)) == [
        "angle_curve.png",
        "norm.json",
        "norm_curve.png",
        "norm_squared.json",
        "norm_squared_curve.png",
    ]


def test_interrupted_publishing_leaves_whole_files(make, script, monkeypatch):
    published(good(make()))
    before = files_in(script.parent / "results")
    (script.parent / "results" / "norm_stale.png").write_bytes(b"stale")
    run = good(make(seed=1))
    real, calls = records.save, []
    monkeypatch.setattr(calibration, "calibrate", lambda: 1.0)

    def save(record, path):
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(record, path)

    monkeypatch.setattr(records, "save", save)
    with pytest.raises(KeyboardInterrupt):
        published(run)
    after = files_in(script.parent / "results")
    assert after.pop("norm_stale.png") == b"stale", "nothing goes before the record is there"
    assert after == before


def test_what_was_chosen_is_in_the_record(make):
    run = make(options={"dataset": None, "n": 3})
    run.chose(dataset="digits")
    datasets.digits()
    record = run.record()
    assert record["options"] == {"dataset": "digits", "n": 3}
    assert list(record["data"]) == ["scikit-learn's digits"]
    assert record["data"]["scikit-learn's digits"].startswith("sha256:")
    assert make().record()["data"] == {}, "each run lists its own"


def test_command_says_what_was_changed(make):
    assert make().record()["command"] == "uv run norm.py"
    run = make(mode="full", seed=3, arguments=["--text", "two words"])
    assert run.record()["command"] == "uv run norm.py --text 'two words' --full --seed 3"
