"""DeepSeek-R1's page: the four rewards, and what is measured."""

import importlib.util

import numpy as np
import pytest
import torch
from enforce import ROOT

from week21.arithmetic import encode


@pytest.fixture(scope="module")
def page():
    path = ROOT / "papers" / "2025-deepseek-r1" / "reproduce.py"
    spec = importlib.util.spec_from_file_location("deepseek_r1", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rewards_are_what_their_names_say(page):
    four = page.rewards(0)
    texts = {"22": (1.0, 1.0, 0.0), "<think>13,22</think><answer>22</answer>": (1.5, 1.0, 1.0)}
    texts |= {"<think>22</think><answer>21</answer>": (0.5, 0.0, 1.0), "": (0.0, 0.0, 0.0)}
    for text, expected in texts.items():
        names = ("accuracy and format", "accuracy only", "format only")
        assert tuple(four[name](text, "22") for name in names) == expected
    thrown = [four["a coin"]("22", "22") for _ in range(400)]
    assert set(thrown) == {0.0, 1.0}
    assert 0.4 < np.mean(thrown) < 0.6


def test_measures_of_known_answers(page, monkeypatch):
    """A quarter right, half of the form, and a length that does not count the end."""

    def sample(policy, prompts, n_answers, **_):
        rows = []
        for prompt in prompts.tolist():
            answer = str(sum(token - 1 for token in prompt if 1 <= token <= 10))
            texts = [answer, "<think>1</think><answer>99</answer>"] * 2
            texts[2] = "99"
            rows += [encode(text + "<end>") for text in texts * (n_answers // 4)]
        return torch.nn.utils.rnn.pad_sequence(list(map(torch.tensor, rows)), batch_first=True)

    monkeypatch.setattr(page, "sample_answers", sample)
    found = page.measure(None, 8, 0)
    assert found["right"] == 0.25
    assert found["form"] == 0.5
    assert found["pass@16"] == 1
    assert 4 < found["length"] < 5
