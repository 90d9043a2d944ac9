"""Rewards that a program computes, and the two estimates that judge a reasoner."""

import itertools
import statistics

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from week21.arithmetic import END, Problems, encode
from week21.r1 import (
    accuracy_reward,
    answer_in,
    corpus,
    format_reward,
    last_number,
    majority_at_k,
    mentions_answer,
    pass_at_k,
    questions,
    weighted,
    written,
)

SUMS = Problems(terms=3, digits=1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- rewards


@pytest.mark.parametrize(
    ("response", "accuracy", "form"),
    [
        ("<think>13,22</think><answer>22</answer>", 1, 1),
        ("<answer>22</answer>", 1, 0),
        ("<think>22</think><answer>2</answer>", 0, 1),
        ("22", 0, 0),
        ("<think></think><answer>22</answer>", 1, 0),  # an empty thought is none
        ("<think>13,22</think><answer></answer>", 0, 0),
        ("<think>1</think><answer>21,22</answer>", 0, 1),  # two guesses
        ("<answer>22</answer><answer>22</answer>", 0, 0),  # two answers
        ("<answer>21</answer><answer>22</answer>", 0, 0),
        ("<think>1</think><answer>22</answer>22", 1, 0),  # more after the end
        ("<think>1<answer>22</answer></think>", 1, 0),
        ("<answer>022</answer>", 0, 0),
        ("<answer>22", 0, 0),
        ("", 0, 0),
    ],
)
def test_rewards(response, accuracy, form):
    assert accuracy_reward(response, "22") == accuracy
    assert format_reward(response) == form


def test_the_flawed_verifier_pays_for_many_guesses():
    guesses = ",".join(map(str, range(30)))
    response = f"<think>{guesses}</think><answer>3</answer>"
    assert mentions_answer(response, "22") == 1
    assert accuracy_reward(response, "22") == 0
    assert mentions_answer("<answer>122</answer>", "22") == 0, "a part of a number is not it"


def test_weights_add_up():
    reward = weighted(accuracy=1, format=0.2)
    assert reward("<think>1</think><answer>22</answer>", "22") == pytest.approx(1.2)
    assert reward("<think>1</think><answer>21</answer>", "22") == pytest.approx(0.2)
    assert reward("<answer>22</answer>", "22") == 1


def test_last_number():
    assert last_number("13,22") == "22"
    assert last_number("<think>") is None
    assert answer_in("22") is None


def test_rewards_belong_to_their_question():
    """Answers to one question stand in a row; each is judged by that question's sum."""
    batch = questions(SUMS, weighted(accuracy=1), generator(3))
    _, reward = batch(3)
    drawn = SUMS.draw(3, generator(3))
    texts = [f"<answer>{sum(numbers)}</answer>{END}" for numbers in drawn for _ in range(2)]
    texts[1] = f"<answer>99</answer>{END}"
    rows = [torch.tensor(encode(text)) for text in texts]
    answers = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    assert reward(answers).tolist() == [1, 0, 1, 1, 1, 1]


# ---- examples


@given(seed=st.integers(0, 10**6))
def test_worked_examples_are_right(seed):
    (numbers,) = SUMS.draw(1, generator(seed))
    text = written(SUMS, numbers, "tagged")
    truth = str(sum(numbers))
    assert accuracy_reward(text, truth) == format_reward(text) == 1
    thought = [int(x) for x in text.removeprefix("<think>").partition("<")[0].split(",")]
    assert thought == list(np.cumsum(numbers)[1:])
    for style in ("direct", "worked", "tagged direct"):
        assert last_number(written(SUMS, numbers, style)) == truth


def test_styles_come_in_their_shares():
    found = corpus(SUMS, {"direct": 3.0, "tagged": 1.0}, 2000, generator())
    share = np.mean([text.startswith("<think>") for _, text in found])
    assert share == pytest.approx(0.25, abs=0.04)


# ---- estimates


@given(n=st.integers(1, 9), data=st.data())
def test_pass_at_k_is_the_share_of_subsets(n, data):
    c = data.draw(st.integers(0, n))
    k = data.draw(st.integers(1, n))
    subsets = list(itertools.combinations([1] * c + [0] * (n - c), k))
    expected = np.mean([max(subset) for subset in subsets])
    assert pass_at_k(torch.tensor([c]), n, k).item() == pytest.approx(expected)


@given(
    row=st.lists(st.sampled_from(["1", "2", "3", None]), min_size=1, max_size=12), data=st.data()
)
def test_majority_is_the_mode_of_blocks(row, data):
    k = data.draw(st.integers(1, len(row)))
    blocks = [[a for a in row[i : i + k] if a] for i in range(0, len(row) - k + 1, k)]
    modes = [statistics.multimode(block) for block in blocks]
    expected = np.mean([("1" in mode) / max(1, len(mode)) for mode in modes])
    assert majority_at_k([row], ["1"], k).item() == pytest.approx(expected)


def test_one_vote_is_the_mean_and_one_try():
    rows = [["1", "2", "1", "1"], ["3", "3", "2", "2"]]
    found = majority_at_k(rows, ["1", "2"], 1)
    torch.testing.assert_close(found, pass_at_k(torch.tensor([3, 2]), 4, 1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pass_at_k(torch.tensor([1]), 4, 5), "k must be between 1 and n = 4, got 5"),
        (lambda: pass_at_k(torch.tensor([5]), 4, 1), "n_right must be between 0 and n = 4"),
        (lambda: majority_at_k([["1"]], ["1"], 2), "k must be between 1 and 1 answers, got 2"),
        (lambda: weighted(beauty=1), "weights must be of accuracy, format, mentions, got beauty"),
        (lambda: written(SUMS, (1, 2, 3), "verse"), "style must be one of"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()
