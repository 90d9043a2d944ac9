"""The acceptance rules of the speculative decoding paper's reproduction."""

import importlib.util
from pathlib import Path

import pytest
import torch

PATH = Path(__file__).parents[2] / "papers" / "2023-speculative-decoding" / "reproduce.py"
spec = importlib.util.spec_from_file_location("reproduce_speculative_decoding", PATH)
reproduce = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reproduce)


@pytest.mark.parametrize(
    ("values", "verdict"),
    [([0.1, 0.2], "reproduced"), ([0.1, 0.3], "inconclusive"), ([0.3, 0.4], "not reproduced")],
)
def test_judge(values, verdict):
    assert reproduce.judge(values, 0.2) == verdict


def test_judge_needs_values():
    with pytest.raises(ValueError, match="values must hold at least one number"):
        reproduce.judge([], 1.0)


def test_rules_are_those_that_the_script_reads():
    paper = reproduce.front_matter(reproduce.README.read_text(encoding="utf-8"))
    assert [rule["most"] for rule in paper["rules"]] == [0.02, 1.5, 0.0, 0.1]
    with pytest.raises(ValueError, match="front matter"):
        reproduce.front_matter("# no front matter")


def test_long_run_rate_weighs_states_by_visits():
    """A state that is visited nine times as often counts nine times as much."""
    target = torch.tensor([[0.9, 0.1], [0.9, 0.1]], dtype=torch.float64)
    draft = torch.tensor([[0.9, 0.1], [0.0, 1.0]], dtype=torch.float64)
    assert reproduce.long_run_rate(target, draft) == pytest.approx(0.9 * 1.0 + 0.1 * 0.1)


def test_deviations_have_no_sign():
    found = {"measured": [1.1, 1.8], "formula": [1.0, 2.0]}
    assert reproduce.deviations(found) == pytest.approx([0.1, 0.1])
