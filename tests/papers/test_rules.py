"""A paper's rules are older than the first record that they judge, or say what was seen before."""

import json
import subprocess

import pytest
import yaml

from shared.papers import load
from shared.records import ROOT

PAPERS = sorted(path.parent for path in ROOT.glob("papers/*/reproduce.py"))


def git(*arguments, cwd=ROOT):
    done = subprocess.run(["git", *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""


def rules_of(readme):
    """Name and bounds of each rule in the text of a paper's page."""
    rows = yaml.safe_load(readme.split("---\n", 2)[1]).get("rules", []) if readme else []
    return {(r["name"], r.get("at_least"), r.get("at_most")) for r in rows if "name" in r}


def judged_by(record):
    """Name and bounds of each claim in the text of a record."""
    rows = json.loads(record)["claims"] if record else []
    return {(c["name"], c["at_least"], c["at_most"]) for c in rows if "at_least" in c}


def set_after_a_look(folder, cwd=ROOT):
    """Rules of a paper that came with the first record judged by them, or after it."""
    late, ruled = set(), set()
    for commit in git("log", "--format=%H", "--reverse", "--", folder, cwd=cwd).split():
        judged = judged_by(git("show", f"{commit}:{folder}/results/reproduce.json", cwd=cwd))
        late |= judged - ruled
        ruled |= rules_of(git("show", f"{commit}:{folder}/README.md", cwd=cwd))
    return late


@pytest.mark.skipif(
    git("rev-parse", "--is-shallow-repository") != "false\n", reason="the history is not here"
)
@pytest.mark.parametrize("folder", PAPERS, ids=lambda p: p.name)
def test_rules_are_older_than_records(folder):
    blind = {
        name
        for name, rule in load(folder / "reproduce.py").rules.items()
        if not rule.get("seen_before")
    }
    late = set_after_a_look(folder.relative_to(ROOT).as_posix()) if blind else set()
    assert {rule for rule in late if rule[0] in blind} == set()


def test_the_order_of_commits_decides(tmp_path):
    def commit(**files):
        for name, text in files.items():
            path = tmp_path / "p" / {"page": "README.md", "record": "results/reproduce.json"}[name]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        git("add", "-A", cwd=tmp_path)
        git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "-", cwd=tmp_path)

    def page(bound):
        return f"---\nrules:\n- name: a\n  at_least: {bound}\n---\n"

    def record(bound):
        return json.dumps({"claims": [{"name": "a", "at_least": bound, "at_most": None}]})

    git("init", "-q", cwd=tmp_path)
    commit(page=page(1.0))
    commit(record=record(1.0))
    assert set_after_a_look("p", tmp_path) == set()
    commit(page=page(0.5), record=record(0.5))
    assert set_after_a_look("p", tmp_path) == {("a", 0.5, None)}
