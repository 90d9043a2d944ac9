"""The log: tables and numbers in Markdown say what the records say, and nothing else."""

import json

import pytest
from tiny_project import git, make_project

from shared import log, records, tables
from shared.errors import UserError

CHECK = {"against": "theory", "kind": "theorem", "error": 2e-16, "passed": True}
CLAIM = {
    "name": "falls",
    "at_least": 1.0,
    "at_most": None,
    "each": False,
    "mean": 3.0,
    "low": 2.0,
    "high": 4.0,
    "n": 5,
    "unit": "nats",
    "note": "by |x| = 3\nin all",
    "seen_before": "",
    "verdict": "holds",
    "paper": False,
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    root = make_project(tmp_path, monkeypatch)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    save(root / "weeks" / "01" / "norm.py")
    (root / "weeks" / "01" / "README.md").write_text("# Week 01\n", encoding="utf-8")
    return root


def save(script, **changes):
    record = {
        **dict.fromkeys(records.REQUIRED, ""),
        "mode": "default",
        "seconds": 1.25,
        "checks": [{"name": "sum", **CHECK}, {"name": "p(x|y)", **CHECK, "error": 0.0}],
        "claims": [CLAIM, CLAIM | {"name": "better", "verdict": "not reproduced", "paper": True}],
        "falsifiers": [{**CLAIM, "name": "shuffled", "breaks": "falls", "broken": True}],
        "metrics": [{"name": "loss", "value": 1.23456, "unit": "nats", "rtol": None}],
        "figures": [{"file": f"{script.stem}_curve.png", "title": "Does it fall?"}],
        **changes,
    }
    script.parent.joinpath("results").mkdir(exist_ok=True)
    records.record_of(script).write_text(json.dumps(record), encoding="utf-8")


def script(path, title="A script"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'"""{title}.\n"""\n', encoding="utf-8")
    if path.name != "reproduce.py":
        (path.parent / "evidence").mkdir(exist_ok=True)
        (path.parent / "evidence" / path.name).touch()
    save(path)
    return path


def rendered(project, text, name="weeks/01/README.md"):
    return tables.render(text, project / name)


# ---- values


@pytest.mark.parametrize(
    ("name", "spec", "value"),
    [
        ("loss", ".2f", "1.23"),
        ("loss", ".4g", "1.235"),
        ("loss", ",.0f", "1"),
        ("loss", ".0%", "123%"),
        ("sum", ".0e", "2e-16"),
        ("p(x|y)", "g", "0"),
        ("seconds", ".1f", "1.2"),
        ("reference seconds", ".1f", "1.2"),
        ("falls", ".1f", "3.0"),
        ("falls", "detail", "3 ± 1 (n = 5) nats; by |x| = 3\nin all"),
        ("falls", "rule", "at least 1"),
        ("better", "verdict", "not reproduced"),
        ("shuffled", "detail", "3 ± 1 (n = 5) nats; by |x| = 3\nin all"),
    ],
)
def test_value(project, name, spec, value):
    begin = f'<!--= weeks/01/norm "{name}" {spec} -->'
    text = f"It is {begin}9.99<!--/=--> and {begin}<!--/=-->.\n"
    fresh = f"It is {begin}{value}<!--/=--> and {begin}{value}<!--/=-->.\n"
    assert rendered(project, text) == fresh
    if "\n" not in value:
        assert rendered(project, fresh) == fresh


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ('weeks/01/norm "los" .2f', "weeks/01/norm recorded no metric, check or claim 'los'"),
        ('weeks/01/norm "loss" detail', "weeks/01/norm recorded no claim 'loss'"),
        ('weeks/01/norm "shuffled" verdict', "recorded no claim 'shuffled'"),
        ('weeks/01/norm "loss" zz', "weeks/01/norm 'loss': 'zz' is no format of a number"),
        ('weeks/01/area "loss" .2f', "no record weeks/01/results/area.json"),
    ],
)
def test_value_that_is_not_there(project, value, complaint):
    with pytest.raises(UserError, match=complaint) as error:
        rendered(project, f"<!--= {value} -->1<!--/=-->")
    assert str(error.value).startswith("weeks/01/README.md: ")


