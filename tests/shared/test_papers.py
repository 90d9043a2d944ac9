"""A paper's rules come from its front matter, and judge."""

import pytest
from tiny_project import make_project

from shared import papers
from shared.errors import UserError
from shared.run import Run

MATTER = """---
year: 1637
rules:
  - {name: gains, at_least: 0.5, unit: nats, statistic: loss}
  - {name: kept, at_most: 2, each: true, seen_before: one seed}
---
# Title

---
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    folder = make_project(tmp_path, monkeypatch) / "papers" / "1637-geometry"
    folder.mkdir(parents=True)
    return folder / "reproduce.py"


def load(file, text):
    file.with_name("README.md").write_text(text, encoding="utf-8")
    return papers.load(file)


def test_rules_judge(file, tmp_path):
    paper, run = load(file, MATTER), Run(file, out=tmp_path / "out", quiet=True)
    assert paper.matter["year"] == 1637
    assert paper.judge(run, "gains", [1, 1.1, 0.9]) == "reproduced"
    assert paper.judge(run, "kept", [1, 3], note="two seeds") == "not reproduced"
    gains, kept = run.claims
    assert (gains["at_least"], gains["unit"], gains["paper"]) == (0.5, "nats", True)
    assert (kept["each"], kept["seen_before"], kept["note"]) == (True, "one seed", "two seeds")
    with pytest.raises(UserError, match="the front matter has no rule 'x'; it has gains, kept"):
        paper.judge(run, "x", [1, 2])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("# Title\n", "has no front matter"),
        ("", "has no front matter"),
        ("# Title\n---\nyear: 1637\n---\n", "has no front matter"),
        ("---\nyear: [1637\n---\n", "front matter: "),
        ("---\nrules: [{name: x}]\n---\n", "a rule needs a name and at_least or at_most"),
    ],
)
def test_bad_front_matter(file, text, complaint):
    with pytest.raises(UserError, match=rf"papers/1637-geometry/README\.md.*{complaint}"):
        load(file, text)
