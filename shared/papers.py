"""A paper's front matter: the claim, the rules set before the run, and the judging by them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from shared.errors import UserError
from shared.run import Run

__all__ = ["Paper", "load"]

RULE_FIELDS = {"at_least", "at_most", "each", "deterministic", "unit", "seen_before"}


@dataclass(frozen=True)
class Paper:
    """Front matter of a paper's README.

    Attributes
    ----------
    matter
        All of it: title, authors, year, claim, and settings that the rules name.
    rules
        By name: bounds (`at_least`, `at_most`), whether they hold for `each` seed, and what of
        the outcome was `seen_before`.
    """

    matter: dict
    rules: dict[str, dict]

    def judge(self, run: Run, name: str, values, **options) -> str:
        """Make the claim `name` of the paper, judged by its rule; see `Evidence.claim`.

        Raises
        ------
        UserError
            If the front matter has no such rule.
        """
        if name not in self.rules:
            raise UserError(
                f"the front matter has no rule {name!r}; it has {', '.join(self.rules)}"
            )
        rule = {k: v for k, v in self.rules[name].items() if k in RULE_FIELDS}
        return run.claim(name, values, paper=True, **(rule | options))


def load(file: str | Path) -> Paper:
    """The front matter of the README beside `file` (a paper's `reproduce.py`).

    Raises
    ------
    UserError
        If there is none, it is not YAML, or a rule has no name or bound.
    """
    readme = Path(file).resolve().parent / "README.md"
    where = f"papers/{readme.parent.name}/README.md"
    parts = readme.read_text(encoding="utf-8").split("---\n", 2)
    if len(parts) < 3 or parts[0]:
        raise UserError(f"{where} has no front matter")
    try:
        matter = yaml.safe_load(parts[1])
    except yaml.YAMLError as error:
        raise UserError(f"{where}: front matter: {error}") from None
    for rule in matter.get("rules", []):
        if "name" not in rule or not {"at_least", "at_most"} & rule.keys():
            raise UserError(f"{where}: a rule needs a name and at_least or at_most, got {rule}")
    return Paper(matter, {rule["name"]: rule for rule in matter.get("rules", [])})
