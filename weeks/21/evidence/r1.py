"""The estimates against scipy, then a cold start, honest rewards, and two that are exploited."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from shared import plots
from shared.measuring import pinned
from shared.study import PositiveInt, Run
from week18.llama3 import Llama
from week21.arithmetic import END_ID, Problems, imitate, response_text, small_llama
from week21.grpo import GRPOConfig, sample_answers, train
from week21.r1 import (
    accuracy_reward,
    answer_in,
    corpus,
    format_reward,
    last_number,
    majority_at_k,
    pass_at_k,
    questions,
    weighted,
)

SUMS = Problems(terms=6, digits=1)
MAX_LENGTH = 32
BASE = {"direct": 0.5, "worked": 0.375, "tagged": 0.125}
COLD_START = {"tagged direct": 0.5, "tagged": 0.5}
CONFIG = GRPOConfig(n_prompts=16, max_length=MAX_LENGTH, lr=3e-4, beta=0.0)
REWARDS = {
    "accuracy and format": weighted(accuracy=1, format=0.2),
    "format only": weighted(format=1),
    "number anywhere": weighted(mentions=1),
}
DRAWN = 16


def main(run: Run, *, seeds: PositiveInt = 3) -> None:
    """Check the estimates, then reinforce small models with three rewards.

    Parameters
    ----------
    seeds
        Models that go through all of it.
    """
    run.rounding(0.05, "Muon multiplies in bfloat16, which processors round differently")
    check_estimates(run)
    with pinned():
        reason(run, run.budget(quick=1, default=max(2, seeds), full=max(8, seeds)))


def check_estimates(run: Run) -> None:
    """Drawing k of n answers without replacement is what the hypergeometric law describes."""
    from scipy.stats import hypergeom

    n_right, n, k = torch.arange(17), 16, 5
    reference = hypergeom(n, n_right.numpy(), k).sf(0)
    why = "float64 rounding"
    equal = run.against("scipy.stats.hypergeom", atol=1e-12, why=why)
    equal("pass@5 of 16, all counts", pass_at_k(n_right, n, k), reference)


# ---- a model that reasons, a little


@dataclass
class Watch:
    """A reward, and what a strict verifier and the form say of the same answers."""

    reward: Callable[[str, str], float]
    right: list[float] = field(default_factory=list)
    form: list[float] = field(default_factory=list)

    def __call__(self, response: str, answer: str) -> float:
        """Give the reward and remember."""
        self.right.append(accuracy_reward(response, answer))
        self.form.append(format_reward(response))
        return self.reward(response, answer)

    def per_step(self, values: list[float], steps: int) -> np.ndarray:
        """Means over the answers of each step."""
        return np.array(values).reshape(steps, -1).mean(1)


def measure(policy: Llama, n: int, seed: int) -> dict[str, float]:
    """Held-out sums: right with tags, right in any form, the form, pass@k, maj@k, length."""
    generator = torch.Generator().manual_seed(seed)
    problems = SUMS.draw(n, generator, held_out=True)
    options = {"max_length": MAX_LENGTH, "end": END_ID, "generator": generator}
    texts = list(
        map(response_text, sample_answers(policy, SUMS.prompts(problems), DRAWN, **options))
    )
    truth = [str(sum(numbers)) for numbers in problems]
    rows = [texts[i : i + DRAWN] for i in range(0, len(texts), DRAWN)]
    strict = [[accuracy_reward(t, a) for t in row] for row, a in zip(rows, truth, strict=True)]
    lenient = [[last_number(t) == a for t in row] for row, a in zip(rows, truth, strict=True)]
    n_right = torch.tensor(strict).sum(1).long()
    answers = [[answer_in(t) for t in row] for row in rows]
    return {
        "right": float(np.mean(strict)),
        "right in any form": float(np.mean(lenient)),
        "form": float(np.mean([format_reward(t) for t in texts])),
        "pass@16": float(pass_at_k(n_right, DRAWN, DRAWN).mean()),
        "maj@8": float(majority_at_k(answers, truth, 8).mean()),
    }


def reason(run: Run, seeds: int) -> None:
    """Imitate a mixed corpus, start cold on tags, reinforce; one run for each reward."""
    pretraining, cold, steps, n = run.budget(quick=(5, 2, 2, 2), default=(160, 15, 60, 100))
    found: dict[str, list[dict]] = {"base": [], "cold start": []} | {name: [] for name in REWARDS}
    curves: dict[str, dict[str, list]] = {name: {} for name in REWARDS}
    for seed in run.progress(range(seeds), "seeds"):
        g = run.generator(300 + seed)
        base = small_llama(g)
        list(imitate(base, lambda g=g: corpus(SUMS, BASE, 64, g), steps=pretraining))
        found["base"].append(measure(base, n, 800 + seed))
        started = copy.deepcopy(base)
        few = corpus(SUMS, COLD_START, 128, g)

        def examples(few=few, g=g) -> list[tuple[str, str]]:
            return [few[i] for i in torch.randint(len(few), (64,), generator=g).tolist()]

        list(imitate(started, examples, steps=cold, lr_scale=0.3))
        found["cold start"].append(measure(started, n, 800 + seed))
        for name, reward in REWARDS.items():
            policy, g = copy.deepcopy(started), run.generator(400 + seed)
            watch = Watch(reward)
            options = {"steps": steps, "end": END_ID, "config": CONFIG, "generator": g}
            seen = list(train(policy, started, questions(SUMS, watch, g), **options))
            lines = {
                "reward": [s.reward for s in seen],
                "right": watch.per_step(watch.right, steps),
                "length": [s.length for s in seen],
            }
            for what, values in lines.items():
                curves[name].setdefault(what, []).append(values)
            found[name].append(measure(policy, n, 800 + seed))
    judge(run, found, curves)
    draw(run, curves)


def judge(run: Run, found: dict[str, list[dict]], curves: dict) -> None:
    """What the honest reward teaches, and what the two others do."""

    def gain(arm: str, what: str) -> np.ndarray:
        pairs = zip(found[arm], found["cold start"], strict=True)
        return np.array([after[what] - before[what] for after, before in pairs])

    late = {"quick": False, "rtol": None, "unit": "share of held-out answers"}
    learns = "accuracy and format: more answers are right"
    honest = "accuracy and format"
    seen = "three of these seeds: 0.12 ± 0.06"
    run.claim(learns, gain(honest, "right"), at_least=0.1, seen_before=seen, **late)
    run.falsifier("rewarded for the form alone", gain("format only", "right"), breaks=learns)
    flawed = curves["number anywhere"]
    grown = [np.mean(row[-5:]) - np.mean(row[:5]) for row in flawed["length"]]
    late["unit"] = "tokens"
    longer = "rewarded for the number anywhere, answers grow longer"
    run.claim(longer, grown, at_least=3.0, seen_before="three of these seeds: 15", **late)
    for arm in found:
        for what in ("right", "right in any form", "form", "pass@16", "maj@8"):
            run.metric(f"{what}, {arm}", np.mean([one[what] for one in found[arm]]), rtol=None)
    for arm, lines in curves.items():
        for what, rows in lines.items():
            value = np.mean([row[-5:] for row in rows])
            run.metric(f"{what} at the end of training, {arm}", value, rtol=None)
            if what == "length":
                start = np.mean([row[:5] for row in rows])
                run.metric(f"length at the start of training, {arm}", start, rtol=None)


def draw(run: Run, curves: dict) -> None:
    """What was rewarded beside what was wanted, and the length."""
    names, width = list(curves), 5
    steps = len(curves[names[0]]["reward"][0])
    if steps < width:
        return
    x = np.arange(width, steps + 1)

    def smooth(rows: list) -> list:
        return [np.convolve(row, np.ones(width) / width, "valid") for row in rows]

    title = "Rewarded or right? What three rewards make of one model"
    with run.figure("rewards", title, columns=3, size=(11, 4), sharey=True) as axes:
        for place, name in zip(axes, names, strict=True):
            lines = {"rewarded": smooth(curves[name]["reward"])}
            lines |= {"right": smooth(curves[name]["right"])}
            plots.curves(place, x, lines, ends=False, xlabel="step", ylim=(0, 1.25))
            place.set_title(name, fontsize=11)
        axes[0].set_ylabel("mean per answer, 5 steps")
    with run.figure("length", "Do answers grow longer when only their end is rewarded?") as axes:
        lines = {name: smooth(curves[name]["length"]) for name in names}
        plots.curves(axes, x, lines, xlabel="step", ylabel="tokens per answer, mean of 5 steps")


if __name__ == "__main__":
    from shared.study import cli

    cli(main)
