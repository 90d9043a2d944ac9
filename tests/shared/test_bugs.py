"""The bug catalogue: a mistake is caught by a test that goes red, and only by that."""

import shutil
import tempfile
from pathlib import Path

import pytest
from tiny_project import files_in, git, make_project

from shared import bugs, records
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
    (root / "weeks" / "01" / "__init__.py").touch()
    (root / "weeks" / "01" / "area.py").write_text(AREA, encoding="utf-8")
    (root / "tests").mkdir()
    (root / "tests" / "test_area.py").write_text(TESTS, encoding="utf-8")
    (root / "pyproject.toml").write_text(PYPROJECT, encoding="utf-8")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-qm", "first")
    monkeypatch.setattr(bugs, "HEAVY", ())
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
    told = {}
    before = files_in(project)
    alive = bugs.survivors(chosen, jobs=1, told=lambda bug, verdict: told.update({bug.id: verdict}))
    assert files_in(project) == before
    assert told.pop("no-syntax").startswith("did not run (pytest status")
    assert told == {"area-linear": "caught", "comment": "survived", "unseen": "survived"}
    assert [bug.id for bug, _ in alive] == ["comment", "unseen", "no-syntax"]


def test_red_without_any_bug(project, monkeypatch):
    calls = []

    def red(copy, tests, *options):
        calls.append(tests)
        return bugs.TESTS_FAILED, "1 failed"

    monkeypatch.setattr(bugs, "_pytest", red)
    with pytest.raises(UserError, match=r"(?s)tests are red without any bug:.*1 failed"):
        bugs.survivors([bug(), bug(id="again")], jobs=1)
    assert calls == [[bug().test]], "nothing was tried after that"


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"before": "r**3"}, "`before` must occur once in weeks/01/area.py, found 0 times"),
        ({"before": "r"}, "must occur once in weeks/01/area.py, found 6 times"),
        ({"file": "weeks/01/circle.py"}, "bug area-linear: there is no file weeks/01/circle.py"),
    ],
)
def test_bug_that_cannot_be_made(project, monkeypatch, changes, complaint):
    monkeypatch.setattr(bugs, "_pytest", lambda *arguments: pytest.fail("found out too late"))
    with pytest.raises(UserError, match=complaint):
        bugs.survivors([bug(), bug(**changes)])


def test_file_that_git_does_not_know(project, monkeypatch):
    """The next ones do not wait for ever for the copy that the first had."""
    monkeypatch.setattr(bugs, "_pytest", lambda *arguments: (0, ""))
    (project / ".gitignore").write_text("generated.py\n", encoding="utf-8")
    (project / "generated.py").write_text("r**2\n", encoding="utf-8")
    with pytest.raises(OSError, match=r"generated\.py"):
        bugs.survivors([bug(file="generated.py"), bug(file="generated.py")], jobs=1)
    (project / ".gitignore").unlink()
    (project / "generated.py").unlink()


def test_test_that_hangs_is_red(project, monkeypatch):
    monkeypatch.setattr(bugs, "TIMEOUT", 6)
    hangs = bug(after="r**2 if r == 3 else area(r) if not __import__('time').sleep(99) else 0")
    told = []
    alive = bugs.survivors([hangs, bug()], jobs=1, told=lambda bug, verdict: told.append(verdict))
    assert (alive, told) == ([], ["caught", "caught"]), "the next one has a worker again"


def test_each_run_sees_the_sources_of_its_time(project):
    with bugs.Worker(bugs._copy(project.parent / "copy")) as worker:
        source = worker.copy / "weeks" / "01" / "area.py"
        statuses = [worker.run(["tests/test_area.py::test_area"])[0]]
        source.write_text(AREA.replace("r**2", "r"), encoding="utf-8")
        statuses.append(worker.run(["tests/test_area.py::test_area"])[0])
        source.write_text(AREA, encoding="utf-8")
        statuses.append(worker.run(["tests/test_area.py::test_area"])[0])
    shutil.rmtree(worker.copy)
    assert statuses == [0, bugs.TESTS_FAILED, 0]


def test_outside_git(tmp_path, monkeypatch):
    make_project(tmp_path, monkeypatch)
    monkeypatch.setattr(records, "git_files", lambda: [])
    with pytest.raises(UserError, match="this is not a git checkout"):
        bugs.survivors([bug(file="weeks/01/norm.py", before="Pythagoras", after="Euclid")])


def entry(**changes):
    fields = {
        field: str(changes.get(field, getattr(bug(), field))) for field in Bug.__annotations__
    }
    lines = [f'{field} = "{text}"' for field, text in fields.items() if text]
    return "[[bug]]\n" + "\n".join(lines) + "\n"


def test_catalogue(project):
    catalogue = project / "tests" / "bugs.toml"
    with pytest.raises(OSError, match=r"bugs\.toml"):
        bugs.catalogue()
    catalogue.write_text("", encoding="utf-8")
    assert bugs.catalogue() == []
    catalogue.write_text(entry() + entry(id="other"), encoding="utf-8")
    assert bugs.catalogue() == [bug(), bug(id="other")]
    for wrong in (entry(test=""), entry() + 'author = "?"\n'):
        catalogue.write_text(wrong, encoding="utf-8")
        with pytest.raises(UserError, match=r"bug area-linear: missing or unknown (test|author)$"):
            bugs.catalogue()
    catalogue.unlink()


def test_touched(project):
    chosen = [bug(), bug(id="norm", file="weeks/01/norm.py", test="tests/test_norm.py::test_x")]
    assert bugs.touched(chosen, "HEAD") == []
    for name in ("weeks/01/area.py", "tests/test_area.py"):
        (project / name).write_text(AREA + TESTS, encoding="utf-8")
        assert bugs.touched(chosen, "HEAD") == chosen[:1]
        git(project, "checkout", "-q", ".")
    for base in ("nosuch", "--output=x", "weeks"):
        with pytest.raises(UserError, match=f"git does not know the commit '{base}'"):
            bugs.touched(chosen, base)


def test_copy_imports_its_own_code(project):
    target = bugs._copy(project.parent / "copy")
    assert (target / "imports" / "week01").resolve() == target / "weeks" / "01"
    assert files_in(target / "weeks") == files_in(project / "weeks")
    for path in sorted(Path(target).rglob("*"), reverse=True):
        path.unlink() if path.is_file() or path.is_symlink() else path.rmdir()
    target.rmdir()
