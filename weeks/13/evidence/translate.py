"""Subwords, cache and search against what is known; then captions, beside a GRU with attention.

By default it learns from captions of at most 8 words for about a minute, so its English is poor.
"""

import itertools
import time
from dataclasses import dataclass

import numpy as np
import tokenizers
import torch
from jaxtyping import Float, Int
from sacrebleu.metrics import BLEU, CHRF
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from shared import plots
from shared.datasets import multi30k
from shared.study import PositiveInt, Run
from week11.bleu import bleu, counts, gain
from week11.seq2seq_attention import Seq2Seq
from week11.seq2seq_attention import greedy_decode as greedy_gru
from week13.subwords import BOS, EOS, PAD, SPECIAL, Subwords, learn, learn_by_recounting, words_of
from week13.transformer import Transformer, cross_entropy, greedy_decode
from week13.translate import (
    DecoderCache,
    as_batch,
    average,
    beam_search,
    train,
    translate,
    translator,
)


@dataclass(frozen=True)
class Sizes:
    """What is learned from, and how long."""

    words: int
    captions: int
    merges: int
    steps: int
    width: int
    layers: int
    batch_size: int = 32


QUICK = Sizes(words=6, captions=40, merges=60, steps=3, width=16, layers=1)
DEFAULT = Sizes(words=8, captions=29_000, merges=1000, steps=300, width=128, layers=2)
FULL = Sizes(100, 29_000, 4000, 3500, 256, 2, batch_size=64)
LRS = {"Transformer": 2e-3, "GRU with attention": 1e-2}  # the best of 3 and of 2, other seed, `val`


class Recurrent(Seq2Seq):
    """Week 11's network with the call of a Transformer."""

    def forward(
        self, source: Int[Tensor, "batch source"], target: Int[Tensor, "batch target"]
    ) -> Float[Tensor, "batch target vocab"]:
        """Logits under teacher forcing."""
        return super().forward(source, (source != PAD).sum(dim=1), target)[0]


