r"""Does a decoder that looks back keep its quality where strings grow long?

Before each symbol the decoder compares its state $s$ with every state $m_j$ of the encoder and
reads their mean, weighted by how well they fit:

$$ e_j = v^\top \tanh(W s + U m_j), \qquad c = \sum_j \mathrm{softmax}(e)_j\, m_j . $$

Reduced: strings of 8 symbols instead of sentences, to be written backwards in another alphabet,
GRUs of 64 units instead of 1000; learned on lengths 5 to 20 and tested up to 40. Networks with
attention, without, and with all weights equal; the second has wider GRUs, to have as many
parameters in use. The rules stand in the front matter of README.md.

`--full` adds sentences of a language: Multi30k's captions, German to English, with BLEU by length.

    uv run papers/2014-bahdanau-attention/reproduce.py

Bahdanau, Cho and Bengio (2015), "Neural Machine Translation by Jointly Learning to Align and
Translate", arXiv:1409.0473, sections 3, 5.1 and 5.2.
"""

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from shared import papers, plots
from shared.datasets import multi30k
from shared.require import require
from shared.stats import mean_interval
from shared.study import PositiveInt, Run, cli
from week11.bleu import bleu, counts, gain_of_gains, resampled
from week11.captions import Captions, split, write
from week11.captions import in_use as used_of_captions
from week11.captions import train as train_on_captions
from week11.seq2seq_attention import Attention, Seq2Seq, greedy_decode

SYMBOLS, FIRST, BOS = 8, 2, 1
VOCAB = FIRST + SYMBOLS
SHORT, LONG = (5, 10, 15, 20), (25, 30, 35, 40)
WIDTHS = {"attention": 64, "no attention": 105, "equal weights": 64}
CAPTION_WIDTHS = {"attention": 96, "no attention": 220}
BINS = {"up to 8": (1, 8), "9 to 11": (9, 11), "12 to 15": (12, 15)}  # words and marks in German
BINS |= {"16 to 19": (16, 19), "20 and more": (20, 999)}
EPOCHS = 2  # at the best of three rates, after 80 updates on another seed
LRS = {"attention": 5e-3, "no attention": 1e-2, "equal weights": 1e-2}  # the better of these two


class EqualWeights(Attention):
    """Looks everywhere alike, whatever it is asked: the falsifier."""

    def forward(
        self, state: Tensor, keys: Tensor, memory: Tensor, keep: Tensor
    ) -> tuple[Float[Tensor, "batch memory"], Float[Tensor, "batch source"]]:
        """The mean of what is real."""
        weights = keep / keep.sum(dim=1, keepdim=True)
        return (weights[:, None] @ memory)[:, 0], weights


def network(arm: str, seed: int) -> Seq2Seq:
    """A network of one kind, its weights drawn with a seed."""
    require(arm in WIDTHS, f"arm must be one of {', '.join(WIDTHS)}", repr(arm))
    torch.manual_seed(seed)
    score = "none" if arm == "no attention" else "additive"
    model = Seq2Seq(VOCAB, VOCAB, d_model=32, hidden_size=WIDTHS[arm], score=score)
    if arm == "equal weights":
        model.attention.__class__ = EqualWeights
    return model


def in_use(model: Seq2Seq) -> int:
    """Parameters that can change an output.

    Without attention nothing reads the context, nor the states of the encoder that reads forward.
    """
    n = sum(p.numel() for p in model.parameters())
    if model.attention.score == "none":
        context, hidden = 2 * model.decoder.hidden_size, model.decoder.hidden_size
        n -= 3 * hidden * context + VOCAB * context
        weights = model.encoder.named_parameters()
        n -= sum(p.numel() for name, p in weights if not name.endswith("_reverse"))
    return n


def strings(
    n: int, length: int, generator: torch.Generator
) -> tuple[Int[Tensor, "n length"], Int[Tensor, "n length"]]:
    """Random strings, and each backwards with symbol k written as 3 k + 1 (mod 8)."""
    drawn = torch.randint(SYMBOLS, (n, length), generator=generator)
    return drawn + FIRST, (3 * drawn.flip(1) + 1) % SYMBOLS + FIRST


