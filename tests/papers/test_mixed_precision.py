"""The rules, the model and the statistic of papers/2018-mixed-precision-training."""

import math

import pytest
import torch
from test_scripts import load
from torch import nn

from shared import records
from week16.mixed_precision import Policy

paper = load(records.ROOT / "papers/2018-mixed-precision-training/reproduce.py")


def test_best_rate_knows_the_edge_and_divergence():
    assert paper.best_rate({0.1: 2.0, 1.0: 1.0, 10.0: math.nan}) == (1.0, True)
    assert paper.best_rate({0.1: 0.5, 1.0: 1.0, 10.0: 3.0}) == (0.1, False)


def batch(seeds=2, n=5, vocab=7):
    g = torch.Generator().manual_seed(0)
    return (
        torch.randint(vocab, (seeds, n, paper.CONTEXT), generator=g),
        torch.randint(vocab, (seeds, n), generator=g),
    )


def test_model_is_torchs():
    weights = paper.start(2, 7, 0)
    x, y = batch()
    ours = paper.lm_loss(weights, (x, y), torch.float32)
    for s in range(2):
        table, w1, b1, w2, b2 = (w[s] for w in weights)
        h = nn.functional.embedding(x[s], table).flatten(1)
        logits = torch.tanh(h @ w1 + b1) @ w2 + b2
        expected = nn.functional.cross_entropy(logits, y[s])
        assert ours[s].item() == pytest.approx(expected.item(), rel=1e-5)


def test_windows_are_paired_and_shifted():
    tokens = torch.arange(200)
    ((x, y),) = paper.batches(tokens, 3, 1, 0)
    assert (x[..., -1] + 1 == y).all()
    ((again, _),) = paper.batches(tokens, 3, 1, 0)
    assert (x == again).all()


def test_falsifier_bf16_loses_no_gradient():
    weights = paper.start(2, 7, 0)
    half = paper.lost_share(weights, batch(), Policy(torch.float16), 2.0**-22)
    assert (half > 0.1).all()
    assert (paper.lost_share(weights, batch(), Policy(torch.bfloat16), 2.0**-22) < 0.001).all()
    assert (paper.lost_share(weights, batch(), Policy(torch.float16), 1.0) < half).all()