def main(run: Run, *, beams: PositiveInt = 4) -> None:
    """Check the parts, then train both networks for as many updates and compare what they write.

    Parameters
    ----------
    beams
        Beginnings kept per caption.
    """
    sizes = run.budget(quick=QUICK, default=DEFAULT, full=FULL)
    short = {
        split: [(de.lower(), en.lower()) for de, en in multi30k(split) if _words(de) <= sizes.words]
        for split in ("train", "test_2016_flickr")
    }
    texts, test = short["train"][: sizes.captions], short["test_2016_flickr"]
    test = run.budget(quick=test[:8], default=test)
    subwords = Subwords(itertools.chain(*texts), sizes.merges)
    check_subwords(run, [word for pair in texts for word in pair], subwords)
    check_search(run)
    pairs = [(subwords.encode(de), subwords.encode(en)) for de, en in texts]
    models = {
        "Transformer": lambda: translator(
            len(subwords), d_model=sizes.width, n_layers=sizes.layers, dropout=0.1
        ),
        "GRU with attention": lambda: Recurrent(
            len(subwords), len(subwords), d_model=sizes.width, hidden_size=sizes.width, dropout=0.1
        ),
    }
    losses = {}
    for name, build in run.progress(models.items(), "networks"):
        torch.manual_seed(run.seed)
        models[name], start = build(), time.perf_counter()
        options = {"steps": sizes.steps, "lr": LRS[name], "batch_size": sizes.batch_size}
        options |= {"warmup_steps": max(1, sizes.steps // 10), "generator": run.generator()}
        losses[name] = train(models[name], pairs, **options)
        seconds = (time.perf_counter() - start) / sizes.steps
        run.metric(f"{name}: seconds per update", seconds, "s", rtol=None)
        run.metric(f"{name}: parameters", sum(p.numel() for p in models[name].parameters()))
        run.metric(f"{name}: last loss", np.mean(losses[name][-20:]), "nats", rtol=0.05)
    captions = [(subwords.encode(de), subwords.encode(en)) for de, en in test]
    check_reading(run, models["Transformer"], captions)
    compare(run, models, captions, subwords, [en for _, en in test], beams)
    with run.figure("loss", "What is learned in as many updates") as axes:
        labels = {"xlabel": "update", "ylabel": "smoothed loss (nats per token)"}
        plots.curves(axes, range(1, sizes.steps + 1), losses, **labels)
    draw_alignment(run, models["Transformer"], subwords, captions[0])


def _words(text: str) -> int:
    return len(text.split())


# ---- what both write


def compare(run: Run, models, captions, subwords: Subwords, references: list[str], beams: int):
    """BLEU and chrF of three systems, the paired bootstrap between them, and the worst captions."""
    source, _ = as_batch(captions)
    model, gru, longest = *models.values(), 40
    with torch.no_grad():
        greedy = translate(model, source, beams=1, max_len=longest)
        likely = translate(model, source, beams=beams, max_len=longest)
        ends = {"bos": BOS, "eos": EOS, "max_len": longest}
        recurrent = greedy_gru(gru, source, (source != PAD).sum(dim=1), **ends)
    systems = {"beam": likely, "greedy": greedy, "GRU, greedy": recurrent.tolist()}
    written = {name: [subwords.decode(row) for row in rows] for name, rows in systems.items()}
    metrics = {"BLEU": BLEU(), "chrF": CHRF()}
    for name, (kind, metric) in itertools.product(written, metrics.items()):
        score = metric.corpus_score(written[name], [references]).score
        run.metric(f"{name}: {kind}", score, kind, rtol=None)
    run.chose(**{kind: str(metric.get_signature()) for kind, metric in metrics.items()})
    counted = {name: counts(rows, references) for name, rows in written.items()}
    summed = [bleu(each.sum(axis=0)) for each in counted.values()]
    whole = [metrics["BLEU"].corpus_score(rows, [references]).score for rows in written.values()]
    library = {"against": "sacrebleu, corpus_score", "atol": 1e-9, "why": "float64 rounding"}
    run.check("BLEU from counts per caption", summed, whole, **library)
    late = {"unit": "BLEU", "quick": False, "rtol": None}
    tuning = "the GRU was ahead on `val`, where the rates were chosen"
    pairs = {
        "the Transformer is ahead after as many updates": ("greedy", "GRU, greedy", tuning),
        "beam search raises BLEU": ("beam", "greedy", ""),
    }
    for claim, (a, b, seen) in pairs.items():
        found, late["seen_before"] = gain(counted[a], counted[b], run.rng), seen
        run.claim(claim, found, at_least=0, note="bootstrap over captions, one training", **late)
    sentence = metrics["chrF"].sentence_score
    scores = [sentence(w, [r]).score for w, r in zip(written["beam"], references, strict=True)]
    for i in np.argsort(scores)[:5]:
        run.say(f"worst: {written['beam'][i]!r} for {references[i]!r}")


def check_reading(run: Run, model: Transformer, captions) -> None:
    """Loss of a caption under its own source and under another's."""
    source, target = as_batch(captions)
    others = [
        as_batch([(captions[i - k][0], y) for i, (_, y) in enumerate(captions)]) for k in (1, 2)
    ]
    own, another, third = (losses_of(model, x, y) for x, y in ((source, target), *others))
    run.metric("loss of new captions", own.mean(), "nats", rtol=0.05)
    claim, late = "what it writes depends on what it reads", {"quick": False, "rtol": None}
    run.claim(claim, another - own, at_least=0.1, unit="nats per token", **late)
    run.falsifier("another wrong caption", third - another, breaks=claim)


@torch.no_grad()
def losses_of(model: Transformer, source: Tensor, target: Tensor) -> Float[Tensor, " captions"]:
    """Nats per token of each caption."""
    logits = model(source, target[:, :-1])
    each = [cross_entropy(row, y, pad=PAD) for row, y in zip(logits, target[:, 1:], strict=True)]
    return torch.stack(each)


def draw_alignment(run: Run, model: Transformer, subwords: Subwords, caption) -> None:
    """Where the last layer looks, mean of its heads, before it writes each subword."""
    source, _ = as_batch([caption])
    written = translate(model, source, beams=1, max_len=20)[0]
    _, target = as_batch([(caption[0], written)])
    last, seen = model.decoder.layers[-1].cross_attention, []
    hook = last.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
    with torch.no_grad():
        model(source, target[:, :-1])
        hook.remove()
        weights = last.weights(*seen, mask=model.keep(source))[0].mean(dim=0)
    columns, rows = ([subwords.symbols[i] for i in ids] for ids in (source[0], target[0, 1:]))
    with run.figure("alignment", "Where it looks before it writes", size=(8, 5)) as axes:
        plots.heat_map(axes, weights, label="weight", rows=rows, columns=columns)
        axes.tick_params(axis="x", rotation=45)


# ---- checks


def check_subwords(run: Run, texts: list[str], subwords: Subwords) -> None:
    """The same symbols in the same order as tokenizers, the same ids, and the plain algorithm."""
    words = [word for text in texts for word in words_of(text)]
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    options = {"special_tokens": SPECIAL, "show_progress": False}
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=len(subwords), **options)
    theirs.train_from_iterator([" ".join(words)], trainer)
    ids = [theirs.get_vocab().get(symbol, -1) for symbol in subwords.symbols]
    equal = run.against("tokenizers, models.BPE", why="integers")
    equal("symbols", list(range(len(ids))), ids)
    new = [*texts[:50], "ein schneeleopard, der schläft."]
    encoded = [theirs.encode(" ".join(words_of(text))).ids for text in new]
    equal(
        "ids", [i for text in new for i in subwords.encode(text)], list(itertools.chain(*encoded))
    )
    spelled = {tuple(map(ord, word)): n for n, word in enumerate(sorted(set(words))[:60], 1)}
    both = [method(spelled, 30, 10**6) for method in (learn, learn_by_recounting)]
    plain = {"against": "counting everything again", "kind": "consistency", "why": "integers"}
    run.check("pairs to merge", *both, **plain)


def check_search(run: Run) -> None:
    """Cache, greedy, exhaustive search and averaging, on a random model in float64."""
    torch.manual_seed(run.seed)
    model = translator(6, d_model=8, n_heads=2, n_layers=2).double().eval()
    source, target = torch.tensor([[4, 5, 4], [5, 4, PAD]]), torch.tensor([[1, 4, 5], [1, 5, 3]])
    with torch.no_grad():
        cache, rows = DecoderCache(model, source), torch.arange(2)
        cached = [cache.step(rows, target[:, t]) for t in range(3)]
        uncached = model(source, target)
        same = {"kind": "consistency", "atol": 1e-12, "why": "float64 rounding"}
        name = "logits from the cache"
        run.check(name, torch.stack(cached, 1), uncached, against="the whole sequence", **same)
        ends = {"bos": BOS, "eos": EOS, "max_len": 4}
        greedy = [
            [i for i in row if i not in (EOS, PAD)]
            for row in greedy_decode(model, source, **ends).tolist()
        ]
        ours = translate(model, source, beams=1, max_len=4)
        run.check("a beam of 1", _flat(ours), _flat(greedy), against="greedy_decode", **same)
        for alpha in (0.0, 1.0):
            step = DecoderCache(model, source[:1]).step
            options = {"batch": 1, "bos": BOS, "eos": EOS, "pad": PAD, "max_len": 3}
            (found,) = beam_search(step, **options, beams=6**3, alpha=alpha)
            best = exhaustive(model, source[:1], 3, alpha)
            exact = {"kind": "theorem", "atol": 1e-6, "why": "sums in float32"}
            against = "all sentences of at most 3 tokens"
            run.check(
                f"score with |V|³ beams, α = {alpha:.0f}",
                found[1],
                best[1],
                against=against,
                **exact,
            )
            run.check(f"its tokens, α = {alpha:.0f}", found[0], best[0], against=against, **exact)
    states, kept = [], AveragedModel(model)
    for k in range(3):
        with torch.no_grad():
            model.target_embedding.weight.add_(k)
        kept.update_parameters(model)
        states.append({name: w.clone() for name, w in model.state_dict().items()})
    name, why = "target_embedding.weight", "float64 rounding"
    theirs = kept.module.target_embedding.weight.detach()
    against = "torch.optim.swa_utils.AveragedModel"
    run.check(
        "averaged weights", average(states)[name], theirs, against=against, atol=1e-12, why=why
    )


def exhaustive(model: Transformer, source: Tensor, longest: int, alpha: float):
    """The best of all sentences by the formula, and its score."""
    best: tuple[list[int], float] = ([], -np.inf)
    for n in range(1, longest + 1):
        for tokens in itertools.product(range(6), repeat=n):
            if EOS in tokens[:-1] or (n < longest and tokens[-1] != EOS):
                continue
            log_p = model(source, torch.tensor([[BOS, *tokens[:-1]]]))[0].log_softmax(-1)
            score = log_p[range(n), tokens].sum().item() / n**alpha
            best = max(best, (list(tokens), score), key=lambda pair: pair[1])
    return best


def _flat(rows: list[list[int]]) -> list[int]:
    return [x for row in rows for x in (*row, -1)]