@pytest.mark.parametrize(
    "text",
    [
        '<!--= weeks/01/norm "loss" .2f -->1.23\n',
        '<!--= weeks/01/norm "loss" .2f -->1 <!--= weeks/01/norm "loss" .2f -->2<!--/=-->',
        "<!--= weeks/01/norm loss .2f -->1.23<!--/=-->",
        "<!-- study:scripts -->\n| old |\n",
        "<!-- study:scripts -->\nmine\n<!-- study:scripts -->\n<!-- /study -->\n",
        "<!-- study:scripts --> <!-- /study -->",
    ],
)
def test_marker_that_is_not_closed(project, text):
    """It would never be rewritten, or swallow everything up to the next."""
    with pytest.raises(UserError, match=r"^weeks/01/README\.md: a generated .* is not well formed"):
        rendered(project, text)


def test_markers_may_be_spoken_of(project):
    text = 'Write `<!--= weeks/NN/x "metric" .2f -->`.\n\n```\n<!-- study:weeks -->\n```\n'
    assert rendered(project, text) == text


def test_failed_check_is_shown_as_such(project):
    path = script(project / "weeks" / "01" / "angle.py")
    save(path, checks=[{**CHECK, "name": "sum", "error": None, "passed": False}])
    value = rendered(project, '<!--= weeks/01/angle "sum" .1e -->1<!--/=-->')
    assert value.endswith("-->inf<!--/=-->")
    table = rendered(project, "<!-- study:scripts -->\n<!-- /study -->\n")
    assert "| 0/1 | 1/2 |" in table


# ---- tables


def test_table_of_scripts(project):
    text = "Before\n\n<!-- study:scripts -->\nold\n<!-- /study -->\n\nAfter\n"
    table = rendered(project, text)
    assert table.splitlines()[5] == ("| [norm](norm.py) | The length of a vector | 2/2 | 1/2 | 1 |")
    assert table.startswith("Before\n\n<!-- study:scripts -->\n| Script |")
    assert table.endswith("\n\nPlanned: angle.\n<!-- /study -->\n\nAfter\n")
    assert rendered(project, table) == table


def test_scripts_come_in_reading_order(project):
    """As the curriculum has them; those it does not know come last."""
    folder = project / "weeks" / "01"
    for name in ("zoo", "angle", "extra"):
        script(folder / f"{name}.py")
    (folder / "helper.py").write_text('"""No script."""\n', encoding="utf-8")
    script(project / "weeks" / "02" / "area.py")
    script(project / "papers" / "1637-geometry" / "reproduce.py")
    stems = ["norm", "angle", "extra", "zoo"]
    assert [path.stem for path in log.scripts_in(folder)] == stems
    assert [path.stem for path in log.all_scripts()] == [*stems, "area", "reproduce"]
    table = rendered(project, "<!-- study:scripts -->\n<!-- /study -->\n").splitlines()
    assert [row.split("]")[0] for row in table[3:7]] == [f"| [{stem}" for stem in stems]
    assert "Planned" not in "".join(table)


def test_bars_and_line_ends_do_not_break_a_table(project):
    script(project / "papers" / "1637-geometry" / "reproduce.py")
    text = "<!-- study:verdicts -->\n<!-- /study -->\n"
    rows = rendered(project, text, "papers/1637-geometry/README.md").splitlines()
    words = r"3 ± 1 (n = 5) nats; by \|x\| = 3 in all |"
    assert rows[3:6] == [
        f"| better | at least 1 | **not reproduced** | {words}",
        f"| falls | at least 1 | holds | {words}",
        f"| falsifier: shuffled | that of: falls | breaks the rule | {words}",
    ]


def test_what_was_seen_before_stands_in_the_table(project):
    paper = project / "papers" / "1637-geometry" / "reproduce.py"
    script(paper)
    save(paper, claims=[CLAIM | {"seen_before": "the mean of a trial"}])
    text = "<!-- study:verdicts -->\n<!-- /study -->\n"
    rows = rendered(project, text, "papers/1637-geometry/README.md")
    assert "| at least 1 (set after seeing: the mean of a trial) |" in rows