def inputs(target: Int[Tensor, "n length"]) -> Int[Tensor, "n length"]:
    """What the decoder reads under teacher forcing: the start, then all but the last symbol."""
    return F.pad(target[:, :-1], (1, 0), value=BOS)


def train(arm: str, seed: int, steps: int, lr: float) -> Seq2Seq:
    """Adam on 64 new strings per step, all of one length between 5 and 20."""
    model, generator = network(arm, seed), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters())
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        length = int(torch.randint(SHORT[0], SHORT[-1] + 1, (), generator=generator))
        source, target = strings(64, length, generator)
        logits, _ = model(source, torch.full((64,), length), inputs(target))
        loss = F.cross_entropy(logits.transpose(1, 2), target)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


def accuracy(model: Seq2Seq, lengths: tuple[int, ...], n: int) -> Float[np.ndarray, " lengths"]:
    """Percentage of symbols that are right when the network reads its own, by length."""
    found = []
    for length in lengths:
        source, target = strings(n, length, torch.Generator().manual_seed(10**6 + length))
        ends = {"bos": BOS, "eos": -1, "max_len": length}
        written = greedy_decode(model, source, torch.full((n,), length), **ends)
        found.append(100 * (written == target).double().mean().item())
    return np.array(found)


@torch.no_grad()
def alignment(
    model: Seq2Seq, length: int, n: int
) -> tuple[float, float, float, Float[Tensor, "t s"]]:
    """Share (%) of largest weights in the right place and within 2 of it, entropy (nats), a map."""
    source, target = strings(n, length, torch.Generator().manual_seed(10**6 + length))
    _, weights = model(source, torch.full((n,), length), inputs(target))
    off = (weights.argmax(-1) - torch.arange(length - 1, -1, -1)).abs()
    entropy = torch.special.entr(weights).sum(-1).mean().item()
    right, near = (100 * (off <= far).double().mean().item() for far in (0, 2))
    return right, near, entropy, weights[0]


def main(run: Run, *, seeds: PositiveInt = 3, steps: PositiveInt = 300) -> None:
    """Train three kinds of networks and judge by the front matter's rules; `--full`: captions too.

    Parameters
    ----------
    seeds
        Networks of each kind.
    steps
        Updates of each.
    """
    paper = papers.load(__file__)
    check(run)
    seeds = run.budget(quick=2, default=max(seeds, 3))
    steps, n = run.budget(quick=(2, 4), default=(steps, 64))
    short, long = run.budget(quick=((5,), (9,)), default=(SHORT, LONG))
    models = {
        arm: [train(arm, run.seed + s, steps, LRS[arm]) for s in range(seeds)]
        for arm in run.progress(WIDTHS, "networks")
    }
    for arm in ("attention", "no attention"):
        run.metric(f"{arm}: parameters in use", in_use(models[arm][0]))
    right = {
        arm: np.array([accuracy(model, short + long, n) for model in of])
        for arm, of in models.items()
    }
    inside = {arm: rows[:, : len(short)].mean(axis=1) for arm, rows in right.items()}
    beyond = {arm: rows[:, len(short) :].mean(axis=1) for arm, rows in right.items()}
    for arm in right:
        for name, of in (("trained lengths", inside), ("longer", beyond)):
            run.metric(f"{arm}: accuracy, {name}", of[arm].mean(), "%", rtol=None)
    gap = {arm: beyond[arm] - beyond["no attention"] for arm in right}
    less = {arm: inside[arm] - inside["no attention"] for arm in right}
    note = f"{mean_interval(less['attention'])} on the trained lengths"
    late = {"quick": False, "rtol": None}
    grows = "the gap grows with length"
    paper.judge(run, grows, gap["attention"] - less["attention"], note=note, **late)
    equal = gap["equal weights"] - less["equal weights"]
    run.falsifier("equal weights", equal, breaks=grows)

    looked = {
        arm: [[alignment(model, length, n) for length in short] for model in models[arm]]
        for arm in ("attention", "equal weights")
    }
    peaks = {a: [np.mean([share for share, *_ in row]) for row in of] for a, of in looked.items()}
    near, nats = np.mean([x[1:3] for row in looked["attention"] for x in row], axis=0)
    place = "it looks at the right place"
    paper.judge(run, place, peaks["attention"], note=f"{near:.0f} % within 2 of it", **late)
    run.falsifier("equal weights, place", peaks["equal weights"], breaks=place)
    run.metric("entropy of the weights", nats, "nats", rtol=0.05)
    run.metric("largest weight within 2 of the place, not in the rule", near, "%", rtol=None)
    draw(run, short + long, right, alignment(models["attention"][0], short[-1], 1)[3])
    if run.mode != "default":
        captions(run, paper)


