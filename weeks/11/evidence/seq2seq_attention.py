"""Equal to torch's parts; then dates in many forms become dates in one, with attention and without.

`--full` adds captions in words, German to English.
"""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from shared import datasets, plots
from shared.study import PositiveInt, Run
from week11.batches import pad
from week11.bleu import bleu, counts, gain
from week11.captions import Captions, split, write
from week11.captions import train as train_on_captions
from week11.evidence.dates import ALPHABET, BOS, EOS, PAD, dates, encode
from week11.seq2seq_attention import Attention, Seq2Seq, greedy_decode

ARMS = {
    "additive": {"score": "additive"},
    "multiplicative": {"score": "multiplicative"},
    "no attention": {"score": "none"},
    "additive, running free": {"score": "additive", "forced": False},
}


def main(run: Run, *, seeds: PositiveInt = 3) -> None:
    """Check the parts, then learn to write dates.

    Parameters
    ----------
    seeds
        Networks of each kind.
    """
    check_torch(run)
    check_scores(run)
    steps, seeds = run.budget(quick=2, default=100), run.budget(quick=2, default=seeds)
    right: dict[str, list[float]] = {name: [] for name in ARMS}
    curves: dict[str, list[list[float]]] = {name: [] for name in ARMS}
    for name, arm in run.progress(ARMS.items(), "arms"):
        for seed in range(run.seed, run.seed + seeds):
            model, losses = train(seed, steps, **arm)
            curves[name].append(losses)
            right[name].append(exact_match(model, run.budget(quick=20, default=500)))
            if name == "additive":
                reader = model
    seen = "runs of these seeds with other rates and 120 or 130 steps"
    unit = {"unit": "% of new dates", "quick": False, "seen_before": seen}
    learned = "a decoder that looks back writes dates"
    run.claim(learned, right["additive"], at_least=50, **unit)
    run.falsifier("without looking back", right["no attention"], breaks=learned)
    run.claim("with the multiplicative score too", right["multiplicative"], at_least=50, **unit)
    gain = np.subtract(right["additive"], right["additive, running free"])
    run.claim("teacher forcing learns faster than running free", gain, at_least=0, **unit)
    for name, losses in curves.items():
        run.metric(f"{name}: last loss", np.mean([path[-1] for path in losses]), "nats", rtol=0.05)
    with run.figure("loss", "Writing dates: what looking back is worth") as axes:
        labels = {"xlabel": "step", "ylabel": "loss (nats per character)"}
        plots.curves(axes, range(1, steps + 1), curves, **labels)
    draw_alignment(run, reader)
    if run.mode != "default":
        captions(run)


