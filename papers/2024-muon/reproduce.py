r"""Does a small language model reach AdamW's loss in fewer steps with Muon?

Muon takes the momentum $M = U S V^\top$ of a weight matrix and steps along $U V^\top$, found by
Newton–Schulz iterations; with a factor that gives every step the root mean square of AdamW's,

$$ W \leftarrow (1 - \eta \lambda) W - \eta \cdot 0.2 \sqrt{\max(m, n)} \; U V^\top , $$

one learning rate $\eta$ serves the matrices (Muon) and all other parameters (AdamW). The rival
uses AdamW throughout. The falsifier keeps everything but the spectrum: the momentum divided by its
Frobenius norm, at the same root mean square. The rules stand in the front matter of README.md.
Reduced by default: the GPT of week 14 at a third of its size.

    uv run papers/2024-muon/reproduce.py

Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024), web note; Liu et
al., "Muon is scalable for LLM training" (2025), sections 2.2 and 3.2.
"""

import math
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap

from shared import datasets, papers, plots
from shared.require import require
from shared.study import PositiveInt, Run, cli
from week09.muon import orthogonalize
from week14.minimal_gpt import GPT, GPTConfig, next_token_loss, random_batch
from week14.ngram import encode_characters

Arm = Literal["adamw", "muon", "frobenius"]
ARMS: tuple[Arm, ...] = ("adamw", "muon", "frobenius")
NAMES = {"adamw": "AdamW", "muon": "Muon", "frobenius": "Frobenius"}


# ---- one step for a stack of models: the same code trains one or twenty


def direction(momentum: Float[Tensor, "run m n"], arm: Arm, **options) -> Float[Tensor, "run m n"]:
    """What Muon, or its falsifier, steps along: both have entries of root mean square about 0.2."""
    m, n = momentum.shape[-2:]
    if arm == "muon":
        return 0.2 * math.sqrt(max(m, n)) * orthogonalize(momentum, **options)
    size = momentum.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    return 0.2 * math.sqrt(m * n) * momentum / size


class StackedOptimizer:
    """AdamW for a stack of models, one rate each; `matrices` go to `direction` if arm is not adamw.

    `params` are stacked, the run first. Further options are those of `orthogonalize`.
    """

    def __init__(
        self,
        params: dict[str, Tensor],
        lr: Float[Tensor, " run"],
        arm: Arm,
        matrices: set[str],
        *,
        weight_decay: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.95),
        momentum: float = 0.95,
        **options,
    ):
        require(arm in ARMS, f"arm must be one of {', '.join(ARMS)}", repr(arm))
        require((lr > 0).all(), "lr must be positive", f"{lr.min().item():g}")
        self.params, self.lr, self.arm, self.options = params, lr, arm, options
        self.matrices = set() if arm == "adamw" else matrices
        self.weight_decay, self.betas, self.momentum = weight_decay, betas, momentum
        self.mean = {name: torch.zeros_like(p) for name, p in params.items()}
        self.square = {name: torch.zeros_like(p) for name, p in params.items()}
        self.t = 0

    @torch.no_grad()
    def step(self, factor: float = 1.0) -> None:
        """One step at `factor` times the learning rates."""
        self.t += 1
        beta1, beta2 = self.betas
        for name, p in self.params.items():
            grad, mean = p.grad, self.mean[name]
            if name in self.matrices:
                mean.lerp_(grad, 1 - self.momentum)
                # Nesterov: as if the mean were one step ahead
                change = direction(grad.lerp(mean, self.momentum), self.arm, **self.options)
            else:
                mean.lerp_(grad, 1 - beta1)
                square = self.square[name].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
                rms = (square / (1 - beta2**self.t)).sqrt_().add_(1e-8)
                change = mean / (1 - beta1**self.t) / rms
            lr = (factor * self.lr).view(-1, *[1] * (p.ndim - 1))
            p.mul_(1 - self.weight_decay * lr).sub_(lr * change)
            p.grad = None


def schedule(step: int, steps: int, warmup: float = 0.1) -> float:
    """Factor of the learning rate: up in the first tenth, then linearly down to zero."""
    rising = math.ceil(warmup * steps)
    return min((step + 1) / rising, (steps - step) / (steps - rising + 1))