def draw(run: Run, lengths, right, weights) -> None:
    """Accuracy against length, and one alignment."""
    title = "Does looking back keep its quality where strings grow long?"
    with run.figure("lengths", title, size=(9, 4.2)) as axes:
        labels = {"xlabel": "length of the string", "ylabel": "symbols right (%)", "ylim": (0, 103)}
        guess = {"guessing": 100 / SYMBOLS}
        plots.curves(axes, lengths, right, marker="o", reference=guess, **labels)
        axes.axvline(SHORT[-1], color=plots.REFERENCE, linewidth=1, linestyle=":")
        axes.text(SHORT[-1], 1, " longest trained", color=plots.REFERENCE, fontsize=9)
    with run.figure("alignment", "Reading backwards", size=(6, 5)) as axes:
        labels = {"xlabel": "position read", "ylabel": "position written"}
        plots.heat_map(axes, weights, label="weight", limits=(0, 1), **labels)


def captions(run: Run, paper: papers.Paper) -> None:
    """Train with attention and without, as many parameters; BLEU by the length of the source."""
    pairs = multi30k("train")[: run.budget(quick=30, default=29_000)]
    tests = ("test_2016_flickr", "test_2017_flickr", "test_2017_mscoco")
    test = [pair for part in tests for pair in multi30k(part)]
    test = test[:: run.budget(quick=10, default=1)]
    words = Captions(pairs, least=run.budget(quick=1, default=5))
    new = [(words.encode(de, "de"), split(en)) for de, en in test]
    counted = {}
    for arm in run.progress(CAPTION_WIDTHS, "captions"):
        torch.manual_seed(run.seed)
        score = {"attention": "additive", "no attention": "none"}[arm]
        sizes = {"d_model": 64, "hidden_size": CAPTION_WIDTHS[arm], "dropout": 0.2}
        model = words.network(score=score, **sizes)
        run.metric(f"captions, {arm}: parameters in use", used_of_captions(model))
        options = {"epochs": run.budget(quick=1, default=EPOCHS), "generator": run.generator()}
        losses = train_on_captions(model, words.ids, **options)
        run.metric(f"captions, {arm}: loss of the last epoch", losses[-1], "nats", rtol=0.05)
        written = [words.decode(ids) for ids in write(model, [source for source, _ in new])]
        counted[arm] = counts(written, [reference for _, reference in new])
        run.metric(f"captions, {arm}: BLEU", bleu(counted[arm].sum(axis=0)), "BLEU", rtol=None)
        run.say(f"{arm}: {written[0]!r} for {new[0][1]!r}")
    lengths = np.array([len(source) for source, _ in new])
    rows = {name: (low <= lengths) & (lengths <= high) for name, (low, high) in BINS.items()}
    for name, of in rows.items():
        run.metric(f"captions of {name} words", of.sum(), rtol=0.0)
        for arm, each in counted.items():
            score = bleu(each[of].sum(axis=0))
            run.metric(f"captions, {arm}: BLEU, {name} words", score, "BLEU", rtol=None)
    both = [[counted[arm][of] for arm in CAPTION_WIDTHS] for of in (lengths >= 16, lengths <= 8)]
    grows = gain_of_gains(*both, run.rng)
    note = "bootstrap over captions, one training of each network"
    late = {"quick": False, "rtol": None}
    paper.judge(run, "on captions the gap grows with length", grows, note=note, **late)
    mixed = run.rng.permutation(lengths)  # the same captions, in bins of other captions' lengths
    any_ = [[counted[arm][of] for arm in CAPTION_WIDTHS] for of in (mixed >= 16, mixed <= 8)]
    broken = {"breaks": "on captions the gap grows with length"}
    run.falsifier("lengths of other captions", gain_of_gains(*any_, run.rng), **broken)
    draw_captions(run, paper, rows, counted)


