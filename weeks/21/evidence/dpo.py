"""trl's losses, the optimum by enumeration, and a small GPT that learns what is preferred."""

import math

import numpy as np
import torch

from shared import plots
from shared.study import PositiveInt, Run
from week21 import trl_preferences as trl
from week21.dpo import (
    Preference,
    collate,
    dpo_loss,
    expected_dpo_loss,
    ipo_loss,
    kto_loss,
    pad_texts,
    regularized_optimum,
    response_log_probs,
    simpo_loss,
    train,
)
from week21.evidence.threads import one_thread
from week21.toy_reviews import (
    Reviewer,
    divergence,
    expected_reward,
    frontier,
    log_law,
    preferences,
    rewards,
    supervised,
    trainable_copy,
)

BETA = 0.3


def main(run: Run, *, seeds: PositiveInt = 4) -> None:
    """Compare with trl, find the optimum, then train on preferences between reviews.

    Parameters
    ----------
    seeds
        Reference policies, each with preferences of its own.
    """
    run.rounding(0.05, "training multiplies the rounding of its sums")
    check_against_trl(run)
    check_optimum(run)
    with one_thread():
        learn(run, run.budget(quick=2, default=max(seeds, 2), full=max(seeds, 8)))


# ---- checks


def scores(model, batch):
    """Log-probabilities of the rows, by our code, on a model of transformers."""
    found = response_log_probs(model(batch.tokens).logits, batch.tokens, batch.scored)
    return found.sum(dim=1)


def check_against_trl(run: Run) -> None:
    """Losses and gradients of all weights, on three pairs of unequal length; then three steps."""
    model, reference = trl.quietly(lambda: (trl.small_llama(0), trl.small_llama(1)))
    weights = list(model.parameters())
    draw = np.random.default_rng(run.seed)
    sizes = [(3, 4, 2), (1, 1, 5), (4, 2, 2)]
    pairs = [Preference(*(draw.integers(1, 23, n).tolist() for n in size)) for size in sizes]
    batch = collate(pairs)
    other = pad_texts([(p.prompt, pairs[i - 1].chosen) for i, p in enumerate(pairs)])
    length, good = batch.scored.sum(dim=1), torch.arange(6) < 3
    log_prob = scores(model, batch)
    ratio = log_prob - scores(reference, batch).detach()
    point = (scores(model, other) - scores(reference, other)).mean().clamp(min=0)
    labels = batch.tokens.masked_fill(~batch.scored, -100)
    ours = {
        "DPO": dpo_loss(*ratio.chunk(2), beta=BETA),
        "IPO": ipo_loss(*(ratio / length).chunk(2), beta=BETA),
        "KTO": kto_loss(ratio, good, point, beta=BETA),
        "SimPO": simpo_loss(*(log_prob / length).chunk(2), beta=2.0, gamma=0.5),
    }
    theirs = {
        "DPO": lambda: trl.pair_loss(model, reference, batch, "sigmoid", BETA),
        "IPO": lambda: trl.pair_loss(model, reference, batch, "ipo", BETA),
        "KTO": lambda: trl.kto_loss(model, reference, batch, other, good, BETA),
        "SimPO": lambda: trl.simpo_loss(model(batch.tokens).logits, labels, 2.0, 0.5),
    }
    why = "float32 sums in another order"
    equal = run.against("trl's loss code on the same weights", why=why, atol=2e-5, rtol=2e-5)
    for name, losses in ours.items():
        loss, theirs_loss = losses.mean(), trl.quietly(theirs[name])
        equal(f"{name}, loss", loss.item(), theirs_loss.item())
        g, h = (torch.autograd.grad(x, weights, retain_graph=True) for x in (loss, theirs_loss))
        a, b = (torch.cat([x.flatten() for x in parts]) for parts in (g, h))
        equal(f"{name}, gradient of all weights", a, b)
    for got in steps_of_both(pairs, reference):
        equal("weights after three steps of DPO", *got, atol=2e-4)


