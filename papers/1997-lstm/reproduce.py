r"""Does a cell that keeps its content bridge lags where a plain network learns nothing?

The cell of 1997 has gates for what comes in and for what goes out, and none that forgets:

$$ c_t = c_{t-1} + i_t \odot \tanh(g_t), \qquad
   \frac{\partial c_T}{\partial c_0}\Big|_{\text{gates}} = I . $$

Today's LSTM multiplies $c_{t-1}$ by a gate $f_t$ besides; its bias decides how much is left.

Reduced: the adding problem (two marked numbers of a long row, their sum at the end) over 25 and
100 steps; 32 units; Adam and clipped gradients instead of the paper's truncated ones. The 1997
cell is torch's fused LSTM with $f$ = 1 to the last bit, so that no gradient reaches its gate. Its
input gates start nearly closed, as in the paper's experiment, or half open, as torch's. The rules
stand in the front matter of README.md.

    uv run papers/1997-lstm/reproduce.py

Hochreiter and Schmidhuber (1997), "Long Short-Term Memory", Neural Computation 9(8), section 4
and experiment 4; the problem in the form of Le, Jaitly and Hinton (2015).
"""

import itertools

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from shared import papers, plots
from shared.require import require
from shared.study import PositiveInt, Run, cli
from week11.lstm_gru import LSTM, RNN, set_forget_bias
from week11.vanishing_gradients import LSTM1997, adding_problem, influence, lstm_as_step

WIDTH, BATCH = 32, 32
OPEN = 40.0  # sigmoid(40) is 1 in float32, and its derivative 0
CELL, OPEN_CELL, LEAKING = "LSTM of 1997", "1997, input gates half open", "leaking cell"
ARMS = (CELL, OPEN_CELL, "LSTM, forget bias 1", "LSTM, forget bias 0", "tanh RNN", LEAKING)
LRS = dict.fromkeys(ARMS, 5e-3)  # tried on another seed: 5e-3 and 1e-2; 1e-3 and 3e-3 for tanh
LRS |= {CELL: 1e-2, LEAKING: 1e-2, "tanh RNN": 1e-3}
INPUT_BIAS = -3.0
LEAK = float(torch.tensor(0.9).logit())  # the falsifier's forget gate, fixed


def network(arm: str, seed: int) -> tuple[nn.RNNBase, nn.Linear]:
    """A recurrent network of one kind and its linear read-out."""
    require(arm in ARMS, f"arm must be one of {', '.join(ARMS)}", repr(arm))
    torch.manual_seed(seed)
    net = (nn.RNN if arm == "tanh RNN" else nn.LSTM)(2, WIDTH, batch_first=True)
    if arm.startswith("LSTM, forget bias"):
        set_forget_bias(net, float(arm[-1]))
    elif arm != "tanh RNN":
        hold_forget_gate(net, LEAK if arm == LEAKING else OPEN)
        if arm != OPEN_CELL:  # input gates start nearly closed, as the paper's
            nn.init.constant_(net.bias_ih_l0.data[:WIDTH], INPUT_BIAS)
    return net, nn.Linear(WIDTH, 1)


@torch.no_grad()
def hold_forget_gate(net: nn.LSTM, bias: float) -> None:
    """Make f the logistic function of `bias` whatever the input, and keep training from it."""
    rows = slice(net.hidden_size, 2 * net.hidden_size)  # gates stand in the order i, f, g, o
    keep = torch.ones(4 * net.hidden_size)
    keep[rows] = 0.0
    for name, weight in net.named_parameters():
        weight[rows] = bias if name == "bias_ih_l0" else 0.0
        weight.register_hook(lambda g: g * keep.view(-1, *[1] * (g.ndim - 1)))


def train(arm: str, seed: int, length: int, steps: int, lr: float) -> tuple[float, list[float]]:
    """Error on 2000 new sequences after training, and that of each batch on the way."""
    (net, head), generator = network(arm, seed), torch.Generator().manual_seed(seed)
    parameters, errors = [*net.parameters(), *head.parameters()], []
    optimizer = torch.optim.Adam(parameters)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        x, y = adding_problem(BATCH, length, generator)
        loss = F.mse_loss(head(net(x)[0][:, -1])[:, 0], y)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        errors.append(loss.item())
    x, y = adding_problem(2000, length, torch.Generator().manual_seed(10**6))
    with torch.no_grad():
        return F.mse_loss(head(net(x)[0][:, -1])[:, 0], y).item(), errors


def slope(seed: int, steps: int) -> float:
    """Log influence per step in a tanh network as torch initializes it."""
    torch.manual_seed(seed)
    rnn = RNN(2, WIDTH)
    x = F.linear(torch.rand(1, 2), rnn.weight_ih_l0, rnn.bias_ih_l0)
    left = influence(
        lambda h: rnn.step(x, h, rnn.weight_hh_l0, rnn.bias_hh_l0)[0], torch.zeros(1, WIDTH), steps
    )
    return left[-1].log().item() / steps


def cell_path(seed: int, steps: int, kept: float = 1.0) -> Float[Tensor, "width width"]:
    """Derivative of the 1997 cell by itself `steps` earlier, its gates deaf to what it holds.

    `kept` multiplies the cell before each step.
    """
    torch.manual_seed(seed)
    lstm = LSTM1997(2, WIDTH).double()
    nn.init.zeros_(lstm.weight_hh_l0)
    step, h = lstm_as_step(lstm, torch.rand(1, 2).double()), torch.zeros(1, WIDTH).double()

    def through(c):
        for _ in range(steps):
            c = step(torch.cat([h, kept * c], dim=-1))[:, WIDTH:]
        return c

    return torch.autograd.functional.jacobian(through, torch.randn(1, WIDTH).double())[0, :, 0]


