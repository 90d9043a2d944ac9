"""Equal to torch's; then counting: what an LSTM can do by hand and does not find by training."""

import copy

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import rnn

from shared import plots
from shared.study import PositiveInt, Run
from week11.lstm_gru import GRU, LSTM, RNN

LONGEST = 15  # that training sees
KINDS = {"LSTM": nn.LSTM, "GRU": nn.GRU, "tanh RNN": nn.RNN}


def main(run: Run, *, seeds: PositiveInt = 5) -> None:
    """Compare with torch, then let three networks learn to count.

    Parameters
    ----------
    seeds
        Networks trained of each kind.
    """
    for ours, theirs in ((LSTM, nn.LSTM), (GRU, nn.GRU), (RNN, nn.RNN)):
        check_library(run, ours, theirs)
    check_lengths(run)

    steps, seeds = run.budget(quick=3, default=600), run.budget(quick=2, default=seeds)
    right = {
        name: torch.stack([counted(*train(kind, run.seed + s, steps)) for s in range(seeds)])
        for name, kind in run.progress(KINDS.items(), "kinds")
    }
    blind = [counted(*train(nn.LSTM, run.seed + s, steps, shuffled=True)) for s in range(seeds)]
    share = {"unit": "share of lengths", "quick": False}
    learned = f"the LSTM learns to count to {LONGEST}"
    run.claim(learned, right["LSTM"][:, :LONGEST].mean(1), at_least=0.9, **share)
    run.falsifier("shuffled answers", torch.stack(blind)[:, :LONGEST].mean(1), breaks=learned)
    beyond = slice(3 * LONGEST, None)
    for name, seen in right.items():
        claim = f"{name}: the counter ends with the training lengths"
        pilot = "the outcome, in a pilot of four of these seeds trained up to 20"
        run.claim(claim, seen[:, beyond].mean(1), at_most=0.1, seen_before=pilot, **share)
    by_hand = counted(*counter(), longest=1000)
    run.claim("set by hand, an LSTM counts to 1000", by_hand.mean(), at_least=1, deterministic=True)
    run.falsifier(
        "the same cell, forgetting a thousandth per step",
        counted(*counter(forget=6.9), longest=1000).mean(),
        breaks="set by hand, an LSTM counts to 1000",
    )
    for name, seen in right.items():
        run.metric(f"{name}: counts right", seen.sum(1).mean(), f"of 1 to {4 * LONGEST}")
    with run.figure("counting", f"Trained to count to {LONGEST}, none goes far beyond") as axes:
        n = range(1, 4 * LONGEST + 1)
        lines = {"LSTM set by hand": by_hand[: len(n)]}
        lines |= {f"{name}, trained": seen.mean(0) for name, seen in right.items()}
        plots.curves(axes, n, lines, xlabel="n of aⁿbⁿ", ylabel="share of networks that are right")
        axes.axvline(LONGEST, color=plots.REFERENCE, linestyle="--", linewidth=1)


# ---- checks


def check_library(run: Run, ours, theirs) -> None:
    """Two layers, both directions, four lengths: outputs, states, gradients, steps of SGD."""
    torch.manual_seed(run.seed)
    name = ours.__name__
    mine = ours(3, 5, n_layers=2, bidirectional=True).double()
    twin = theirs(3, 5, num_layers=2, bidirectional=True, batch_first=True).double()
    twin.load_state_dict(mine.state_dict())
    x = torch.randn(4, 7, 3, generator=run.generator(), dtype=torch.float64)
    lengths = torch.tensor([7, 3, 1, 5])

    def packed(x):
        rows = rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        outputs, state = twin(rows)
        return rnn.pad_packed_sequence(outputs, batch_first=True)[0], state

    equal = run.against(f"torch.nn.{name}, packed", atol=1e-12, why="float64 rounding")
    found = []
    for net, read in ((mine, lambda x: mine(x, lengths=lengths)), (twin, packed)):
        leaf = x.clone().requires_grad_()
        outputs, state = read(leaf)
        (outputs.square().sum() + sum(part.sum() for part in state)).backward()
        gradients = torch.cat([p.grad.flatten() for p in net.parameters()])
        states = torch.cat([part.flatten() for part in state])
        found.append((outputs, states, leaf.grad, gradients))
    parts = ("outputs", "last states", "gradient of the input", "gradients of the weights")
    for part, a, b in zip(parts, *found, strict=True):
        equal(f"{name}: {part}", a, b)

    losses = []
    for net, read in ((mine, lambda x: mine(x, lengths=lengths)), (twin, packed)):
        optimizer, path = torch.optim.SGD(net.parameters(), lr=0.1), []
        for _ in range(3):
            optimizer.zero_grad()
            loss = (read(x)[0] - 0.5).square().mean()
            loss.backward()
            optimizer.step()
            path.append(loss.item())
        losses.append(path)
    equal(f"{name}: losses of three steps", *losses)


