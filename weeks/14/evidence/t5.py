"""T5 against transformers, its spans against counting, and what it learns from cut-out text."""

import copy
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from math import comb

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared import datasets, plots
from shared.study import PositiveInt, Run
from week11.batches import pad
from week13.positional_encodings import relative_position_bucket
from week14.ngram import encode_characters
from week14.span_corruption import (
    EOS,
    PAD,
    corrupt_spans,
    infill,
    noise_mask,
    random_segments,
    raw_length,
    restore,
    source_and_target_length,
)
from week14.t5 import T5, T5Config, greedy, training_losses
from week14.t5_twin import hugging_face_name, randomize, transformers_twin

SMALL = T5Config(31, 24, 2, 4, head_dim=5, d_ff=40, n_buckets=8, max_distance=16)
SENTINELS, SOURCE, BATCH, LR = 16, 64, 16, 0.005
SEEN = (
    "seeds 100 to 102, 300 steps: 0.46 (letters), 0.35 (source), 1.29 (infilling), 0.04 (decoder)"
)
LOSSES = ("right", "other", "mixed", "mixed, other", "decoder", "encoder")
Sides = tuple[Int[Tensor, "batch source"], Int[Tensor, "batch target"]]


def main(run: Run, *, steps: PositiveInt | None = None) -> None:
    """Compare with transformers, check the spans, and train on Python's manual.

    Parameters
    ----------
    steps
        Training steps of each of three models; about a minute's worth if not given.
    """
    run.rounding(0.05, "float32 sums in another order, over some steps of training")
    for version in ("1.0", "1.1"):
        check_against_transformers(run, version)
    check_spans(run)
    steps = steps or run.budget(quick=4, default=200, full=2000)
    run.chose(steps=steps)
    learn(run, steps)


# ---- checks


def check_against_transformers(run: Run, version: str) -> None:
    """Same weights, same tokens: logits, gradients, steps, buckets and greedy answers."""
    from transformers.models.t5.modeling_t5 import T5Attention

    config = T5Config(**(vars(SMALL) | {"version": version}))
    ours = randomize(T5(config), seed=run.seed)
    theirs, generator = transformers_twin(ours), run.generator()
    source = torch.randint(EOS, 31, (3, 19), generator=generator)
    source[1, 14:] = PAD
    target = torch.randint(EOS + 1, 31, (3, 23), generator=generator)
    keep = {"input_ids": source, "attention_mask": (source != PAD).long()}
    why = "float32 rounding through four layers and back"
    equal = run.against("transformers T5ForConditionalGeneration", atol=1e-5, why=why)
    logits, reference = ours(source, target), theirs(**keep, labels=target)
    equal(f"logits, {version}", logits, reference.logits, rtol=1e-5)
    F.cross_entropy(logits.flatten(0, 1), target.flatten()).backward()
    reference.loss.backward()
    by_name = {name: p.grad for name, p in theirs.named_parameters()}
    pairs = [(p.grad, by_name[hugging_face_name(n, version)]) for n, p in ours.named_parameters()]
    mine, gradients = (torch.cat([x.flatten() for x in side]) for side in zip(*pairs, strict=True))
    size = gradients.abs().max()
    equal(f"gradients / largest, {version}", mine / size, gradients / size)

    with torch.no_grad():
        memory, read = ours.begin(source), F.pad(target, (1, -1))
        cached = [ours.decode(read[:, i : i + 1], source, memory) for i in range(20)]
    options = {"against": "all at once", "kind": "consistency", "why": why, "atol": 1e-5}
    run.check(f"20 cached steps, {version}", torch.cat(cached, 1), logits[:, :20], **options)
    ids = theirs.generate(**keep, max_new_tokens=20, do_sample=False)[:, 1:]
    equal(f"greedy answers, {version}", greedy(ours, source, max_len=20), ids, atol=0.0)
    steps_like_torch(run, ours.double(), theirs.double(), source, target)
    distance, causal = torch.arange(-600, 601), version == "1.1"
    name = f"buckets of distances to 600, {'causal' if causal else 'both directions'}"
    bucket = relative_position_bucket(distance, bidirectional=not causal)
    equal(name, bucket, T5Attention._relative_position_bucket(distance, not causal), atol=0.0)


def steps_like_torch(run: Run, ours: T5, theirs: nn.Module, source: Tensor, target: Tensor) -> None:
    """Five steps of our loop, and of transformers' model with torch's optimizer and clipping."""
    steps, version = 5, ours.config.version
    losses = list(training_losses(ours, [(source, target)] * steps, steps=steps, lr=1e-3))
    weights = list(theirs.parameters())
    adamw = torch.optim.AdamW(weights, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.0)
    decay = torch.optim.lr_scheduler.LinearLR(adamw, 1.0, 0.0, total_iters=steps)
    keep, reference = (source != PAD).long(), []
    for _ in range(steps):
        adamw.zero_grad()
        loss = theirs(input_ids=source, attention_mask=keep, labels=target).loss
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        adamw.step()
        decay.step()
        reference.append(loss.item())
    against = "transformers T5ForConditionalGeneration + torch.optim.AdamW"
    why = "their mean squares are taken in float32, and Adam divides by small gradients"
    run.check(
        f"losses of five steps, {version}", losses, reference, against=against, rtol=1e-5, why=why
    )


