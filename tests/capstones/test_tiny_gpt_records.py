"""What the README says of the benchmark is what the committed records say."""

import matplotlib.image
import pytest
from conftest import ROOT

from tiny_gpt import ablation, bench, tables
from tiny_gpt.measure import read_record

RESULTS = ROOT / "capstones" / "tiny_gpt" / "results"


def test_tables_are_rendered_from_the_records():
    pages = tables.pages(RESULTS)
    assert set(pages) == {"duels.md", "speed.md", "costs.md", "ablation.md", "wikipedia.md"}
    for name, text in pages.items():
        assert (RESULTS / name).read_text(encoding="utf-8") == text, f"{name} is stale"


def test_duels_are_whole_and_of_the_recipes_as_they_are():
    rows = read_record(bench.RECORD)["rows"]
    for name in bench.DUELS:
        plan = rows[name]["plan"]
        assert not plan["quick"]
        assert {pair["seed"] for pair in rows[name]["pairs"]} >= {0, 1, 2}
        assert plan["recipe"] == bench.recipes.RECIPES[name], "the recipe changed after the record"
        assert rows[name]["verdicts"] == bench.judge(name, rows[name]["pairs"])
    assert bench.rival_is_one({"rows": rows}) is not None


def test_every_ingredient_was_tried_with_three_seeds():
    effects = ablation.effects(read_record(ablation.RECORD))
    assert {e.name for e in effects} == {i.name for i in ablation.INGREDIENTS}
    assert all(e.change.n >= 3 for e in effects)


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.png")), ids=lambda p: p.name)
def test_figures_are_small_and_show_something(path):
    assert path.stat().st_size <= 150_000
    assert matplotlib.image.imread(path).std() > 0.01