def check_lengths(run: Run) -> None:
    """A row of a padded batch is what it is alone, whatever stands in the padding."""
    torch.manual_seed(run.seed)
    net = LSTM(3, 5, n_layers=2, bidirectional=True).double()
    x = torch.randn(2, 6, 3, generator=run.generator(), dtype=torch.float64)
    padded, (h, _) = net(x, lengths=torch.tensor([6, 2]))
    alone, (h_alone, _) = net(x[1:, :2])
    same = {"against": "the row alone", "kind": "consistency", "atol": 1e-12, "why": "rounding"}
    run.check("a row in a padded batch", padded[1:, :2], alone, **same)
    run.check("its last states", h[:, 1:], h_alone, **same)


# ---- counting


def words(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """aⁿbⁿ as one-hot rows; after each b: does another follow (0), or was it the last (1)?"""
    x = torch.zeros(len(lengths), 2 * max(lengths), 2)
    y = torch.full(x.shape[:2], -100)
    for i, n in enumerate(lengths):
        x[i, :n, 0] = x[i, n : 2 * n, 1] = 1
        y[i, n : 2 * n] = 0
        y[i, 2 * n - 1] = 1
    return x, y


def train(
    kind: type[nn.Module], seed: int, steps: int, *, shuffled: bool = False
) -> tuple[nn.Module, nn.Module]:
    """A network and its read-out, trained with Adam on n up to LONGEST (torch's fused loops)."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    net, head = kind(2, 8, batch_first=True), nn.Linear(8, 2)
    parameters = [*net.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / steps)
        x, y = words(torch.randint(1, LONGEST + 1, (16,), generator=generator).tolist())
        if shuffled:  # the same answers, in other places
            counts = y >= 0
            answers = y[counts]
            y[counts] = answers[torch.randperm(len(answers), generator=generator)]
        loss = F.cross_entropy(head(net(x)[0]).transpose(1, 2), y)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    return net, head


def counter(forget: float = 30.0) -> tuple[nn.Module, nn.Module]:
    """An LSTM with one cell that adds 1 per a and takes 1 away per b, all gates open."""
    net, head = nn.LSTM(2, 1, batch_first=True), nn.Linear(1, 2)
    with torch.no_grad():
        for parameter in (*net.parameters(), *head.parameters()):
            parameter.zero_()
        net.weight_ih_l0[2] = torch.tensor([30.0, -30.0])  # g = ±1
        net.bias_ih_l0[:] = torch.tensor([30.0, forget, 0.0, 30.0])  # i, f, g, o
        head.weight[0], head.bias[1] = 1.0, 0.46  # tanh(1/2): is more than half an a left?
    return net, head


@torch.no_grad()
def counted(net: nn.Module, head: nn.Module, longest: int = 4 * LONGEST) -> torch.Tensor:
    """For n = 1 … longest, whether each answer about aⁿbⁿ is right: by our own networks."""
    ours = {nn.LSTM: LSTM, nn.GRU: GRU, nn.RNN: RNN}[type(net)](net.input_size, net.hidden_size)
    ours.load_state_dict(net.state_dict())
    ours, head = ours.double(), copy.deepcopy(head).double()
    right = []
    for first in range(1, longest + 1, 250):
        x, y = words(list(range(first, min(first + 250, longest + 1))))
        answers = head(ours(x.double())[0]).argmax(-1)
        right.append(((answers == y) | (y < 0)).all(1))
    return torch.cat(right).double()
