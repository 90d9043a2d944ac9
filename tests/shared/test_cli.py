"""The `study` command, in a small project of its own."""

import io
import json
import shutil
import subprocess
import sys

import pytest
from rich.console import Console
from tiny_project import SCRIPT, files_in, git, make_project

from shared import bug_runner, bugs, cli, log, overview, records, registry
from shared.study import call


@pytest.fixture
def project(tmp_path, monkeypatch):
    root = make_project(tmp_path, monkeypatch)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def recorded(project):
    """The project after `study record`, without the seconds that takes."""
    record = {
        **dict.fromkeys(records.REQUIRED, ""),
        "script": "weeks/01/norm",
        "command": "uv run weeks/01/norm.py",
        "mode": "default",
        "seed": 0,
        "seconds": 1.25,
        "checks": [
            {
                "name": "norm of x[i]",
                "against": "numpy.linalg.norm",
                "kind": "library",
                "error": 0.0,
                "passed": True,
            }
        ],
        "claims": [CLAIM],
        "falsifiers": [],
        "metrics": [{"name": "length", "value": 0.6740964, "unit": "m", "rtol": 0.02}],
        "figures": [{"file": "norm_line.png", "title": "How long is it?"}],
    }
    path = project / "weeks" / "01" / "results" / "norm.json"
    path.parent.mkdir()
    path.write_text(json.dumps(record), encoding="utf-8")
    return path


CLAIM = {
    "name": "it is positive",
    "at_least": 0.0,
    "at_most": None,
    "each": False,
    "deterministic": True,
    "unit": "",
    "note": "n = 4 | one seed",
    "seen_before": "",
    "mean": 0.6740964,
    "low": None,
    "high": None,
    "n": 1,
    "verdict": "holds",
    "paper": False,
    "rtol": 0.0,
}


def change(path, edit):
    record = json.loads(path.read_text(encoding="utf-8"))
    edit(record)
    path.write_text(json.dumps(record), encoding="utf-8")


@pytest.fixture
def study(capfd):
    def study(*argv):
        status = call(cli.app, list(argv))
        said = capfd.readouterr()
        return status, said.out, said.err

    return study


@pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")
def test_main(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["study", "nosuch"])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_overview(recorded, study):
    paper = recorded.parents[3] / "papers" / "1637-geometry"
    (paper / "results").mkdir(parents=True)
    (paper / "reproduce.py").touch()
    record = json.loads(recorded.read_text(encoding="utf-8"))
    for verdict in ("reproduced", "not reproduced", "inconclusive"):
        record["claims"].append(CLAIM | {"name": verdict, "verdict": verdict, "paper": True})
    (paper / "results" / "reproduce.json").write_text(json.dumps(record), encoding="utf-8")
    change(recorded, lambda r: r["claims"].append(CLAIM | {"name": "x", "verdict": "fails"}))
    with (recorded.parents[3] / "curriculum.toml").open("a", encoding="utf-8") as file:
        file.write('[[paper]]\nfolder = "x"\nyear = 1687\ntitle = "Principia: laws"\nclaim = "F"\n')
    status, said, _ = study()
    assert status == 0
    assert max(map(len, said.splitlines())) <= 100
    assert [" ".join(line.split()) for line in said.splitlines() if line.strip()] == [
        "checks held failed inconclusive",
        "Part I",
        "01 Lengths 1/1 1 1",
        "02 Areas (planned)",
        "Together 1/1 1 1",
        "Papers · 1 claims reproduced, 1 not, 1 inconclusive",
        "1637 La Géométrie 1/3 1687 Principia",
        "Programs",
        "Ruler (planned)",
        "Next: uv run study show 13 · study search WORD · study practice · study demo",
    ]
    recorded.unlink()  # a script that was not yet recorded hides nothing of the rest
    assert "01  Lengths" in study()[1]


@pytest.mark.parametrize("width", [60, 80])
def test_a_narrow_terminal_hides_no_number(width):
    console = Console(width=width, file=io.StringIO())
    overview._weeks(console)
    lines = console.file.getvalue().splitlines()
    assert "…" not in "".join(lines)
    numbers = [week["number"] for week in log.curriculum()["week"]]
    assert [line[:2] for line in lines if line[:2].strip()] == numbers


def test_show(recorded, study):
    status, said, _ = study("show", "1")
    assert status == 0
    words = " ".join(said.split())
    for part in (
        "weeks/01/norm · The length of a vector",
        "uv run weeks/01/norm.py",
        "check norm of x[i] 0 against numpy.linalg.norm",
        "claim it is positive holds (at least 0) 0.6741; n = 4 | one seed",
        "metric length 0.6741 m",
        "figure weeks/01/results/norm_line.png",
    ):
        assert part in words
    change(recorded, lambda record: record["checks"][0].update(error=None, passed=False))
    assert "∞" in study("show", "01/norm")[1]


@pytest.mark.parametrize("command", ["show", "run", "verify", "record"])
def test_unknown_target(recorded, study, command):
    status, _, said = study(command, "77")
    assert status == 2
    assert said == "study: error: no script is named '77'; there are 01\n"