def train_stack(
    config: GPTConfig,
    tokens: Int[Tensor, " n"],
    validation: Int[Tensor, "window length"],
    *,
    arm: Arm,
    lrs: list[float],
    seeds: list[int],
    steps: int,
    batch: int,
    weight_decay: float,
) -> Float[np.ndarray, " run"]:
    """Final validation losses (nats per character) of runs trained as one stack.

    Initial weights and batches depend on the seed alone, so runs of different arms with one seed
    are pairs. `validation` holds windows of context + 1 tokens.
    """
    models = [GPT(config, torch.Generator().manual_seed(seed)) for seed in seeds]
    params, _ = stack_module_state(models)
    matrices = {name for name, p in params.items() if name.startswith("blocks") and p.ndim == 3}
    rates = torch.tensor(lrs)
    optimizer = StackedOptimizer(params, rates, arm, matrices, weight_decay=weight_decay)
    sources = {seed: torch.Generator().manual_seed(1000 + seed) for seed in seeds}

    def loss(p, x, y):
        return next_token_loss(functional_call(models[0], p, (x,)), y)

    for step in range(steps):
        drawn = {s: random_batch(tokens, batch, config.context, g) for s, g in sources.items()}
        x, y = (torch.stack([drawn[seed][i] for seed in seeds]) for i in (0, 1))
        vmap(loss)(params, x, y).sum().backward()  # models share nothing: gradients stay apart
        optimizer.step(schedule(step, steps))
    parts, judged = validation.split(64), vmap(loss, in_dims=(0, None, None))
    with torch.no_grad():
        losses = torch.stack([judged(params, part[:, :-1], part[:, 1:]) for part in parts])
    weights = torch.tensor([len(part) for part in parts], dtype=torch.float32)
    return (losses.T @ weights / weights.sum()).double().numpy()


# ---- the statistic


def steps_ratio(
    losses: Float[np.ndarray, " budget"], budgets: Int[np.ndarray, " budget"], target: float
) -> float:
    """How many times fewer steps reach `target`: the largest budget over the first that gets there.

    Between two budgets the loss is taken to be linear in the logarithm of steps. If the smallest
    suffices, the ratio is that of the smallest (a lower bound); if none does, it is 0.
    """
    ascend = 0 < len(budgets) == len(losses) and (np.diff(budgets) > 0).all()
    require(ascend, "budgets must ascend, one per loss", budgets.tolist())
    there = np.flatnonzero(losses <= target)
    if not there.size:
        return 0.0
    i = int(there[0])
    if i == 0:
        return float(budgets[-1] / budgets[0])
    share = (losses[i - 1] - target) / (losses[i - 1] - losses[i])
    steps = math.exp((1 - share) * math.log(budgets[i - 1]) + share * math.log(budgets[i]))
    return float(budgets[-1] / steps)


def flops_overhead(config: GPTConfig, tokens_per_step: int, ns_steps: int = 5) -> float:
    """Operations of Newton–Schulz over those of the blocks' forward and backward pass.

    An m × n matrix, m ≤ n, costs 2nm² (Gram) + 2m³ (its square) + 2nm² per iteration; training
    costs 6mn per token (Jordan et al., "Runtime analysis").
    """
    d = config.d_model
    shapes = [(d, d)] * 4 + [(d, 4 * d)] * 2
    extra = sum(ns_steps * (4 * n * m * m + 2 * m**3) for m, n in shapes)
    return extra / (6 * tokens_per_step * sum(m * n for m, n in shapes))


# ---- the experiment