def steps_of_both(pairs, reference):
    """The weights after our training loop, and after trl's loss with torch's AdamW."""
    ours, theirs = trl.small_llama(0), trl.small_llama(0)
    settings = {"steps": 3, "batch": 2, "lr": 1e-3, "beta": BETA}
    generator = torch.Generator().manual_seed(7)
    parameters = list(ours.parameters())
    list(
        train(
            lambda tokens: ours(tokens).logits,
            lambda tokens: reference(tokens).logits,
            pairs,
            parameters=parameters,
            generator=generator,
            **settings,
        )
    )
    generator = torch.Generator().manual_seed(7)
    optimizer = torch.optim.AdamW(theirs.parameters(), 1e-3, betas=(0.9, 0.99), weight_decay=0)
    for _ in range(3):
        row = torch.randint(len(pairs), (2,), generator=generator)
        batch = collate([pairs[i] for i in row.tolist()])
        optimizer.zero_grad()
        trl.pair_loss(theirs, reference, batch, "sigmoid", BETA).backward()
        optimizer.step()
    yield tuple(torch.cat([p.detach().flatten() for p in m.parameters()]) for m in (ours, theirs))


def check_optimum(run: Run) -> None:
    """Where all answers can be listed, DPO's minimum is the policy of equation 4."""
    generator = run.generator(3)
    why = {"kind": "theorem", "why": "a gradient of 1e-10 at the end of L-BFGS"}
    equal = run.against("π_ref exp(r/β), normalized", atol=1e-6, **why)
    for beta in (0.1, 0.5, 1.0):
        reference, reward = torch.randn(2, 6, generator=generator, dtype=torch.float64)
        reference = reference.log_softmax(0)
        wins = (reward[:, None] - reward).sigmoid()
        found = minimizer(lambda p, r=reference, w=wins, b=beta: expected_dpo_loss(p, r, w, b), 6)
        equal(
            f"minimum over 6 answers, β = {beta}",
            found,
            regularized_optimum(reference, reward, beta).exp(),
        )


def minimizer(loss, n: int) -> torch.Tensor:
    """The probabilities that minimize a loss of n log-probabilities."""
    logits = torch.zeros(n, dtype=torch.float64, requires_grad=True)
    options = {"max_iter": 2000, "tolerance_grad": 1e-10, "tolerance_change": 1e-14}
    search = torch.optim.LBFGS([logits], line_search_fn="strong_wolfe", **options)

    def closure():
        search.zero_grad()
        value = loss(logits.log_softmax(0))
        value.backward()
        return value

    search.step(closure)
    return logits.detach().softmax(0)


# ---- a small GPT


def train_on(run: Run, reference: Reviewer, pairs, seed: int, steps: int, **options):
    """A policy, its law, and the logs of its training."""
    policy = trainable_copy(reference)
    settings = {"batch": 64, "steps": steps, "generator": run.generator(500 + seed), "beta": BETA}
    settings |= {"parameters": list(policy.parameters()), "lr": 1e-3, **options}
    logs = list(train(policy, reference, pairs, **settings))
    with torch.no_grad():
        return log_law(policy), logs


def learn(run: Run, seeds: int) -> None:
    """The exact reward before and after, with the preferences as they are and shuffled."""
    steps = run.budget(quick=(15, 12), default=(150, 150))
    gains, control, falls, accuracy, optimum = [], [], [], [], []
    for seed in run.progress(range(seeds), "seeds"):
        reference = supervised(run.seed + 40 + seed, steps[0])
        law = log_law(reference)
        data = preferences(law, 1500, run.generator(100 + seed))
        policy, logs = train_on(run, reference, data.pairs, seed, steps[1])
        gains.append(expected_reward(policy) - expected_reward(law))
        first, last = (np.mean([x["chosen"] for x in part]) for part in (logs[:5], logs[-10:]))
        falls.append(last - first)
        shuffled = preferences(law, 1500, run.generator(100 + seed), shuffled=True).pairs
        other, _ = train_on(run, reference, shuffled, seed, steps[1])
        control.append(expected_reward(other) - expected_reward(law))
        accuracy.append(ranked_right(policy - law, law, run.generator(900 + seed)))
        if seed == 0:
            starts(run, reference, law, data.pairs)
            optimum = fall_at_optimum(law, data)
            shown = law, reference, data.pairs, logs
    better = "preferences raise the expected reward"
    seen = "four seeds of an early version: 1.2 ± 0.3; six of these"
    run.claim(better, gains, at_least=0.5, seen_before=seen, rtol=None, quick=False)
    run.falsifier("shuffled preferences", control, breaks=better)
    name = "the chosen responses become less likely"
    seen = "four seeds of an early version: -1.4 ± 1.0; six of these"
    run.claim(name, falls, at_most=-0.5, unit="nats", seen_before=seen, rtol=None, quick=False)
    run.metric("change of the chosen at the optimum", optimum[0], "nats", rtol=None)
    run.metric("held-out pairs ranked as judged", np.mean([a for a, _ in accuracy]), rtol=0.05)
    run.metric("the same by the true reward", np.mean([b for _, b in accuracy]), rtol=0.05)
    draw(run, *shown, optimum, steps[1])


