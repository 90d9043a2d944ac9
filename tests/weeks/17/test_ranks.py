"""What the evidence takes from several processes."""

import torch

from week17.evidence.ranks import worst


def test_the_worst_process_is_judged():
    truth = torch.ones(2)
    answers = [{"x": torch.ones(2)}, {"x": torch.tensor([1.0, 3.0])}, {}]
    assert torch.equal(worst(answers, "x", truth), answers[1]["x"])