def main(run: Run, *, steps: PositiveInt | None = None, seeds: PositiveInt | None = None) -> None:
    """Tune three arms alike, then compare them at several budgets of steps, seed by seed.

    Parameters
    ----------
    steps
        AdamW's steps, the largest budget.
    seeds
        Pairs of runs.
    """
    paper = papers.load(__file__)
    run.rounding(0.05, "Muon multiplies in bfloat16, which processors round differently")
    steps = steps or run.budget(quick=4, default=320, full=600)
    n_seeds = seeds or run.budget(quick=2, default=4, full=8)
    run.chose(steps=steps, seeds=n_seeds)
    seeds = list(range(run.seed, run.seed + n_seeds))
    wide = [1e-3, 2.5e-3, 6.3e-3, 1.6e-2, 4e-2, 1e-1]
    lrs = run.budget(quick=[1e-3, 1e-2], default=[1e-3, 3e-3, 1e-2, 3e-2, 1e-1], full=wide)
    decays = run.budget(quick=[0.1], default=[0.1], full=[0.1, 0.01])
    context, layers, width = run.budget(quick=(16, 1, 16), default=(32, 2, 48), full=(64, 3, 96))
    batch = run.budget(quick=4, default=8, full=16)
    fractions = run.budget(quick=[0.6, 1.0], default=[0.2, 0.35, 0.6, 1.0])

    ids, alphabet = encode_characters(datasets.load_text("pydocs"))
    tokens, length = torch.from_numpy(ids), context + 1
    training, rest = tokens.tensor_split([int(0.9 * len(tokens))])
    windows = run.budget(quick=32, default=400, full=1024)
    validation = rest[: windows * length].view(windows, length)
    config = GPTConfig(len(alphabet), context, layers, 4, width)
    size = sum(p.numel() for p in GPT(config).parameters())
    run.say(f"GPT of {size:,} parameters, {batch * context} characters per step, {steps} steps")
    run.metric("parameters", size, rtol=0.02)

    _check_steps(run)
    _check_spectrum(run)
    common = {"config": config, "validation": validation, "batch": batch}
    _check_it_can_learn(run, training, common, steps)

    # ---- tuning: one seed that is not judged, the same grid for all
    grid: dict[Arm, dict[float, np.ndarray]] = {arm: {} for arm in ARMS}
    chosen: dict[Arm, tuple[float, float]] = {}
    trial = {"lrs": lrs, "seeds": [run.seed + 500] * len(lrs), "steps": steps, **common}
    for arm, decay in run.progress([(a, d) for a in ARMS for d in decays], "tuning"):
        grid[arm][decay] = train_stack(tokens=training, arm=arm, weight_decay=decay, **trial)
    for arm in ARMS:
        decay = min(decays, key=lambda d: grid[arm][d].min())
        chosen[arm] = lrs[int(grid[arm][decay].argmin())], decay
    edge = sum(chosen[arm][0] in (lrs[0], lrs[-1]) for arm in ARMS)
    note = ", ".join(f"{NAMES[arm]} {chosen[arm][0]:g}" for arm in ARMS)
    once = {"deterministic": True, "quick": False, "note": note}
    run.claim("best learning rates on the grid's edge", edge, at_most=0, **once)

    # ---- paired runs
    budgets = np.array([max(2, round(fraction * steps)) for fraction in fractions])
    losses: dict[Arm, np.ndarray] = {}  # seed, budget
    for arm in run.progress(ARMS, "paired runs"):
        lr, decay = chosen[arm]
        once = {"lrs": [lr] * n_seeds, "seeds": seeds, "weight_decay": decay, **common}
        # the falsifier need not show how early it arrives, only whether by 0.6 of the steps
        wanted = {"adamw": budgets[-1:], "muon": budgets, "frobenius": budgets[-2:]}[arm]
        found = [train_stack(tokens=training, arm=arm, steps=int(n), **once) for n in wanted]
        losses[arm] = np.stack(found, axis=1)

    def ratios(arm: Arm) -> np.ndarray:
        places = budgets[-losses[arm].shape[1] :]
        pairs = zip(losses[arm], losses["adamw"][:, -1], strict=True)
        return np.array([steps_ratio(row, places, float(goal)) for row, goal in pairs])

    muon, overhead = ratios("muon"), flops_overhead(config, batch * context)
    for arm in ARMS:
        run.metric(f"{NAMES[arm]}, final loss", losses[arm][:, -1].mean(), "nats/char", rtol=0.05)
    run.metric("Newton–Schulz operations / training operations", overhead, rtol=0.01)
    # whether a loss is reached at the quick size is a matter of rounding: never compared
    rule, late = "fewer steps to AdamW's loss", {"quick": False, "rtol": None}
    paper.judge(run, rule, muon, **late)
    name = "Frobenius normalization instead of Newton–Schulz"
    run.falsifier(name, ratios("frobenius"), breaks=rule, note="0: AdamW's loss is not reached")
    paper.judge(run, "fewer operations to AdamW's loss", muon / (1 + overhead), **late)
    _figure(run, paper, budgets, losses, muon)


