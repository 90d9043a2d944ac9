"""The benchmark: its sides are given the same, its verdicts follow its numbers."""

import json

import numpy as np
import pytest

from rag.benchmark import bench, growth, measure, tables
from rag.benchmark.measure import clustered
from rag.benchmark.world import Generated, World
from shared import measuring
from shared.errors import UserError


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    out = tmp_path_factory.mktemp("bench") / "bench.json"
    return bench.bench([*bench.ROWS, "growth"], out=out, quick=True)


def test_every_row_is_there_and_in_a_table(record):
    assert set(record) == set(bench.KNOWN)
    pages = tables.pages(record)
    assert set(pages) == {"speed.md", "store.md", "goals.md", "growth.md", "crossover.md"}
    assert pages["goals.md"].count("a quick trial: none") == len(tables.GOALS)
    for name, text in pages.items():
        assert "nan" not in text, name
    json.dumps(record, allow_nan=False)


def test_all_that_pass_a_filter_come_back_and_langchain_gives_fewer(record):
    row = record["filters"]
    assert row["shares"]["rag"] == 1
    assert row["shares"]["LangChain FAISS"] < 1
    assert row["passing"] == row["n"] / 100


def test_exact_indexes_find_what_numpy_finds():
    row = growth.growth((400,), n_queries=4)
    assert [line["recall"] for line in row["lines"]] == [1.0] * 4
    assert {line["used"] for line in row["lines"]} == {"flat"}  # too few for anything else


def test_recall_is_of_the_exact_results(monkeypatch):
    real = growth.generation.Generation

    class Forgetful(real):
        """Is wrong but for the first row, unless it is exact."""

        def dense(self, vector, k, allowed):
            found = super().dense(vector, k, allowed)
            rows = np.append(found.rows[:1], -np.arange(1, k))
            return found if self.kind == "flat" else found._replace(rows=rows)

    monkeypatch.setattr(growth.generation, "Generation", Forgetful)
    lines = growth.growth((1500,), n_queries=3)["lines"]
    assert {line["index"]: line["recall"] for line in lines if line["used"] != "flat"} == {
        "ivf": pytest.approx(0.1),
        "sq8": pytest.approx(0.1),
        "hnsw": pytest.approx(0.1),
    }


def test_generated_vectors_depend_on_the_text_alone():
    texts = [f"text {i}" for i in range(50)]
    together, alone = Generated().encode(texts), [Generated().encode([text])[0] for text in texts]
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)


def test_clusters_are_near_one_another():
    vectors = clustered(2000, 16, clusters=5)
    products = vectors @ vectors.T
    assert np.quantile(products, 0.99) > 0.8
    assert np.median(products) < 0.5


def test_a_goal_that_is_missed_is_called_so():
    machine = {"cpu": "x", "cores": 2, "date": "today", "commit": "0", "quick": False}
    row = {"n": 100, "lines": [], "times_rank_bm25": 19.0, "reached": False, "machine": machine}
    line = tables.pages({"lexical": row})["goals.md"].splitlines()[2]
    assert line.endswith("| 19 times | missed |")


def test_a_rate_is_that_of_the_median_and_a_slow_moment_is_in_the_tail():
    found = measure.times([0.01] * 98 + [1.0] * 2)
    assert found["per_second"] == pytest.approx(100)
    assert found["p50_ms"] == pytest.approx(10)
    assert measure.times([0.01] * 9 + [1.0])["p95_ms"] > 500


def test_memory_is_that_of_the_process():
    little, much = (measuring.resident(f"x = b'1' * {n}") for n in (1, 300_000_000))
    assert 290e6 < much - little < 320e6
    with pytest.raises(UserError, match="memory cannot be measured: ZeroDivisionError"):
        measuring.resident("1 / 0")


def test_a_quick_trial_never_becomes_the_record():
    with pytest.raises(UserError, match="a quick trial measures nothing"):
        bench.bench(quick=True)


def test_wrong_input(tmp_path):
    with pytest.raises(UserError, match=r"rows must be among lexical, .*, got lexicon"):
        bench.bench(["lexicon"], out=tmp_path / "b.json")
    with pytest.raises(UserError, match="n must be at least 100, got 7"):
        World(7, 1, print)
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(UserError, match=r"record .*b.json cannot be read"):
        measuring.read_record(tmp_path / "b.json")
