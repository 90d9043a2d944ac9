"""Influence against time for five cells, beside closed forms; then the adding problem."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from shared import plots
from shared.study import PositiveInt, Run
from week11.lstm_gru import GRU, LSTM, RNN, set_forget_bias
from week11.vanishing_gradients import (
    LSTM1997,
    adding_problem,
    influence,
    lstm_as_step,
    scaled_orthogonal,
)

WIDTH, INPUT = 32, 2


def main(run: Run, *, length: PositiveInt = 30, seeds: PositiveInt = 5) -> None:
    """Measure influence at initialization, then train on sums of two far numbers.

    Parameters
    ----------
    length
        Steps of the adding problem.
    seeds
        Networks of each kind; three of them are trained.
    """
    check_closed_forms(run)
    steps, seeds = run.budget(quick=10, default=100), run.budget(quick=2, default=seeds)
    seen = {
        name: torch.stack([measure(run.seed + s, steps) for s in range(seeds)])
        for name, measure in run.progress(CELLS.items(), "cells")
    }
    slope = {name: (path[:, -1].log() / steps) for name, path in seen.items()}
    unit = {"unit": "log influence per step"}
    vanishes = "the influence in a tanh network vanishes"
    run.claim(vanishes, slope["tanh RNN, orthogonal"], at_most=-0.05, **unit)
    run.falsifier("an LSTM that hardly forgets", slope["LSTM, forget bias 5"], breaks=vanishes)
    run.claim("an LSTM with forget bias 0 too", slope["LSTM, forget bias 0"], at_most=-0.05, **unit)
    run.claim("and a GRU", slope["GRU"], at_most=-0.05, **unit)
    keeps = "without a forget gate nothing is lost"
    run.claim(keeps, slope["LSTM of 1997"], at_least=0.0, **unit)
    for name, path in seen.items():
        run.metric(f"{name}: influence after 100 steps", path[:, -1].log().mean().exp())
    with run.figure("influence", "What is left of a step's influence") as axes:
        axes.set_yscale("log")
        labels = {"xlabel": "steps later", "ylabel": "root mean square singular value"}
        plots.curves(axes, range(1, steps + 1), seen, **labels)
    adding(run, length)


def adding(run: Run, length: int) -> None:
    """Mean squared errors of what three kinds learn, and of a task without marks."""
    steps, seeds = run.budget(quick=3, default=700), run.budget(quick=2, default=3)
    kinds = {"LSTM": nn.LSTM, "GRU": nn.GRU, "tanh RNN": nn.RNN}
    error = {
        name: [add(kind, run.seed + s, length, steps) for s in range(seeds)]
        for name, kind in run.progress(kinds.items(), "adding")
    }
    blind = [add(nn.LSTM, run.seed + s, length, steps, marked=False) for s in range(seeds)]
    unit = {"unit": "of the error of answering 1", "quick": False}
    solved = f"an LSTM adds numbers {length} steps apart"
    run.claim(solved, error["LSTM"], at_most=0.1, **unit)
    run.falsifier("without the marks", blind, breaks=solved)
    run.claim("so does a GRU", error["GRU"], at_most=0.1, **unit)
    run.falsifier("a tanh network", error["tanh RNN"], breaks=solved)


def add(kind, seed: int, length: int, steps: int, *, marked: bool = True) -> float:
    """Mean squared error after training (torch's fused loops), as a share of answering 1."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    net, head = kind(2, WIDTH, batch_first=True), nn.Linear(WIDTH, 1)
    if kind is nn.LSTM:
        set_forget_bias(net, 1.0)
    parameters = [*net.parameters(), *head.parameters()]
    optimizer, errors = torch.optim.Adam(parameters, lr=5e-3), []
    for _ in range(steps):
        x, y = adding_problem(64, length, generator)
        if not marked:
            x[..., 1] = 0.0
        loss = F.mse_loss(head(net(x)[0][:, -1])[:, 0], y)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        errors.append(loss.item())
    last = errors[-50:]
    return 6 * sum(last) / len(last)


# ---- influence at initialization, under one constant random input


def of_lstm(kind: type[LSTM], forget: float | None):
    """How to measure an LSTM."""

    def measure(seed: int, steps: int):
        torch.manual_seed(seed)
        lstm = kind(INPUT, WIDTH)
        if forget is not None:
            set_forget_bias(lstm, forget)
        return influence(lstm_as_step(lstm, torch.rand(1, INPUT)), torch.zeros(1, 2 * WIDTH), steps)

    return measure


def of_gru(seed: int, steps: int):
    """A GRU as torch initializes it."""
    torch.manual_seed(seed)
    gru = GRU(INPUT, WIDTH)
    x = F.linear(torch.rand(1, INPUT), gru.weight_ih_l0, gru.bias_ih_l0)
    hidden = gru.weight_hh_l0, gru.bias_hh_l0
    return influence(lambda h: gru.step(x, h, *hidden)[0], torch.zeros(1, WIDTH), steps)


def of_rnn(seed: int, steps: int):
    """A tanh network whose U is a rotation: only the tanh can lose anything."""
    torch.manual_seed(seed)
    rnn = RNN(INPUT, WIDTH)
    U = scaled_orthogonal(WIDTH, 1.0, torch.Generator().manual_seed(seed)).float()
    x = F.linear(torch.rand(1, INPUT), rnn.weight_ih_l0, rnn.bias_ih_l0)
    return influence(lambda h: rnn.step(x, h, U, rnn.bias_hh_l0)[0], torch.zeros(1, WIDTH), steps)


CELLS = {
    "LSTM of 1997": of_lstm(LSTM1997, None),
    "LSTM, forget bias 5": of_lstm(LSTM, 5.0),
    "LSTM, forget bias 1": of_lstm(LSTM, 1.0),
    "tanh RNN, orthogonal": of_rnn,
    "LSTM, forget bias 0": of_lstm(LSTM, 0.0),
    "GRU": of_gru,
}


def check_closed_forms(run: Run) -> None:
    """Linear networks, the product of Jacobians, and the cell's path, in closed form."""
    generator = run.generator()
    theory = run.against("the closed form", kind="theorem", rtol=1e-9, why="float64 rounding")
    U = scaled_orthogonal(6, 0.9, generator)
    t = torch.arange(1, 21)
    linear = influence(lambda h: h @ U.T, torch.randn(1, 6, generator=generator).double(), 20)
    theory("0.9 times a rotation", linear, 0.9 ** t.double())

    b = torch.randn(6, generator=generator).double()
    h, product, norms = torch.zeros(1, 6).double(), torch.eye(6).double(), []
    for _ in t:
        h = torch.tanh(h @ U.T + b)
        product = torch.diag(1 - h[0] ** 2) @ U @ product
        norms.append(product.norm() / math.sqrt(6))
    ours = influence(lambda h: torch.tanh(h @ U.T + b), torch.zeros(1, 6).double(), 20)
    theory("the product of diag(1 - h²) U", ours, torch.stack(norms))

    torch.manual_seed(run.seed)
    paths = {}
    for kind in (LSTM, LSTM1997):
        lstm = kind(1, 4).double()
        nn.init.zeros_(lstm.weight_hh_l0)  # gates that do not look at h are held as they are
        x = torch.rand(1, 1).double()
        step = lstm_as_step(lstm, x)
        paths[kind] = torch.autograd.functional.jacobian(
            lambda c, step=step: step(step(torch.cat([torch.zeros_like(c), c], -1)))[:, 4:],
            torch.randn(1, 4, generator=generator).double(),
        ).reshape(4, 4)
        if kind is LSTM:
            gates = F.linear(x, lstm.weight_ih_l0, lstm.bias_ih_l0) + lstm.bias_hh_l0
            f = gates.chunk(4, -1)[1].sigmoid()[0]
    theory("two steps along an LSTM's cell: f²", paths[LSTM], torch.diag(f**2))
    carousel = paths[LSTM1997]
    theory("along the cell of 1997: 1", carousel, torch.eye(4).double())