def test_tables_of_the_whole(project):
    names = ("weeks", "papers", "papers_short", "capstones")
    text = "".join(f"<!-- study:{name} -->\n<!-- /study -->\n" for name in names)
    before = rendered(project, text, "README.md")
    assert "| 01 | [Lengths](weeks/01/README.md) | How long a thing is | 1 of 2 |" in before
    assert "| 02 | Areas (*planned*) |  |  |" in before
    assert "\n1 weeks: 2 of 2 checks passed, 1 of 2 claims held.\n" in before
    assert before.count("| 1637 | La Géométrie | Curves are equations | *planned* |") == 2
    assert "| Ruler (planned) | Measures things | `uv run ruler` |" in before
    paper = project / "papers" / "1637-geometry" / "reproduce.py"
    script(paper)
    verdicts = ("reproduced", "not reproduced", "inconclusive")
    claims = [CLAIM | {"name": v[:3], "verdict": v, "paper": True} for v in verdicts]
    save(paper, claims=[CLAIM, *claims])
    (project / "capstones" / "ruler").mkdir(parents=True)
    (project / "capstones" / "ruler" / "README.md").touch()
    after = rendered(project, text, "papers/README.md")
    row = "| 1637 | [La Géométrie](1637-geometry/README.md) | Curves are equations | "
    full = "rep: **reproduced**; not: **not reproduced**; inc: **inconclusive**"
    assert f"{row}{full} |" in after
    assert f"{row}[1 of 3 reproduced, 1 inconclusive](1637-geometry/README.md) |" in after
    assert "| [Ruler](../capstones/ruler/README.md) | Measures things |" in after
    assert rendered(project, after, "papers/README.md") == after


def test_versions_of_the_records(project):
    angle = script(project / "weeks" / "01" / "angle.py")
    made = {"device": "cpu", "date": "2026-01-02 03:04"}
    save(angle, versions={"python": "3.12.1", "numpy": "2.0"}, **made)
    later = made | {"date": "2026-02-03"}
    for path, numpy, fields in (("01/norm.py", "2.1", made), ("02/area.py", "2.0", later)):
        path = project / "weeks" / path
        script(path)
        save(path, versions={"python": "3.11.7", "numpy": numpy, "torch": "2.9"}, **fields)
    text = "<!-- study:versions -->\n<!-- /study -->\n"
    assert rendered(project, text, "CONTRIBUTING.md").splitlines()[3:5] == [
        "| 3.11.7 | 2.9 | 2.0, 2.1 |  | cpu | 2 | 2026-02-03 |",
        "| 3.12.1 |  | 2.0 |  | cpu | 1 | 2026-01-02 |",
    ]


def test_what_a_capstone_rendered_is_included(project):
    text = "<!-- study:include table.md -->\nold\n<!-- /study -->\n"
    with pytest.raises(UserError, match=r"ruler/README\.md: results/table\.md cannot be read"):
        rendered(project, text, "capstones/ruler/README.md")
    results = project / "capstones" / "ruler" / "results"
    results.mkdir(parents=True)
    (results / "table.md").write_text("| a |\n|---|\n", encoding="utf-8")
    after = rendered(project, text, "capstones/ruler/README.md")
    assert after == "<!-- study:include table.md -->\n| a |\n|---|\n<!-- /study -->\n"


def test_mentions(project):
    """A week, paper, note or capstone is a link once it stands."""

    def mention(target):
        text = rendered(project, f"See <!--@ {target} -->x<!--/@-->.")
        return text.removeprefix(f"See <!--@ {target} -->").removesuffix("<!--/@-->.")

    assert mention("weeks/01") == "[Lengths](README.md)"
    assert mention("weeks/02") == "Areas (week 02, planned)"
    assert mention("papers/1637-geometry") == "La Géométrie (planned)"
    assert mention("capstones/ruler") == "Ruler (planned)"
    note = project / "weeks" / "01" / "norms.md"
    note.write_text("# What a norm is\n", encoding="utf-8")
    assert mention("weeks/01/norms.md") == "[What a norm is](norms.md)"
    for wrong in ("weeks/99", "papers/x", "nosuch", "weeks/01/x.md"):
        with pytest.raises(UserError, match=wrong):
            mention(wrong)


