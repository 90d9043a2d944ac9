"""What the evidence on SmolLM2's texts counts, on rows that can be counted by hand."""

import pytest
import torch

from week19.evidence.sampling_smollm2 import Watched, distinct_pairs


def test_distinct_pairs_by_hand():
    assert distinct_pairs([1, 2, 1, 2, 1]) == 0.5  # 12 21 12 21
    assert distinct_pairs([1, 2, 3]) == 1


def test_each_row_has_its_temperature_and_is_judged_without_it():
    logits = torch.tensor([4.0, 0.0, 0.0]).expand(3000, 3)
    temperatures = torch.tensor([0.0, 1.0, 8.0]).repeat_interleave(1000)
    watched = Watched(temperatures)
    tokens = watched(logits, torch.zeros(3000, 1, dtype=torch.long), torch.Generator())
    first = (tokens == 0).view(3, 1000).float().mean(1).tolist()
    expected = (logits[0] / torch.tensor([[1e-3], [1.0], [8.0]])).softmax(-1)[:, 0].tolist()
    assert first == pytest.approx(expected, abs=0.05)
    likely = logits[0].log_softmax(-1)[tokens]
    torch.testing.assert_close(watched.likely[0], likely)
    assert all(len(values[0]) == 1000 for values in watched.left.values())
    assert watched.left["min-p 0.1"][0].unique().tolist() == [1]  # e⁻⁴ is below a tenth
    assert watched.left["top-p 0.9"][0].unique().tolist() == [1]  # 0.965 alone
    entropy = torch.distributions.Categorical(logits=logits[:1]).entropy()
    torch.testing.assert_close(watched.left["entropy"][0][:1], entropy)