def starts(run: Run, reference: Reviewer, law: torch.Tensor, pairs) -> None:
    """Before the first step: all responses together have probability 1, and the loss is ln 2."""
    sums = {"kind": "theorem", "why": "float32 sums of 1,365 terms", "atol": 1e-4}
    run.check(
        "probabilities of all responses", law.exp().sum(1), torch.ones(3), against="1", **sums
    )
    one = train_on(run, reference, pairs, 0, 1)[1][0]["loss"]
    exact = {"kind": "theorem", "why": "float32 rounding", "atol": 1e-6}
    run.check("loss of a policy that is its reference", one, math.log(2), against="ln 2", **exact)


def ranked_right(ratio, law, generator) -> tuple[float, float]:
    """Share of new pairs that a policy's log-ratio ranks as judged; and the true reward's share."""
    prompt = torch.arange(6000) % 3
    a, b = torch.multinomial(law.exp()[prompt], 2, replacement=True, generator=generator).T
    gap = rewards()[a] - rewards()[b]
    first = torch.rand(6000, generator=generator) < gap.sigmoid()
    ours, differ = ratio[prompt, a] - ratio[prompt, b], a != b

    def share(value):
        return ((value > 0) == first)[differ & (value != 0)].float().mean().item()

    return share(ours), share(gap)


def fall_at_optimum(law, data) -> tuple[float, float]:
    """ln π*/π_ref, the mean over the chosen and over the rejected responses of the pairs."""
    ratio = regularized_optimum(law, rewards().expand_as(law), BETA) - law
    constant = (ratio - rewards() / BETA)[:, 0]  # minus ln Z of each prompt
    prompt = torch.arange(len(data.pairs)) % 3
    return tuple((r / BETA + constant[prompt]).mean().item() for r in (data.chosen, data.rejected))


def draw(run: Run, law, reference, pairs, logs, optimum, steps: int) -> None:
    """The log-probabilities while training, and where four losses end beside the frontier."""
    title = "Do the chosen responses become likelier?"
    with run.figure("chosen", title, size=(7.5, 4.2)) as axes:
        start = {name: np.mean([x[name] for x in logs[:3]]) for name in ("chosen", "rejected")}
        width = min(9, len(logs))
        mean = np.ones(width) / width
        lines = {n: np.convolve([x[n] for x in logs], mean, mode="valid") for n in start}
        level = {
            f"{name}, at the optimum": start[name] + fall
            for name, fall in zip(start, optimum, strict=True)
        }
        labels = {"xlabel": "step", "ylabel": "log-probability of a response (nats)"}
        steps_of = np.arange(len(lines["chosen"])) + width // 2
        plots.curves(axes, steps_of, lines, reference=level, **labels)
    grids = {
        "dpo": [{"beta": b} for b in (0.1, 0.3, 1.0)],
        "ipo": [{"beta": b} for b in (0.1, 0.3, 1.0)],
        "kto": [{"beta": b} for b in (0.1, 0.3, 1.0)],
        "simpo": [{"beta": b, "gamma": 0.5} for b in (1.0, 2.0, 4.0)],
    }
    if run.mode == "quick":
        grids = {name: settings[1:2] for name, settings in grids.items()}
    title = "How much reward does each loss buy with its KL?"
    with run.figure("frontier", title, size=(7.5, 4.6)) as axes:
        best = frontier(law, np.geomspace(0.05, 20, 60).tolist())
        axes.plot(*best.T, "--", color=plots.REFERENCE, lw=1, label="the optimum, exact")
        for color, (name, settings) in zip(plots.COLORS, grids.items(), strict=False):
            laws = [train_on(run, reference, pairs, 0, steps, loss=name, **s)[0] for s in settings]
            points = np.array([[divergence(p, law), expected_reward(p)] for p in laws])
            names = {"dpo": "DPO", "ipo": "IPO", "kto": "KTO", "simpo": "SimPO"}
            axes.plot(*points.T, "o-", color=color, label=names[name])
            gap = np.interp(points[:, 0], *best.flip(0).T.numpy()) - points[:, 1]
            run.metric(f"reward short of the frontier, {names[name]}", gap.mean(), rtol=None)
        axes.set(xlabel="KL from the reference (nats per response)", ylabel="expected reward")
        axes.legend(loc="lower right")
