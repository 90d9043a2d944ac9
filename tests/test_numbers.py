"""Numbers in the text: from a record, or among those that are listed as of another origin."""

import re
import tomllib
from collections import Counter

import pytest
from enforce import ROOT

PAGES = sorted([*ROOT.glob("weeks/*/*.md"), *ROOT.glob("papers/*/README.md"), ROOT / "README.md"])
LISTED = ROOT / "tests" / "numbers.toml"
NOT_TEXT = [
    re.compile(pattern, re.DOTALL | re.MULTILINE)
    for pattern in (
        r"^---\n.*?^---\n",  # front matter, read by the script
        r"^```.*?^```",  # code, which is run
        r"<!-- study:.*?<!-- /study -->|<!--[=@] .*?<!--/[=@]-->",  # written from records
        r"\$\$.*?\$\$|\$[^$\n]*\$|`[^`\n]*`|\]\([^)]*\)",  # formulas, code, links
        r"^## Sources.*\Z|<details>.*?</details>|^\s*\d+\. ",  # sources, exercises, lists
    )
]
NAMES = re.compile(  # years, places in a source, names such as GPT-2, and what is no measurement
    r"\b(1[5-9]\d\d|20\d\d)\b"
    r"|(?:[Ss]ections?|[Cc]hapters?|[Ee]q(?:uation|s)?\.?|[Tt]heorems?|[Ff]igures?|[Tt]ables?"
    r"|[Aa]lgorithms?|[Aa]ppendix|[Ww]eeks?|Project|§|step|version|Python) ?[\d.–-]+[a-z]?"
    r"|arXiv[: ]\d+\.\d+|\b[A-Za-z_]+-?\d+\b|\b\d+-?(?:bit|D|gram|way|fold)s?\b"
    r"|(?<![\d.,])[01](?![.,]?\d)|100 ?%|95 ?%"
)


def numbers_in(text: str) -> list[str]:
    """Numbers that stand in the text itself, in order."""
    for pattern in (*NOT_TEXT, NAMES):
        text = pattern.sub(" ", text)
    return [found.strip(".,") for found in re.findall(r"\d[\d.,]*", text)]


def test_markers_code_formulas_and_names_are_not_counted():
    text = 'See week 12, GPT-2 and $x = 3$: <!--= a/b "c" .0f -->44<!--/=--> of `5` fell by 6.5 %.'
    assert numbers_in(text) == ["6.5"]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_numbers_come_from_a_record_or_are_listed(page):
    listed = tomllib.loads(LISTED.read_text(encoding="utf-8"))
    known = Counter(listed.get(page.relative_to(ROOT).as_posix(), []))
    found = Counter(numbers_in(page.read_text(encoding="utf-8")))
    assert not found - known, "write it with a marker, or list it as definition or arithmetic"
    assert not known - found, "listed and no longer in the text"


def test_pages_that_are_listed_exist():
    listed = tomllib.loads(LISTED.read_text(encoding="utf-8"))
    assert set(listed) <= {page.relative_to(ROOT).as_posix() for page in PAGES}