def draw_captions(run: Run, paper: papers.Paper, rows, counted) -> None:
    """BLEU of each length with its interval, beside the paper's scores."""
    title = "With attention and without: BLEU of the paper, and here by length"
    with run.figure("captions", title, columns=2, size=(10, 4.2)) as (left, right):
        colors = {"attention": plots.BLUE, "no attention": plots.ORANGE}
        both = (colors["no attention"], colors["attention"])
        plots.bars(left, paper.matter["paper_bleu"], colors=both, xlabel="BLEU, English to French")
        left.set_title("The paper, table 1: all sentences", fontsize=11, weight="normal")
        for arm, each in counted.items():
            bins = {name: resampled(each[of], rng=run.rng)[0] for name, of in rows.items()}
            means = np.array([bleu(each[of].sum(axis=0)) for of in rows.values()])
            ends = np.percentile(list(bins.values()), [2.5, 97.5], axis=1)
            error = np.abs(ends - means)
            style = {"marker": "o", "capsize": 3, "color": colors[arm], "label": arm}
            right.errorbar(range(len(rows)), means, error, **style)
        names = [f"{name}\n(n = {of.sum()})" for name, of in rows.items()]
        right.set_xticks(range(len(rows)), names, fontsize=8)
        right.set(xlabel="words of the German caption", ylabel="BLEU, German to English")
        right.set_ylim(bottom=0)
        right.legend()
        right.set_title("Here: captions, intervals of 95 %", fontsize=11, weight="normal")


def check(run: Run) -> None:
    """Additive attention by hand on two tokens, nn.GRU's step, and the weight of padding."""
    torch.manual_seed(run.seed)
    look, keep = Attention(1, 1).double(), torch.tensor([[True, True, False]])
    memory = torch.tensor([[[0.5], [-1.0], [3.0]]]).double()
    with torch.no_grad():
        for parameter, value in (
            (look.k_proj.weight, 1.0),
            (look.q_proj.weight, 2.0),
            (look.v, 3.0),
        ):
            parameter.fill_(value)
        state = torch.tensor([[0.25]]).double()
        context, weights = look(state, look.keys(memory), memory, keep)
    e = [math.exp(3 * math.tanh(2 * 0.25 + m)) for m in (0.5, -1.0)]
    exact = [e[0] / sum(e), e[1] / sum(e), 0.0]
    theorem = {"kind": "theorem", "atol": 1e-12, "why": "float64 rounding"}
    run.check("weights of two tokens and padding", weights[0], exact, against="by hand", **theorem)
    mean = [exact[0] * 0.5 - exact[1]]
    run.check("context", context[0], mean, against="by hand", **theorem)
    gru = network("attention", run.seed).double().decoder
    theirs = nn.GRU(gru.input_size, gru.hidden_size, batch_first=True).double()
    theirs.load_state_dict(gru.state_dict())
    x = torch.randn(2, 3, gru.input_size).double()
    both = [part.detach() for part in (gru(x)[0], theirs(x)[0])]
    run.check("the GRU", *both, against="torch.nn.GRU", atol=1e-12, why="float64 rounding")


if __name__ == "__main__":
    cli(main)