def check_spans(run: Run) -> None:
    """Lengths by the formula, splicing, and all ways to cut equally likely."""
    exact = run.against("the formula", kind="theorem", why="whole numbers")
    exact("568 tokens: source and target", source_and_target_length(568), (512, 114))
    exact("most tokens for 512", raw_length(512), 568)
    sizes, texts = [*range(2, 200), 568], []
    for n in sizes:
        tokens = run.rng.integers(2, 900, n)
        source, target = corrupt_spans(tokens, run.rng, 1000)
        texts.append(
            (len(source), len(target), (restore(source, target, vocab_size=1000) == tokens))
        )
    lengths = np.array([text[:2] for text in texts])
    exact("lengths of both sides", lengths, np.array([source_and_target_length(n) for n in sizes]))
    right = np.concatenate([text[2] for text in texts])
    exact("spliced tokens that are the text's", right.mean(), 1.0)
    draws = run.budget(quick=2000, default=20000)
    seen = Counter(tuple(random_segments(7, 3, run.rng)) for _ in range(draws))
    every = [s for s in itertools.product(range(1, 6), repeat=3) if sum(s) == 7]
    share, spread = 1 / comb(6, 2), (comb(6, 2) * draws) ** -0.5
    run.check(
        "shares of the ways to cut 7 into 3",
        np.array([seen[way] / draws for way in every]),
        np.full(len(every), share),
        against="1 / C(6, 2)",
        kind="theorem",
        atol=5 * spread,
        why="five standard errors",
    )
    ends = np.array([noise_mask(50, run.rng)[[0, -1]] for _ in range(200)])
    exact("noise at the first and the last place", ends.mean(0), (0.0, 1.0))


# ---- training


def make_batches(
    text: Int[np.ndarray, " n"], seed: int, vocab_size: int, objective: Callable, size: int = BATCH
) -> Iterator[Sides]:
    """Endless batches of windows from random places, as sources and targets."""
    rng, n = np.random.default_rng(seed), raw_length(SOURCE)
    while True:
        starts = rng.integers(len(text) - n, size=size)
        rows = [objective(text[start : start + n], rng, vocab_size) for start in starts]
        yield tuple(pad([row[side].tolist() for row in rows], PAD)[0] for side in (0, 1))


class Forgetful(nn.Module):
    """The bias of a stack that has lost its positions: distance 0 to all.

    A decoder's cached step that takes itself for the first has this one.
    """

    def __init__(self, bias: nn.Module):
        super().__init__()
        self.bias = bias

    def forward(self, new: int, total: int) -> Float[Tensor, "head new total"]:
        """Bucket 0 for all keys."""
        return self.bias(1, 1).expand(-1, new, total)


@torch.no_grad()
def cut_losses(
    model: T5, source: Tensor, target: Tensor, n_words: int
) -> Float[Tensor, "batch target"]:
    """Loss of each character that was cut out; NaN for sentinels, EOS and padding."""
    losses = F.cross_entropy(model(source, target).transpose(1, 2), target, reduction="none")
    return losses.where((target > EOS) & (target < n_words), torch.nan)


