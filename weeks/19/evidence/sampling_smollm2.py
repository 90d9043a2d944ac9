"""Temperature and filters on SmolLM2: what is repeated, what is likely, which tokens are left."""

from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from shared import plots
from shared.errors import UserError
from shared.study import Run
from week18.smollm2 import smollm2
from week19.evidence.threads import one_thread
from week19.fused_llama import FusedLlama
from week19.kv_cache import generate
from week19.sampling import draw, greedy, keep_min_p, keep_top_p

TEMPERATURES = (0.0, 0.1, 0.5, 1.0, 1.5)
LENGTH, TOP_K = 64, 50
BEGINNINGS = (
    "Once upon a time there was",
    "The old house at the end of",
    "My favorite way to spend a Sunday",
    "In the year 2150, people will",
    "The scientist opened the door and",
    "Dear neighbor, I am writing to",
    "The river was quiet until",
    "Nobody in the village knew why",
    "When I was a child, I believed",
    "The recipe begins with",
)


class Watched:
    """Draws at a temperature per row, and keeps what a text is judged by.

    Attributes
    ----------
    likely
        Log-probability of each token under the model as it is, one entry per step.
    left
        Tokens that top-p 0.9 and min-p 0.1 leave in rows at temperature 1, and the entropy there.
    """

    def __init__(self, temperatures: Float[Tensor, " row"]):
        self.temperatures = temperatures
        self.likely: list[Float[Tensor, " row"]] = []
        self.left: dict[str, list[Float[Tensor, " some"]]] = {}

    def __call__(
        self,
        logits: Float[Tensor, "row vocab"],
        history: Int[Tensor, "row n"],
        generator: torch.Generator,
    ) -> Int[Tensor, " row"]:
        """The next tokens; temperature 0 takes the likeliest."""
        cold = self.temperatures == 0
        drawn = draw(logits / self.temperatures.where(~cold, 1.0)[:, None], generator)
        tokens = torch.where(cold, greedy(logits), drawn)
        log_p = logits.log_softmax(-1)
        self.likely.append(log_p.gather(1, tokens[:, None])[:, 0])
        own, log_p = (x[self.temperatures == 1] for x in (logits, log_p))
        found = {"entropy": -(log_p.exp() * log_p).sum(-1)}
        found["top-p 0.9"] = torch.isfinite(keep_top_p(own, 0.9)).sum(-1)
        found["min-p 0.1"] = torch.isfinite(keep_min_p(own, 0.1)).sum(-1)
        for name, values in found.items():
            self.left.setdefault(name, []).append(values.float())
        return tokens


def distinct_pairs(text: list[int]) -> float:
    """Share of a text's neighboring pairs that are different ones (distinct-2)."""
    pairs = list(pairwise(text))
    return len(set(pairs)) / len(pairs)


@one_thread()
def judge_smollm2(run: Run) -> None:
    """Ten beginnings at five temperatures, all in one batch."""
    try:
        model, tokenizer = smollm2()
    except UserError as error:
        run.say(f"SmolLM2 is left out: {error}")
        return
    n, rows = len(BEGINNINGS), len(BEGINNINGS) * len(TEMPERATURES)
    prompts = [tokenizer.encode(text) for _ in TEMPERATURES for text in BEGINNINGS]
    watched = Watched(torch.tensor(TEMPERATURES).repeat_interleave(n))
    options = {"choose": watched, "generator": run.generator(6)}
    steps = generate(FusedLlama(model, batch=rows), prompts, LENGTH, **options)
    texts = torch.stack([token.clone() for token in run.progress(steps, "tokens")], dim=1)
    distinct = np.reshape([distinct_pairs(text) for text in texts.tolist()], (-1, n))
    likely = torch.stack(watched.likely).mean(0).view(-1, n).numpy()
    gain = dict(zip(TEMPERATURES, distinct - distinct[0], strict=True))
    name, note = "SmolLM2 repeats itself less at temperature 1", "share of distinct pairs gained"
    run.claim(name, gain[1.0], at_least=0.1, note=note, quick=False, rtol=None)
    run.falsifier("at temperature 0.1", gain[0.1], breaks=name)
    for t, pairs, nats in zip(TEMPERATURES, distinct, likely, strict=True):
        run.metric(f"SmolLM2's distinct pairs, temperature {t:g}", pairs.mean(), rtol=None)
        run.metric(f"SmolLM2's log-probability, temperature {t:g}", nats.mean(), rtol=None)
    left = {name: torch.cat(values) for name, values in watched.left.items()}
    for name in ("top-p 0.9", "min-p 0.1"):
        for word, share in (("median", 0.5), ("nine tenths below", 0.9)):
            run.metric(f"tokens left by {name}, {word}", left[name].quantile(share), rtol=None)
    draw_both(run, left, distinct, likely)


def draw_both(
    run: Run,
    left: dict[str, Float[Tensor, " place"]],
    distinct: Float[np.ndarray, "temperature text"],
    likely: Float[np.ndarray, "temperature text"],
) -> None:
    """What filters leave at each place, and how likely and how varied the texts are."""
    title = "What do temperature and filters do to SmolLM2's text?"
    with run.figure("smollm2", title, columns=2, size=(9.5, 4.3)) as axes:
        for name, color in (("top-p 0.9", plots.BLUE), ("min-p 0.1", plots.ORANGE)):
            look = {"s": 9, "alpha": 0.4, "color": color, "linewidths": 0}
            axes[0].scatter(left["entropy"], left[name], label=name, **look)
        axes[0].axhline(TOP_K, ls="--", color=plots.REFERENCE, label=f"top-k {TOP_K}")
        axes[0].set(yscale="log", xlabel="entropy of the next token (nats)", ylabel="tokens left")
        axes[0].legend(loc="upper left")
        x, y = likely.mean(1), distinct.mean(1)
        axes[1].plot(x, y, "o-", color=plots.BLUE)
        for t, *point in zip(TEMPERATURES, x, y, strict=True):
            left_of = -46 if t == 0 else 6  # its point lies on that of the next temperature
            place = {"xytext": (left_of, -11), "textcoords": "offset points", "fontsize": 10}
            axes[1].annotate(f"T = {t:g}", point, **place)
        axes[1].set(xlabel="mean log-probability (nats per token)", ylabel="distinct pairs (share)")
        axes[1].margins(x=0.15)
