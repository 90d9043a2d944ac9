import datetime

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from week11.evidence.dates import ALPHABET, dates, encode
from week11.seq2seq_attention import Attention, Seq2Seq, greedy_decode

SCORES = ["additive", "multiplicative", "none"]
SOURCE, LENGTHS = torch.tensor([[3, 4, 5, 6], [7, 8, 0, 0]]), torch.tensor([4, 2])


def model(score="additive", seed=0, **options):
    torch.manual_seed(seed)
    return Seq2Seq(9, 7, d_model=3, hidden_size=4, score=score, **options)


@given(
    score=st.sampled_from(SCORES[:2]),
    batch=st.integers(1, 3),
    source=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_context_is_a_mean_of_what_is_real(score, batch, source, seed):
    torch.manual_seed(seed)
    look, memory = Attention(3, 4, score), torch.randn(batch, source, 4)
    keep = torch.rand(batch, source) < 0.6
    keep[:, 0] = True
    state = torch.randn(batch, 3)
    context, weights = look(state, look.keys(memory), memory, keep)
    assert (weights[~keep] == 0).all()
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(batch))
    torch.testing.assert_close(context, torch.einsum("bs,bsm->bm", weights, memory))
    for row in range(batch):  # each score from the formula, one at a time
        scores = [
            look.v @ torch.tanh(look.q_proj(state[row]) + look.k_proj(m))
            if score == "additive"
            else state[row] @ look.k_proj(m)
            for m in memory[row][keep[row]]
        ]
        expected = torch.stack(scores).softmax(dim=0)
        torch.testing.assert_close(weights[row][keep[row]], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("score", SCORES)
def test_teacher_forcing_is_stepping_by_hand_and_free_running_is_greedy(score):
    net = model(score).eval()
    target = torch.tensor([[1, 4, 2, 6], [1, 6, 5, 3]])
    logits, weights = net(SOURCE, LENGTHS, target)
    state, *memory = net.encode(SOURCE, LENGTHS)
    for t in range(4):
        step, state, where = net.step(target[:, t], state, *memory)
        torch.testing.assert_close(step, logits[:, t])
        torch.testing.assert_close(where, weights[:, t])
    free, _ = net(SOURCE, LENGTHS, target, forced=False)
    torch.testing.assert_close(free[:, 0], logits[:, 0])
    written = greedy_decode(net, SOURCE, LENGTHS, bos=1, eos=-1, max_len=4)
    assert (free.argmax(-1) == written).all()


def test_greedy_stops_at_the_end_and_pads():
    net = model()
    with torch.no_grad():
        net.out_proj.weight.zero_()
        net.out_proj.bias[2] = 9.0
    assert greedy_decode(net, SOURCE, LENGTHS, bos=1, eos=2, max_len=5).tolist() == [[2], [2]]
    written = greedy_decode(net, SOURCE, LENGTHS, bos=1, eos=6, max_len=3)
    assert written.tolist() == [[2, 2, 2]] * 2
    with torch.no_grad():
        net.out_proj.bias[2] = torch.nan
    with pytest.raises(ValueError, match="logits must not be NaN"):
        greedy_decode(net, SOURCE, LENGTHS, bos=1, eos=6, max_len=3)


def test_after_its_end_a_row_is_padded(monkeypatch):
    net = model()
    table = iter(torch.tensor([[2, 3], [4, 3], [4, 2]]))  # the first row ends at once
    monkeypatch.setattr(
        net, "step", lambda token, state, *_: (torch.eye(7)[next(table)], state, None)
    )
    written = greedy_decode(net, SOURCE, LENGTHS, bos=1, eos=2, max_len=5)
    assert written.tolist() == [[2, 0, 0], [3, 3, 2]]


def test_without_attention_the_source_still_matters():
    net, target = model("none").eval(), torch.tensor([[1, 4], [1, 4]])
    logits, weights = net(SOURCE, LENGTHS, target)
    assert not torch.allclose(logits[0], logits[1])
    assert (weights == 0).all()


def test_dates():
    pairs = dates(300, np.random.default_rng(0))
    assert all(datetime.date.fromisoformat(iso) for _, iso in pairs)
    assert len({len(written.split()) for written, _ in pairs}) > 2
    written, iso = pairs[0]
    assert iso[:4] in written
    assert "".join(ALPHABET[i] for i in encode(written)) == written


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: model("dot"), "score must be one of additive, multiplicative, none, got 'dot'"),
        (lambda: model()(SOURCE, LENGTHS[:1], SOURCE), "lengths must be integers of shape"),
        (
            lambda: greedy_decode(model(), SOURCE, LENGTHS, bos=1, eos=2, max_len=0),
            "max_len must be at least 1, got 0",
        ),
        (lambda: model()(SOURCE, LENGTHS * 0, SOURCE), "lengths must lie between 1 and 4, got"),
    ],
)
def test_bad_input(call, complaint):
    with pytest.raises(ValueError, match=complaint):
        call()
