"""The bug catalogue: a mistake is caught by a test that goes red, and only by that."""

import shutil
import tempfile
from pathlib import Path

import pytest
from tiny_project import files_in, git, make_project

from shared import bug_runner, bugs, records
from shared.bugs import Bug
from shared.errors import UserError

AREA = "def area(r):\n    return 3 * r**2  # rough\n"
TESTS = """\
from week01.area import area

def test_area():
    assert area(2) == 12

def test_nothing():
    assert area
"""
PYPROJECT = '[tool.pytest.ini_options]\naddopts = "-q -n auto"\n'


def bug(**changes):
    fields = {
        "id": "area-linear",
        "file": "weeks/01/area.py",
        "before": "r**2",
        "after": "r",
        "symptom": "the area grows too slowly",
        "test": "tests/test_area.py::test_area",
    }
    return Bug(**fields | changes)


@pytest.fixture
def project(tmp_path, monkeypatch):
    root = make_project(tmp_path, monkeypatch)
    (root / "weeks" / "01" / "area.py").write_text(AREA, encoding="utf-8")
    (root / "tests").mkdir()
    (root / "tests" / "test_area.py").write_text(TESTS, encoding="utf-8")
    (root / "pyproject.toml").write_text(PYPROJECT, encoding="utf-8")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-qm", "first")
    monkeypatch.setattr(bug_runner, "HEAVY", ())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # a third of the time
    monkeypatch.setenv("PYTEST_PLUGINS", "xdist.plugin")
    yield root
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["project"], "something was left behind"
    assert git(root, "status", "--porcelain") == "", "the working tree was touched"


def test_caught_and_survived(project):
    """One of each: a mistake, no mistake, one that its test does not see, one that hides it."""
    chosen = [
        bug(),
        bug(id="comment", before="rough", after="exact"),
        bug(id="unseen", test="tests/test_area.py::test_nothing"),
        bug(id="no-syntax", before="def area(r):", after="def area(r:"),
    ]
    shown = {}
    before = files_in(project)
    alive = bug_runner.survivors(
        chosen, jobs=1, show=lambda bug, verdict: shown.update({bug.id: verdict})
    )
    assert files_in(project) == before
    assert shown.pop("no-syntax").startswith("did not run (pytest status")
    assert shown == {"area-linear": "caught", "comment": "survived", "unseen": "survived"}
    assert [bug.id for bug, _ in alive] == ["comment", "unseen", "no-syntax"]


def test_red_without_any_bug(project, monkeypatch):
    calls = []

    def red(copy, tests, *options):
        calls.append(tests)
        return bug_runner.TESTS_FAILED, "1 failed"

    monkeypatch.setattr(bug_runner, "_pytest", red)
    with pytest.raises(UserError, match=r"(?s)tests are red without any bug:.*1 failed"):
        bug_runner.survivors([bug(), bug(id="again")], jobs=1)
    assert calls == [[bug().test]], "nothing was tried after that"


def test_what_is_red_only_beside_others_is_judged_alone(project, monkeypatch):
    calls = []

    def once(copy, tests, *options):
        calls.append((tests, *options))
        late = "FAILED tests/test_a.py::test[x y] - assert 1 < 0\n1 failed, 1 passed"
        return (bug_runner.TESTS_FAILED, late) if len(calls) == 1 else (0, "1 passed")

    monkeypatch.setattr(bug_runner, "_pytest", once)
    monkeypatch.setattr(bug_runner.Worker, "run", lambda worker, tests: (1, "1 failed"))
    assert bug_runner.survivors([bug()], jobs=1) == []
    assert calls[1:] == [(["tests/test_a.py::test[x y]"], "-n0")]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"before": "r**3"}, "`before` must occur once in weeks/01/area.py, found 0 times"),
        ({"before": "r"}, "must occur once in weeks/01/area.py, found 6 times"),
        ({"file": "weeks/01/circle.py"}, "bug area-linear: there is no file weeks/01/circle.py"),
    ],
)
def test_bug_that_cannot_be_made(project, monkeypatch, changes, complaint):
    monkeypatch.setattr(bug_runner, "_pytest", lambda *arguments: pytest.fail("found out too late"))
    with pytest.raises(UserError, match=complaint):
        bug_runner.survivors([bug(), bug(**changes)])


def test_file_that_git_does_not_know(project, monkeypatch):
    """The next ones do not wait for ever for the copy that the first had."""
    monkeypatch.setattr(bug_runner, "_pytest", lambda *arguments: (0, ""))
    (project / ".gitignore").write_text("generated.py\n", encoding="utf-8")
    (project / "generated.py").write_text("r**2\n", encoding="utf-8")
    with pytest.raises(OSError, match=r"generated\.py"):
        bug_runner.survivors([bug(file="generated.py"), bug(file="generated.py")], jobs=1)
    (project / ".gitignore").unlink()
    (project / "generated.py").unlink()


def test_test_that_hangs_is_red(project, monkeypatch):
    monkeypatch.setattr(bug_runner, "TIMEOUT", 6)
    hangs = bug(after="r**2 if r == 3 else area(r) if not __import__('time').sleep(99) else 0")
    shown = []
    alive = bug_runner.survivors(
        [hangs, bug()], jobs=1, show=lambda bug, verdict: shown.append(verdict)
    )
    assert (alive, shown) == ([], ["caught", "caught"]), "the next one has a worker again"