def test_no_record(project, study):
    status, _, said = study("show", "01")
    assert (status, said.count("\n")) == (2, 1)
    assert "no record weeks/01/results/norm.json; run the script with --record" in said


def test_run_passes_arguments_on(project, study):
    status, said, _ = study("run", "01", "norm", "--n", "9", "--seed", "5")
    assert status == 0
    assert "n = 9" in said
    assert "seed 5" in said
    status, said, _ = study("run", "1", "--wrong")
    assert status == 1
    assert "norm of x[i] (rounding)" in said
    assert not (project / "weeks" / "01" / "results").exists()


def test_verify(recorded, study, project):
    before = files_in(project)
    status, said, _ = study("verify")
    assert (status, said) == (0, said)
    assert said.startswith("✓ weeks/01/norm (")
    assert files_in(project) == before


def test_verify_finds_what_was_altered(recorded, study):
    def alter(record):
        record["metrics"][0]["value"] = 0.5
        record["checks"].append({**record["checks"][0], "name": "x[j] is gone"})

    change(recorded, alter)
    status, said, _ = study("verify", "01", "-j", "2")
    assert status == 1
    assert said.splitlines()[0].startswith("✗ weeks/01/norm (")
    assert said.splitlines()[1:] == [
        "    checks: 'x[j] is gone' is gone",
        "    metric 'length': 0.674096, recorded 0.5 (tolerance 2 %)",
    ]


def test_verify_repeats_the_recorded_command(recorded, study, monkeypatch):
    change(recorded, lambda record: record.update(command="uv run x.py --text 'a b' --seed 3"))
    seen = []

    def run(command, **options):
        seen.append(command)
        return subprocess.CompletedProcess(command, 1, "", "")

    monkeypatch.setattr(cli.subprocess, "run", run)
    assert study("verify")[0] == 1
    assert seen[0][2:] == ["--text", "a b", "--seed", "3"]


def test_verify_tells_of_a_crash_and_goes_on(recorded, study, project):
    script = project / "weeks" / "01" / "norm.py"
    angle = project / "weeks" / "01" / "angle.py"
    shutil.copy(script, angle)
    shutil.copy(script.parent / "evidence" / "norm.py", script.parent / "evidence" / "angle.py")
    script.write_text("raise SystemError('[broken]')\n", encoding="utf-8")
    status, said, _ = study("verify")
    assert status == 1
    assert said.splitlines() == [
        "✗ weeks/01/norm (0 s)",
        "    did not finish: SystemError: [broken]",
        "✗ weeks/01/angle (0 s)",
        "    no record weeks/01/results/angle.json; run the script with --record",
    ]


def test_record_then_verify_and_log(project, study):
    note = project / "weeks" / "01" / "note.md"
    note.write_text('<!--= weeks/01/norm "length" .2f -->?<!--/=-->\n', encoding="utf-8")
    status, said, error = study("record", "01")
    assert (status, error) == (0, "")
    assert said.endswith("rewrote weeks/01/note.md\n")
    assert "recorded in weeks/01/results/\n" in said
    assert list(files_in(note.parent / "results")) == ["norm.json", "norm_line.png"]
    assert records.load(note.parent / "results" / "norm.json")["metrics"][0]["value"] > 0
    assert study("log", "--check") == (0, "", "")
    change(note.parent / "results" / "norm.json", lambda r: r["metrics"][0].update(value=7.0))
    assert study("log", "--check") == (1, "stale weeks/01/note.md\n", "")
    assert study("log") == (0, "rewrote weeks/01/note.md\n", "")
    assert "-->7.00<!--" in note.read_text(encoding="utf-8")


def test_failing_script_is_not_recorded(recorded, study, project):
    broken = SCRIPT.replace(
        "np.linalg.norm(x),\n        against", "1 + np.linalg.norm(x),\n against"
    )
    (project / "weeks" / "01" / "evidence" / "norm.py").write_text(broken, encoding="utf-8")
    before = files_in(project / "weeks")
    assert study("record")[0] == 1
    assert files_in(project / "weeks") == before


def test_full_is_recorded_full_again(recorded, study, monkeypatch):
    seen = []

    def run(command, **options):
        seen.append(command)
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(cli.subprocess, "run", run)
    change(recorded, lambda record: record.update(mode="full"))
    assert study("record")[0] == 1
    change(recorded, lambda record: record.update(mode="default"))
    study("record")
    assert [command[2:] for command in seen] == [["--record", "--full"], ["--record"]]


