"""One model on one to four processes: the whole model's numbers, at odd sizes."""

import pytest
import torch
from parallel_workers import tensor_parallel_all

from week17 import mesh, tensor_parallel
from week17.answers import ask
from week17.sharded_runs import flat, joined, whole_run

CASES = [
    {"seed": 3, "steps": steps, "world": world, "optimizer": optimizer, "sequence_parallel": cut}
    for world, steps in ((1, 2), (2, 3), (3, 5), (4, 2))
    for optimizer, cut in (("adam", False), ("sgd", True))
]
MESH = {"seed": 5, "steps": 3, "data": 2, "tensor": 2}
CLOSE = {"rtol": 0.0, "atol": 1e-10}


@pytest.fixture(scope="module")
def results():
    return ask(tensor_parallel_all, 4, CASES, MESH, timeout=240)


def parts_of(results, i):
    return [result["cases"][i] for result in results[: CASES[i]["world"]]]


@pytest.mark.parametrize("i", range(len(CASES)))
def test_parts_are_the_whole(results, i):
    parts, whole = parts_of(results, i), whole_run(CASES[i])
    logits = torch.cat([part["logits"] for part in parts], -1)
    torch.testing.assert_close(logits, whole["logits"], **CLOSE)
    for what in ("grads", "weights"):
        torch.testing.assert_close(flat(joined(parts, what)), flat(whole[what]), **CLOSE)
    for part in parts:
        assert part["losses"] == pytest.approx(whole["losses"], abs=1e-10)
        assert part["norm"] == pytest.approx(whole["norms"][0], abs=1e-10)


def test_two_sums_each_way_and_layer(results):
    for i, case in enumerate(CASES):
        sent = parts_of(results, i)[0]["collectives"]
        layers = 2
        if case["sequence_parallel"]:
            # one more at either end: the embedding's sum and the head's gather
            assert sorted(sent["forward"].values()) == [2 * layers + 1] * 2
            assert sorted(sent["backward"].values()) == [2 * layers + 1] * 2
        else:
            assert list(sent["forward"].values()) == [2 * layers + 1]
            assert list(sent["backward"].values()) == [2 * layers + 1]


def test_replicas_count_once_in_a_norm(results):
    assert results[0]["pieces"]["norm"] == pytest.approx(4**0.5)  # three shards and one replica


def test_dropout_is_the_same_on_replicas_and_not_on_shards(results):
    same, own = zip(*(r["pieces"]["draws"] for r in results[:3]), strict=True)
    assert torch.equal(same[0], same[1])
    assert torch.equal(same[0], same[2])
    assert len({float(draw[0]) for draw in (*own, same[0])}) == 4


@pytest.mark.parametrize("row", mesh.grid(2, 2))
def test_a_mesh_is_one_process(results, row):
    parts, whole = [results[rank]["mesh"] for rank in row], whole_run(MESH)
    for part in parts:
        assert part["losses"] == pytest.approx(whole["losses"], abs=1e-10)
        assert part["norms"] == pytest.approx(whole["norms"], abs=1e-10)
    torch.testing.assert_close(flat(joined(parts, "weights")), flat(whole["weights"]), **CLOSE)


def test_an_empty_grid_is_named():
    with pytest.raises(ValueError, match="data and tensor must be at least 1, got 0 and 2"):
        mesh.grid(0, 2)


@pytest.mark.parametrize(("n", "world"), [(0, 3), (7, 3), (2, 4), (8, 4)])
def test_shares_are_even(n, world):
    shares = tensor_parallel.shares(n, world)
    assert sum(shares) == n
    assert max(shares) - min(shares) <= 1