def train(seed: int, steps: int, *, score: str, forced: bool = True) -> tuple[Seq2Seq, list[float]]:
    """Adam on 64 new dates per step, the rate falling to zero."""
    torch.manual_seed(seed)
    rng, lr, losses = np.random.default_rng(seed), 1e-2, []  # tuned on other seeds
    model = Seq2Seq(len(ALPHABET), len(ALPHABET), d_model=32, hidden_size=64, score=score)
    optimizer = torch.optim.Adam(model.parameters())
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        source, lengths, target = tensors(dates(64, rng))
        logits, _ = model(source, lengths, target[:, :-1], forced=forced)
        loss = F.cross_entropy(logits.transpose(1, 2), target[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return model, losses


def tensors(pairs: list[tuple[str, str]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Padded sources, their lengths, and targets between start and end."""
    source, lengths = pad([encode(written) for written, _ in pairs], PAD)
    target, _ = pad([[BOS, *encode(iso), EOS] for _, iso in pairs], PAD)
    return source, lengths, target


def exact_match(model: Seq2Seq, n: int) -> float:
    """Percentage of `n` dates, drawn with a seed that no training has, that are written right."""
    source, lengths, target = tensors(dates(n, np.random.default_rng(10**6)))
    ends = {"bos": BOS, "eos": EOS, "max_len": target.shape[1] - 1}
    written = greedy_decode(model.eval(), source, lengths, **ends)
    written = F.pad(written, (0, target.shape[1] - 1 - written.shape[1]), value=PAD)
    return 100 * (written == target[:, 1:]).all(dim=1).double().mean().item()


def draw_alignment(run: Run, model: Seq2Seq) -> None:
    """Where the decoder looked before each character."""
    pair = ("sunday, november 29 2026", "2026-11-29")
    source, lengths, target = tensors([pair])
    with torch.no_grad():
        _, weights = model(source, lengths, target[:, :-1])
    title = "Where the decoder looks before it writes a character"
    with run.figure("alignment", title, size=(8, 4)) as axes:
        rows, columns = [*pair[1], "end"], list(pair[0])
        plots.heat_map(axes, weights[0], label="weight", rows=rows, columns=columns)
        axes.tick_params(axis="x", rotation=0)


# ---- checks


def check_torch(run: Run) -> None:
    """The whole network from torch.nn.GRU, GRUCell and the formulas: logits and gradients."""
    torch.manual_seed(run.seed)
    for score in ("additive", "multiplicative"):
        model = Seq2Seq(9, 7, d_model=3, hidden_size=4, score=score).double()
        source, lengths = torch.tensor([[3, 4, 5, 6], [7, 8, 0, 0]]), torch.tensor([4, 2])
        target = torch.tensor([[1, 4, 2], [1, 6, 5]])
        ours, weights = model(source, lengths, target)
        theirs = by_torch(model, source, lengths, target)
        equal = run.against("torch.nn.GRU and GRUCell", atol=1e-10, why="float64 rounding")
        equal(f"{score}: logits", ours, theirs)
        parameters = list(model.parameters())
        gradients = [
            torch.cat([g.flatten() for g in torch.autograd.grad(x.square().sum(), parameters)])
            for x in (ours, theirs)
        ]
        equal(f"{score}: gradients", *gradients)
        alone, _ = model(source[1:, :2], lengths[1:], target[1:])
        same = {"against": "the row alone", "kind": "consistency", "atol": 1e-12}
        run.check(f"{score}: a row in a padded batch", ours[1:], alone, why="rounding", **same)
        exact = {"against": "zero", "kind": "theorem", "why": "exp(-inf) is 0"}
        run.check(f"{score}: weight of padding", weights[1, :, 2:], torch.zeros(3, 2), **exact)


def by_torch(model: Seq2Seq, source, lengths, target) -> torch.Tensor:
    """Row by row, so nothing is padded."""
    encoder = nn.GRU(3, 4, batch_first=True, bidirectional=True).double()
    cell = nn.GRUCell(7, 4).double()
    part = model.attention
    rows = []
    encoder_weights = dict(model.encoder.named_parameters())
    cell_weights = {n.removesuffix("_l0"): p for n, p in model.decoder.named_parameters()}
    for tokens, length, wanted in zip(source, lengths, target, strict=True):
        embedded = model.source_embedding(tokens[None, :length])
        memory, h = torch.func.functional_call(encoder, encoder_weights, (embedded,))
        state, memory, logits = torch.tanh(model.start(h[1])), memory[0], []
        for token in wanted:
            if part.score == "additive":
                e = [part.v @ torch.tanh(part.q_proj(state[0]) + part.k_proj(m)) for m in memory]
            else:
                e = [state[0] @ part.k_proj(m) for m in memory]
            p = torch.stack(e).exp()
            context = (p / p.sum()) @ memory
            x = torch.cat([model.target_embedding(token), context])[None]
            state = torch.func.functional_call(cell, cell_weights, (x, state))
            logits.append(model.out_proj(torch.cat([state[0], context])))
        rows.append(torch.stack(logits))
    return torch.stack(rows)


def check_scores(run: Run) -> None:
    """The multiplicative score is unscaled dot-product attention; the additive one by hand."""
    torch.manual_seed(run.seed)
    dot, memory = Attention(4, 6, "multiplicative"), torch.randn(2, 5, 6)
    state, keep = torch.randn(2, 4), torch.ones(2, 5, dtype=torch.bool)
    keys = dot.keys(memory)
    theirs = F.scaled_dot_product_attention(state[:, None], keys, memory, scale=1.0)[:, 0]
    library = {"against": "F.scaled_dot_product_attention", "atol": 1e-5, "why": "float32 rounding"}
    run.check("multiplicative context", dot(state, keys, memory, keep)[0], theirs, **library)
    add = Attention(1, 1, "additive").double()
    with torch.no_grad():
        for parameter, value in ((add.k_proj.weight, 1.0), (add.q_proj.weight, 2.0), (add.v, 3.0)):
            parameter.fill_(value)
    memory = torch.tensor([[[0.5], [-1.0]]]).double()
    _, weights = add(torch.tensor([[0.25]]).double(), add.keys(memory), memory, keep[:1, :2])
    first, second = (math.exp(3 * math.tanh(2 * 0.25 + m)) for m in (0.5, -1.0))
    by_hand = {"against": "two tokens by hand", "kind": "theorem", "atol": 1e-12}
    exact = torch.tensor([[first, second]], dtype=torch.float64) / (first + second)
    run.check("additive weights", weights, exact, why="float64 rounding", **by_hand)


# ---- captions, with --full


def captions(run: Run) -> None:
    """A third of Multi30k, in words: BLEU with attention and without, as wide and as long."""
    pairs = datasets.multi30k("train")[: run.budget(quick=30, default=10_000)]
    test = datasets.multi30k("test_2016_flickr")[: run.budget(quick=20, default=1000)]
    words, counted = Captions(pairs, least=run.budget(quick=1, default=4)), {}
    sources = [words.encode(de, "de") for de, _ in test]
    for score in run.progress(("additive", "none"), "captions"):
        torch.manual_seed(run.seed)
        model = words.network(score=score, d_model=64, hidden_size=96, dropout=0.2)
        options = {"epochs": run.budget(quick=1, default=2), "generator": run.generator()}
        losses = train_on_captions(model, words.ids, **options)
        run.metric(f"captions, {score}: loss of the last epoch", losses[-1], "nats", rtol=0.05)
        written = [words.decode(ids) for ids in write(model, sources)]
        counted[score] = counts(written, [split(en) for _, en in test])
        summed = bleu(counted[score].sum(axis=0))
        run.metric(f"captions, {score}: BLEU of words", summed, "BLEU", rtol=None)
    found = gain(counted["additive"], counted["none"], run.rng)
    note, late = "bootstrap over captions, one training", {"quick": False, "rtol": None}
    looks = "a decoder that looks back translates better"
    run.claim(looks, found, at_least=1, unit="BLEU", note=note, **late)