def test_fetch(study, tmp_path, monkeypatch):
    monkeypatch.setenv("ML_STUDIES_DATA", str(tmp_path / "cache"))
    status, said, _ = study("fetch")
    assert status == 0
    assert said.startswith(f"cache folder: {tmp_path / 'cache'}\n")
    for name in registry.registry():
        assert name in said
    sizes = {line[0]: line[2] for line in map(str.split, said.splitlines()) if len(line) > 2}
    assert sizes["tinyshakespeare"] == "1.1"
    assert sizes["fashion_mnist"] == "?"  # no size is known
    assert sizes["halueval"].endswith("?")  # of one file only
    status, _, said = study("fetch", "tinyshakespear")
    assert status == 2
    assert said == (
        "study: error: unknown data set 'tinyshakespear'; did you mean tinyshakespeare?\n"
    )
    status, _, said = study("fetch", "tinyshakespeare")
    assert (status, said.count("\n")) == (2, 1)
    assert "run `study fetch tinyshakespeare` when online" in said
    assert not (tmp_path / "cache").exists()


def test_bugs(study, monkeypatch):
    catalogue = [
        bugs.Bug(name, "a.py", "x", "y", "wrong", f"tests/{name[0]}.py::t")
        for name in ("a-one", "b[i]")
    ]
    verdicts, sealed = {"a-one": "caught", "b[i]": "survived"}, []

    def survivors(chosen, *, jobs, show):
        for bug in chosen:
            show(bug, verdicts[bug.id])
        return [(bug, verdicts[bug.id]) for bug in chosen if verdicts[bug.id] != "caught"]

    monkeypatch.setattr(bugs, "catalogue", lambda: catalogue)
    monkeypatch.setattr(bugs, "seal", lambda caught, known: sealed.append([b.id for b in caught]))
    monkeypatch.setattr(bugs, "unproved", lambda known, sample, seed: known[: sample or None])
    monkeypatch.setattr(bug_runner, "survivors", survivors)
    both = "✓ a-one: caught\n✗ b[i]: survived\n1 of 2 bugs caught, 2 in all\n"
    one = "✓ a-one: caught\n1 of 1 bugs caught, 2 in all\n"
    assert study("bugs", "--all") == study("bugs") == (1, both, "")
    assert study("bugs", "a-") == study("bugs", "tests/a") == (0, one, "")
    assert study("bugs", "--sample", "1") == (0, one, "")
    assert sealed == [["a-one"]] * 5
    status, _, said = study("bugs", "c")
    assert (status, said) == (2, "study: error: no bug's name or test starts with c\n")


def test_restamp(recorded, study, project, monkeypatch):
    """A refactoring is proven; a changed number is not, and its record stays as it was."""
    git(project, "init", "-q")
    git(project, "add", "weeks", "shared", "curriculum.toml")
    git(project, "commit", "-qm", "first")
    idea, before = project / "weeks" / "01" / "norm.py", recorded.read_bytes()
    source = idea.read_text(encoding="utf-8")
    idea.write_text(source.replace("(x * x).sum()", "(x**2).sum()"), encoding="utf-8")
    assert study("restamp", "1", "--against", "HEAD") == (0, "✓ weeks/01/norm\n", "")
    assert records.load(recorded)["code"] == records.digest_of(idea)
    recorded.write_bytes(before)
    idea.write_text(source.replace("(x * x).sum()", "abs(x).sum()"), encoding="utf-8")
    status, said, _ = study("restamp", "1", "--against", "HEAD")
    assert (status, said.splitlines()[0]) == (1, "✗ weeks/01/norm")
    assert "    checks: 'norm of x[i]': then True, now False" in said
    assert recorded.read_bytes() == before
    status, _, said = study("restamp", "--against", "nosuch")
    assert (status, said) == (2, "study: error: git does not know the commit 'nosuch'\n")


LOCK = """\
version = 1

[[package]]
name = "color"
version = "0.5"
source = { registry = "." }
"""
FILLED = LOCK.replace('"."', '"https://mirror.example"') + (
    'wheels = [\n    { url = "https://mirror.example/color.whl" },\n]\n'
)


def test_setup_git(project, study):
    git(project, "init", "-q")
    (project / ".gitattributes").write_text("uv.lock filter=portable-lock\n", encoding="utf-8")
    (project / "uv.lock").write_text(LOCK, encoding="utf-8")
    git(project, "add", ".")
    git(project, "commit", "-qm", "first")
    (project / "uv.lock").write_text(FILLED, encoding="utf-8")
    assert "mirror.example" in git(project, "diff")
    status, said, error = study("setup-git")
    assert (status, error) == (0, "")
    assert said == "git now strips download addresses from uv.lock when it is committed\n"
    assert git(project, "diff") == git(project, "status", "--porcelain") == ""
    assert (project / "uv.lock").read_text(encoding="utf-8") == FILLED, "the reader's file stays"
    newer = FILLED.replace("0.5", "0.6")
    (project / "uv.lock").write_text(newer, encoding="utf-8")
    assert '+version = "0.6"' in git(project, "diff")
    git(project, "commit", "-qam", "newer")
    assert git(project, "show", "HEAD:uv.lock") == LOCK.replace("0.5", "0.6")
    assert study("setup-git")[0] == 0, "once more does no harm"


def test_setup_git_outside_git(project, study):
    status, _, said = study("setup-git")
    assert (status, said.count("\n")) == (2, 1)
    assert said.startswith("study: error: git config failed: ")