def test_each_run_sees_the_sources_of_its_time(project):
    with bug_runner.Worker(bug_runner._copy(project.parent / "copy")) as worker:
        source = worker.copy / "weeks" / "01" / "area.py"
        statuses = [worker.run(["tests/test_area.py::test_area"])[0]]
        source.write_text(AREA.replace("r**2", "r"), encoding="utf-8")
        statuses.append(worker.run(["tests/test_area.py::test_area"])[0])
        source.write_text(AREA, encoding="utf-8")
        statuses.append(worker.run(["tests/test_area.py::test_area"])[0])
    shutil.rmtree(worker.copy)
    assert statuses == [0, bug_runner.TESTS_FAILED, 0]


def test_outside_git(tmp_path, monkeypatch):
    make_project(tmp_path, monkeypatch)
    monkeypatch.setattr(records, "git_files", lambda: [])
    with pytest.raises(UserError, match="this is not a git checkout"):
        bug_runner.survivors([bug(file="weeks/01/norm.py", before="Pythagoras", after="Euclid")])


def entry(**changes):
    fields = {
        field: str(changes.get(field, getattr(bug(), field))) for field in Bug.__annotations__
    }
    lines = [f'{field} = "{text}"' for field, text in fields.items() if text]
    return "[[bug]]\n" + "\n".join(lines) + "\n"


def test_catalogue(project):
    catalogue = project / "tests" / "bugs.toml"
    assert bugs.catalogue() == []
    catalogue.write_text(entry(), encoding="utf-8")
    deeper = project / "tests" / "weeks" / "bugs.toml"
    deeper.parent.mkdir()
    deeper.write_text(entry(id="other"), encoding="utf-8")
    assert bugs.catalogue() == [bug(), bug(id="other")]
    deeper.write_text(entry(), encoding="utf-8")
    with pytest.raises(UserError, match="two bugs are named area-linear"):
        bugs.catalogue()
    deeper.unlink()
    for wrong in (entry(test=""), entry() + 'author = "?"\n'):
        catalogue.write_text(wrong, encoding="utf-8")
        with pytest.raises(UserError, match=r"bug area-linear: missing or unknown (test|author)$"):
            bugs.catalogue()
    catalogue.unlink()


def test_only_what_changed_is_proved_again(project):
    """A seal breaks with the source, the test or the edit, not with a comment."""
    chosen = [bug(), bug(id="norm", file="weeks/01/norm.py", before="x * x", after="x")]
    assert bugs.unproved(chosen) == chosen
    bugs.seal(chosen, known=chosen)
    assert bugs.unproved(chosen) == []
    source, tests = project / "weeks" / "01" / "area.py", project / "tests" / "test_area.py"
    source.write_text(AREA + "# rougher\n", encoding="utf-8")
    assert bugs.unproved(chosen) == []
    for path, text in ((source, AREA.replace("3", "3.1")), (tests, TESTS.replace("12", "12.0"))):
        before = path.read_text(encoding="utf-8")
        path.write_text(text, encoding="utf-8")
        assert bugs.unproved(chosen) == (chosen if path == tests else chosen[:1])
        path.write_text(before, encoding="utf-8")
    assert bugs.unproved([bug(after="2 * r")]) == [bug(after="2 * r")]
    (project / bugs.LOCK).unlink()
    git(project, "checkout", "-q", ".")


def test_a_seal_is_of_one_test_and_what_it_may_use(project):
    tests = project / "tests" / "test_area.py"
    text = """import pytest
PI = 3


@pytest.mark.parametrize("r", [1, 2])
def test_one(r):
    assert area(r) == PI


class TestTwo:
    def test_two(self):
        assert area(2) == 12


class TestHelper:
    pass
"""
    named = {"one": "test_one[1]", "two": "TestTwo::test_two"}
    chosen = [bug(id=name, test=f"tests/test_area.py::{test}") for name, test in named.items()]
    tests.write_text(text, encoding="utf-8")
    bugs.seal(chosen, known=chosen)
    for change, broken in {
        ("[1, 2]", "[1, 3]"): ["one"],
        ("== 12", "== 13"): ["two"],
        ("PI = 3", "PI = 4"): ["one", "two"],
        ("    pass", "    x = 1"): ["one", "two"],
    }.items():
        tests.write_text(text.replace(*change), encoding="utf-8")
        assert [bug.id for bug in bugs.unproved(chosen)] == broken
    (project / bugs.LOCK).unlink()
    git(project, "checkout", "-q", ".")


def test_seals_of_others_stay_and_those_of_the_dead_go(project):
    one, other, dead = bug(), bug(id="other"), bug(id="dead")
    bugs.seal([one, other, dead], known=[one, other, dead])
    bugs.seal([one], known=[one, other])
    assert bugs.sealed().keys() == {"area-linear", "other"}
    (project / bugs.LOCK).unlink()


def test_the_sample_rotates(project):
    many = [bug(id=f"bug-{i}") for i in range(30)]
    bugs.seal(many, known=many)
    first = bugs.unproved(many, sample=5, seed="a1")
    assert len(first) == 5
    assert first == bugs.unproved(many, sample=5, seed="a1")
    assert first != bugs.unproved(many, sample=5, seed="b2")
    assert len(bugs.unproved(many, sample=99)) == 30
    (project / bugs.LOCK).unlink()


def test_copy_imports_its_own_code(project):
    target = bug_runner._copy(project.parent / "copy")
    assert (target / "imports" / "week01").resolve() == target / "weeks" / "01"
    assert files_in(target / "weeks") == files_in(project / "weeks")
    for path in sorted(Path(target).rglob("*"), reverse=True):
        path.unlink() if path.is_file() or path.is_symlink() else path.rmdir()
    target.rmdir()