def _check_steps(run: Run) -> None:
    """A stack of two models, and each of them alone under torch's optimizers."""
    config, count = GPTConfig(17, 8, 1, 2, 8), 8
    lrs, tokens = [0.02, 0.003], torch.randint(17, (count, 2, 3, 9), generator=run.generator())
    for arm, dtype in (("adamw", torch.float64), ("muon", torch.float32)):
        models = [GPT(config, run.generator(i)).to(dtype) for i in range(2)]
        params, _ = stack_module_state(models)
        names = {n for n, p in params.items() if n.startswith("blocks") and p.ndim == 3}
        options = {"dtype": torch.bfloat16} if arm == "muon" else {}
        ours = StackedOptimizer(params, torch.tensor(lrs, dtype=dtype), arm, names, **options)
        theirs = []
        for model, lr in zip(models, lrs, strict=True):
            named = dict(model.named_parameters())
            other = [p for n, p in named.items() if arm == "adamw" or n not in names]
            used = [torch.optim.AdamW(other, lr=lr, betas=(0.9, 0.95), weight_decay=0.1)]
            if arm == "muon":
                like = {"weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}
                used.append(torch.optim.Muon([named[n] for n in sorted(names)], lr=lr, **like))
            theirs.append(used)

        def loss(p, x, model=models[0]):
            return next_token_loss(functional_call(model, p, (x[:, :-1],)), x[:, 1:])

        for x in tokens:
            vmap(loss)(params, x).sum().backward()
            ours.step()
            for model, used, own in zip(models, theirs, x, strict=True):
                model.zero_grad()
                next_token_loss(model(own[:, :-1]), own[:, 1:]).backward()
                for optimizer in used:
                    optimizer.step()
        reference, _ = stack_module_state(models)
        sides = [torch.cat([p.flatten(1) for p in s.values()], 1) for s in (params, reference)]
        limit = {"atol": 1e-10, "why": "float64 rounding"}
        if arm == "muon":
            limit = {"atol": 1e-3, "why": "bfloat16 products, batched here and one by one there"}
        name = f"weights after {count} steps, {NAMES[arm]}, two models in a stack"
        run.check(name, *sides, against=f"torch.optim.{NAMES[arm]}, each model alone", **limit)


def _check_spectrum(run: Run) -> None:
    matrices = torch.randn(3, 48, 192, generator=run.generator(), dtype=torch.float64)
    U, _, Vt = torch.linalg.svd(matrices, full_matrices=False)
    cubic = orthogonalize(matrices, steps=30, dtype=torch.float64, coefficients=(1.5, -0.5, 0.0))
    why = "float64 rounding: this polynomial converges"
    svd = run.against("UVᵀ of torch.linalg.svd", atol=1e-10, why=why)
    svd("Newton–Schulz with (3/2, -1/2, 0), run to its end", cubic, U @ Vt)
    values = torch.linalg.svdvals(orthogonalize(matrices, dtype=torch.float64))
    why = "Muon's coefficients lift small values fast and scatter them around 1"
    ones = {"against": "UVᵀ has singular values 1", "kind": "theorem", "atol": 0.35, "why": why}
    run.check("Muon's five steps: singular values", values, torch.ones_like(values), **ones)


def _check_it_can_learn(run: Run, training: Tensor, common: dict, steps: int) -> None:
    """Before training it guesses; on shuffled text it learns the letters' frequencies at most."""
    vocab, steps = common["config"].vocab_size, max(steps // 4, 3)
    n = run.budget(quick=2, default=4)
    seeds = [run.seed + s for s in range(n)]
    once = {"arm": "muon", "seeds": seeds, "weight_decay": 0.1, **common}
    start = train_stack(**once, tokens=training, lrs=[1e-12] * n, steps=1)
    guess = {"against": "ln(alphabet), guessing", "kind": "theorem", "rtol": 0.01}
    theirs = np.full(n, math.log(vocab))
    run.check("loss before training", start, theirs, why="small random logits", **guess)
    mixed = training[torch.randperm(len(training), generator=run.generator(2))]
    rates = {"lrs": [0.03] * n, "steps": steps}
    real, control = (train_stack(**once, tokens=text, **rates) for text in (training, mixed))
    share = torch.bincount(training, minlength=vocab).double()
    letters = -(share / share.sum()).clamp(min=1e-9).log()[common["validation"][:, 1:]].mean()
    learns = "it learns more than the letters' frequencies"
    late = {"quick": False, "unit": "nats/char", "note": f"{steps} steps"}
    run.claim(learns, letters.item() - real, at_least=0.3, **late)
    run.falsifier("trained on shuffled text", letters.item() - control, breaks=learns)


def _figure(run: Run, paper: papers.Paper, budgets, losses, muon) -> None:
    title, layout = "How many steps does Muon save?", {"width_ratios": [1, 1.6]}
    with run.figure("steps", title, columns=2, size=(9.4, 4.3), **layout) as (left, right):
        factors = {"the paper:\noperations,\nLLMs": paper.matter["paper_ratio"]}
        factors["here: steps,\ntiny GPT"] = muon
        asked = {"asked for": paper.rules["fewer steps to AdamW's loss"]["at_least"]}
        labels = {"xlabel": "AdamW's cost / Muon's, same loss", "xlim": (0, None)}
        plots.bars(left, factors, colors=(plots.GRAY, plots.BLUE), reference=asked, **labels)
        lines = {"Muon": losses["muon"], "Frobenius norm": losses["frobenius"]}
        places = {name: budgets[-rows.shape[1] :] for name, rows in lines.items()}
        goal = losses["adamw"][:, -1]
        labels = {"xscale": "log", "xlabel": "steps of the run (each with its own schedule)"}
        labels["ylabel"] = "validation loss (nats/character)"
        style = {"colors": (plots.BLUE, plots.GRAY), "marker": "o", "ends": False}
        reference = {f"AdamW after {budgets[-1]} steps": goal.mean()}
        plots.curves(right, places, lines, reference=reference, **style, **labels)
        right.set_xticks(budgets, [str(b) for b in budgets])
        right.minorticks_off()


if __name__ == "__main__":
    cli(main)