def test_navigation_comes_from_the_curriculum(project):
    (project / "weeks" / "01" / "a.md").write_text("# A\n", encoding="utf-8")
    entry = """
[[note]]
file = "weeks/01/b.md"
before = ["weeks/01/a.md"]
next = ["weeks/02"]
scripts = ["weeks/01/norm.py"]
"""
    with (project / "curriculum.toml").open("a", encoding="utf-8") as file:
        file.write(entry)
    text = "<!-- study:nav -->\n<!-- /study -->\n"
    line = rendered(project, text, "weeks/01/b.md").splitlines()[1]
    assert line.split(" · ") == [
        "**Before this:** [A](a.md)",
        "**Next:** Areas (week 02, planned)",
        "**Run:** [norm.py](norm.py)",
    ]
    with pytest.raises(UserError, match=r"the curriculum has no \[\[note\]\] of it"):
        rendered(project, text, "weeks/01/a.md")


def test_unknown_table(project):
    with pytest.raises(UserError, match=r"^weeks/01/README\.md: unknown table study:nosuch"):
        rendered(project, "<!-- study:nosuch -->\n<!-- /study -->\n")


# ---- files


STALE = '<!--= weeks/01/norm "loss" .2f -->9.99<!--/=-->\n'


def test_update(project):
    readme, note = project / "README.md", project / "weeks" / "01" / "note.md"
    readme.write_text("nothing generated\n", encoding="utf-8")
    note.write_text(STALE, encoding="utf-8")
    assert tables.update(check=True) == ["weeks/01/note.md"]
    assert note.read_text(encoding="utf-8") == STALE
    assert tables.update() == ["weeks/01/note.md"]
    assert "-->1.23<!--" in note.read_text(encoding="utf-8")
    assert tables.update() == tables.update(check=True) == []
    save(
        project / "weeks" / "01" / "norm.py",
        metrics=[{"name": "loss", "value": 1.3, "unit": "nats", "rtol": None}],
    )
    assert tables.update(check=True) == ["weeks/01/note.md"]


def test_markdown_files(project):
    for name in ("README.md", "übung.md", ".hidden/a.md", "runs/b.md"):
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).touch()

    def found():
        return {path.relative_to(project).as_posix() for path in log.markdown_files()}

    assert found() == {"README.md", "übung.md", "runs/b.md", "weeks/01/README.md"}
    git(project, "init", "-q")
    (project / ".gitignore").write_text("runs/\n.hidden/\n", encoding="utf-8")
    assert found() == {"README.md", "übung.md", "weeks/01/README.md"}


# ---- names


def test_select(project):
    folder = project / "weeks" / "01"
    angle, paper = folder / "angle.py", project / "papers" / "1637-geometry" / "reproduce.py"
    script(angle)
    script(paper)
    norm = folder / "norm.py"
    for target in ("01", "1", "weeks/01", "weeks/01/"):
        assert log.select([target]) == [norm, angle]
    for target in ("01/angle", "1/angle", "weeks/01/angle.py", "01/angle.py"):
        assert log.select([target]) == [angle]
    assert log.select(["1637-geometry"]) == log.select(["papers/1637-geometry"]) == [paper]
    assert log.select(["01/angle", "01"]) == [angle, norm]
    assert log.select([]) == [norm, angle, paper]
    for target in ("02", "nosuch", "01/nosuch", "", "norm"):
        with pytest.raises(UserError, match=r"no script is named .*; there are 01, 1637-geometry"):
            log.select([target])


@pytest.mark.parametrize(
    ("source", "title"),
    [
        ('"""A title."""', "A title"),
        ('"""A title.\n\nMore."""', "A title"),
        ('r"""p(x) \\mid y, e.g. this.\n"""', "p(x) \\mid y, e.g. this"),
        ('"""No period\n"""', "No period"),
    ],
)
def test_title(project, source, title):
    path = project / "script.py"
    path.write_text(source, encoding="utf-8")
    assert log.title_of(path) == title
    path.write_text("import math\n" + source, encoding="utf-8")
    with pytest.raises(UserError, match=r"script\.py does not begin with a docstring"):
        log.title_of(path)