def learn(run: Run, steps: int) -> None:
    """Three seeds: of span corruption, of it on shuffled text, and of infilling."""
    ids, alphabet = encode_characters(datasets.load_text("pydocs"))
    ids, words = ids + EOS + 1, len(alphabet) + EOS + 1
    vocab, split = words + SENTINELS, int(0.9 * len(ids))
    training, held_out = ids[:split], ids[split:]
    counts = np.bincount(training, minlength=words) + 1
    seeds = range(run.seed, run.seed + run.budget(quick=2, default=3))
    size = run.budget(quick=16, default=256)
    source, target = next(make_batches(held_out, 1000, vocab, corrupt_spans, size))
    cut = target[(target > EOS) & (target < words)]
    counted = -np.log(counts / counts.sum())[cut].mean()
    curves: dict[str, list] = {"span corruption": [], "shuffled text": [], "text infilling": []}
    losses: dict[str, list] = {name: [] for name in LOSSES}
    by_place: dict[str, list] = {name: [] for name in ("right", "decoder", "encoder")}
    for seed in run.progress(seeds, "training"):
        mixed = np.random.default_rng(seed).permutation(training)
        plans = {
            "span corruption": (training, corrupt_spans, steps),
            "shuffled text": (mixed, corrupt_spans, max(steps // 3, 2)),
            "text infilling": (training, infill, max(steps // 4, 2)),
        }
        models = {}
        for name, (text, objective, n) in plans.items():
            models[name] = T5(T5Config(vocab), torch.Generator().manual_seed(seed))
            going = make_batches(text, seed, vocab, objective)
            curves[name].append(list(training_losses(models[name], going, steps=n, lr=LR)))
        model = models["span corruption"]
        found = {
            "right": cut_losses(model, source, target, words),
            "other": cut_losses(model, source.roll(1, 0), target, words),
            "mixed": cut_losses(models["shuffled text"], source, target, words),
            "mixed, other": cut_losses(models["shuffled text"], source.roll(1, 0), target, words),
        }
        for stack in ("decoder", "encoder"):
            forgetful = copy.deepcopy(model)
            getattr(forgetful, stack).bias = Forgetful(getattr(model, stack).bias)
            found[stack] = cut_losses(forgetful, source, target, words)
        for name, values in found.items():
            losses[name].append(values.nanmean().item())
        for name, places in by_place.items():
            places.append(found[name].nanmean(0).numpy())
    run.metric("training steps", steps)
    run.metric("parameters", sum(p.numel() for p in model.parameters()))
    judge(run, {k: np.array(v) for k, v in losses.items()}, curves, counted)
    draw(run, curves, by_place)
    show(run, model, source[:3], alphabet)


# ---- claims and figures


def judge(
    run: Run, losses: dict[str, Float[np.ndarray, " seed"]], curves: dict, counted: float
) -> None:
    """Metrics and claims; one value per seed."""
    unit = {"unit": "nats/char"}
    run.metric("loss of a cut character", losses["right"].mean(), "nats", rtol=0.1)
    run.metric("loss by letter frequencies", counted, "nats")
    run.metric("loss with another source", losses["other"].mean(), "nats", rtol=0.1)
    for stack in ("decoder", "encoder"):
        run.metric(f"loss without positions in the {stack}", losses[stack].mean(), "nats", rtol=0.1)

    beyond = "it learns more than the letters' frequencies"
    options = {"at_least": 0.1, "quick": False, "seen_before": SEEN, **unit}
    run.claim(beyond, counted - losses["right"], **options)
    run.falsifier("trained on shuffled text", counted - losses["mixed"], breaks=beyond)
    reads = "it reads what stands around a cut"
    run.claim(reads, losses["other"] - losses["right"], **options)
    gap = losses["mixed, other"] - losses["mixed"]
    run.falsifier("trained on shuffled text, another source", gap, breaks=reads)
    falls = []
    for losses_of in curves["text infilling"]:
        tenth = max(len(losses_of) // 10, 1)
        falls.append(np.mean(losses_of[:tenth]) - np.mean(losses_of[-tenth:]))
    name = "infilling: the loss falls, first tenth of training minus last"
    run.claim(name, falls, at_least=0.5, quick=False, unit="nats/token", seen_before=SEEN)
    lost = {stack: losses[stack] - losses["right"] for stack in ("decoder", "encoder")}
    run.claim("an encoder without positions is worse", lost["encoder"], **options)
    options["at_least"] = 0.0
    run.claim("a decoder without positions is worse", lost["decoder"], **options)


def draw(run: Run, curves: dict[str, list], by_place: dict[str, list]) -> None:
    """Learning curves, and the failure on display by the place in the target."""
    lines, x = {}, {}
    for name, runs in curves.items():
        width = max(len(runs[0]) // 20, 1)
        lines[name] = [np.convolve(r, np.ones(width) / width, mode="valid") for r in runs]
        x[name] = np.arange(len(lines[name][0])) + (width - 1) / 2
    with run.figure("loss", "Does it learn, and is it the text that it learns?") as axes:
        colors = (plots.BLUE, plots.GRAY, plots.GREEN)
        labels = {"xlabel": "training step", "ylabel": "loss (nats/token)"}
        plots.curves(axes, x, lines, colors=colors, ends=False, **labels)
    names = {"right": "as trained"}
    names |= {stack: f"positions forgotten in the {stack}" for stack in ("decoder", "encoder")}
    known = ~np.isnan(np.array(list(by_place.values()))).any(axis=(0, 1))
    lines = {names[k]: np.array(v)[:, known] for k, v in by_place.items()}
    title = "What does a trained model lose that forgets its positions?"
    with run.figure("forgotten_positions", title) as axes:
        labels = {"xlabel": "place in the target", "ylabel": "loss (nats/cut character)"}
        colors = (plots.BLUE, plots.YELLOW, plots.ORANGE)
        plots.curves(
            axes, np.flatnonzero(known) + 1, lines, colors=colors, ends=False, marker="o", **labels
        )


def show(run: Run, model: T5, source: Int[Tensor, "n source"], alphabet: str) -> None:
    """Three texts, with what the model writes for each cut in brackets."""
    for row, target in zip(source.numpy(), greedy(model, source, max_len=32).numpy(), strict=True):
        vocab = model.config.vocab_size
        marked = "".join(
            alphabet[t - 2] if 1 < t < len(alphabet) + 2 else "_" for t in row if t > 1
        )
        found = restore(row, target, vocab_size=vocab)
        text = "".join(alphabet[t - 2] if 1 < t < len(alphabet) + 2 else "_" for t in found)
        run.say(f"\n{marked!r}\n{text!r}")