def main(run: Run, *, seeds: PositiveInt = 3, steps: PositiveInt = 1000) -> None:
    """Measure influence, train on the adding problem, and judge by the front matter's rules.

    Parameters
    ----------
    seeds
        Networks of each kind.
    steps
        Updates of each on the longest rows; the shortest get a quarter.
    """
    paper = papers.load(__file__)
    check(run)
    far = run.budget(quick=10, default=100)
    seeds = run.budget(quick=2, default=max(seeds, 3), full=max(seeds, 8))
    ids = range(run.seed, run.seed + seeds)
    vanishes, carousel = "influence in a tanh network vanishes", "the carousel keeps its content"
    paper.judge(run, vanishes, [slope(seed, far) for seed in ids])
    eye = torch.eye(WIDTH).double()
    paper.judge(run, carousel, (cell_path(run.seed, far) - eye).abs().max().item())
    leaking = (cell_path(run.seed, far, kept=0.9) - eye).abs().max().item()
    run.falsifier("a cell multiplied by 0.9", leaking, breaks=carousel)

    lengths = run.budget(quick=(6, 8), default=(25, 100), full=(25, 100, 200, 1000))
    steps = run.budget(quick=3, default=steps, full=5 * steps)
    error, paths = {}, {}
    for arm, length in run.progress(list(itertools.product(ARMS, lengths)), "networks"):
        budget = max(1, steps // 4) if length == lengths[0] else steps
        trained = [train(arm, seed, length, budget, LRS[arm]) for seed in ids]
        error[arm, length] = np.array([last for last, _ in trained])
        paths[arm, length] = np.array([path for _, path in trained])
        name = f"{arm}: error over {length} steps"
        run.metric(name, error[arm, length].mean(), "squared error", rtol=0.05)
    late, long = {"quick": False, "rtol": None}, lengths[1]
    adds = "the cell of 1997 adds over 100 steps"
    paper.judge(run, adds, error[CELL, long], **late)
    run.falsifier("a cell that leaks a tenth", error[LEAKING, long], breaks=adds)
    paper.judge(run, "a tanh network does not", error["tanh RNN", long], **late)
    modern = "so does an LSTM that may forget, bias 1"
    paper.judge(run, modern, error["LSTM, forget bias 1", long], **late)
    draw(run, paper, {arm: paths[arm, long] for arm in ARMS}, long)


def draw(run: Run, paper: papers.Paper, paths: dict[str, np.ndarray], length: int) -> None:
    """Error against updates, mean of 50 batches."""
    window = min(50, len(next(iter(paths.values()))[0]))
    n = len(next(iter(paths.values()))[0]) // window
    means = {a: p[:, : n * window].reshape(len(p), n, window).mean(2) for a, p in paths.items()}
    title = f"Two numbers of {length}: which cells learn to add them?"
    with run.figure("adding", title, size=(9, 4.5)) as axes:
        labels = {"xlabel": "updates", "ylabel": "mean squared error", "yscale": "log"}
        marks = {"answering 1": 1 / 6, "solved": paper.matter["solved"]}
        plots.curves(axes, window * np.arange(1, n + 1), means, reference=marks, **labels)


def check(run: Run) -> None:
    """The fused stand-in is the 1997 cell; torch's step; the Jacobian of a tanh step."""
    same = {"atol": 1e-6, "why": "float32 rounding"}
    net, _ = network(CELL, run.seed)
    ours = LSTM1997(2, WIDTH)
    ours.load_state_dict(net.state_dict())
    x, _ = adding_problem(4, 30, run.generator())
    both = [part.detach() for part in (ours(x)[0], net(x)[0])]
    run.check("the cell of 1997, fused", *both, against="torch.nn.LSTM with f = 1", **same)
    before = net.weight_hh_l0.detach().clone()
    net(x)[0].sum().backward()
    rows, exact = slice(WIDTH, 2 * WIDTH), {"why": "exact", "kind": "theorem", "against": "zero"}
    run.check("gradient of its forget gate", net.weight_hh_l0.grad[rows], 0 * before[rows], **exact)
    modern, _ = network("LSTM, forget bias 1", run.seed)
    ours = LSTM(2, WIDTH)
    ours.load_state_dict(modern.state_dict())
    both = [part.detach() for part in (ours(x)[0], modern(x)[0])]
    run.check("an LSTM", *both, against="torch.nn.LSTM", **same)
    rnn = RNN(2, 5).double()
    h, xs = torch.randn(1, 5).double(), torch.zeros(1, 5).double()
    hidden = rnn.weight_hh_l0, rnn.bias_hh_l0
    jacobian = torch.autograd.functional.jacobian(lambda h: rnn.step(xs, h, *hidden)[0], h)
    with torch.no_grad():
        analytic = torch.diag(1 - rnn.step(xs, h, *hidden)[0][0] ** 2) @ rnn.weight_hh_l0
    closed = {"kind": "theorem", "against": "diag(1 - h²) U", "atol": 1e-12, "why": "float64"}
    run.check("Jacobian of a tanh step", jacobian[0, :, 0].detach(), analytic, **closed)


if __name__ == "__main__":
    cli(main)
