r"""Are rare words translated better from subwords than from whole words and a copied unknown?

A vocabulary is grown by merging, again and again, the two symbols that stand together most often
inside the words of the text,

$$ (a, b) = \arg\max_{(a, b)} \sum_w n_w \, \#\{i : w_i = a,\, w_{i+1} = b\} . $$

Frequent words become one symbol; rare ones are spelled in a few, which other words have too.

Reduced: a generated language of stems and endings that is translated piece by piece, and of names,
which stay as they are; two words per sentence; GRUs with attention. Whole words with an unknown
one that is copied from where attention looks, against subwords of one vocabulary for both sides.
The rules stand in the front matter of README.md.

    uv run papers/2015-bpe/reproduce.py

Sennrich, Haddow and Birch (2016), "Neural Machine Translation of Rare Words with Subword Units",
arXiv:1508.07909, sections 3.2, 4 and 5.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import chain, pairwise

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from shared import papers, plots
from shared.require import require
from shared.study import PositiveInt, Run, cli
from week11.batches import pad
from week11.seq2seq_attention import Seq2Seq, greedy_decode
from week13.subwords import BOS, EOS, PAD, SPECIAL, UNKNOWN, Pair, Subwords, join, learn
from week13.translate import train

WORDS, SUBWORDS, RANDOM, OWN = "words", "subwords", "random merges", "symbols of one word only"
ARMS = (WORDS, SUBWORDS, RANDOM, OWN)
GROUPS = {"often": (6, 10**9), "rare": (1, 5), "never": (0, 0)}  # tokens in the training text
Sentence = tuple[str, str]  # and its translation


# ---- the language


def spell(syllables: int, rng: np.random.Generator) -> str:
    """A random word of consonants and vowels."""
    return "".join(rng.choice(list(x)) for x in ("bdfgklmnprst", "aeiou") * syllables)


def corpus(
    seed: int, n_train: int, n_test: int, *, stems: int = 60, endings: int = 8
) -> tuple[list[Sentence], list[Sentence]]:
    """Sentences to learn from, with words as unequal as in a language, and others, all words alike.

    One word in ten is a name.
    """
    rng = np.random.default_rng(seed)
    pairs = [[(spell(2, rng), spell(2, rng)) for _ in range(stems)]]
    pairs += [[(spell(1, rng), spell(1, rng)) for _ in range(endings)]]
    zipf = [1 / np.arange(1, len(of) + 1) for of in pairs]

    def word(equal: bool) -> Sentence:
        if rng.random() < 0.1:
            name = spell(3, rng).capitalize()
            return name, name
        chosen = [
            of[rng.choice(len(of), p=None if equal else w / w.sum())]
            for of, w in zip(pairs, zipf, strict=True)
        ]
        return tuple("".join(parts) for parts in zip(*chosen, strict=True))

    def sentence(equal: bool) -> Sentence:
        words = [word(equal) for _ in range(2)]
        return tuple(" ".join(side) for side in zip(*words, strict=True))

    return [sentence(False) for _ in range(n_train)], [sentence(True) for _ in range(n_test)]


# ---- what is a symbol


class Words:
    """A symbol per word that the text has at least twice; all others are unknown."""

    def __init__(self, texts: Sequence[str]):
        count = Counter(word for text in texts for word in text.split())
        self.symbols = [*SPECIAL, *sorted(word for word, n in count.items() if n > 1)]
        self.ids = {symbol: i for i, symbol in enumerate(self.symbols)}

    def __len__(self) -> int:
        return len(self.symbols)

    def encode(self, text: str) -> list[int]:
        """Ids of the words."""
        return [self.ids.get(word, UNKNOWN) for word in text.split()]

    def decode(self, ids: Sequence[int], copied: Sequence[str]) -> str:
        """The text up to the end; an unknown word is the one `copied` in its place."""
        end = ids.index(EOS) if EOS in ids else len(ids)
        both = zip(ids[:end], copied, strict=False)
        return " ".join(word if i == UNKNOWN else self.symbols[i] for i, word in both)


class OwnSymbols:
    """The pieces of `Subwords`, but no two words share one."""

    def __init__(self, texts: Sequence[str], subwords: Subwords):
        words = sorted({word for text in texts for word in text.split()})
        self.symbols, self.ids = list(SPECIAL), {}
        for word in words:
            pieces = [subwords.symbols[i] for i in subwords.encode(word)]
            self.ids[word] = list(range(len(self.symbols), len(self.symbols) + len(pieces)))
            self.symbols += pieces

    def __len__(self) -> int:
        return len(self.symbols)

    def encode(self, text: str) -> list[int]:
        """Ids of all words; a new one is unknown."""
        return [i for word in text.split() for i in self.ids.get(word, [UNKNOWN])]

    decode = Subwords.decode


def random_merges(seed: int):
    """A learner that merges any pair that occurs, whatever its number."""
    rng = np.random.default_rng(seed)

    def choose(words: dict[tuple[int, ...], int], n_merges: int, first: int) -> list[Pair]:
        spelled, merges = list(words), []
        while len(merges) < n_merges:
            found = sorted({pair for word in spelled for pair in pairwise(word)})
            if not found:
                break
            merges.append(found[rng.integers(len(found))])
            new = first + len(merges) - 1
            spelled = [tuple(join(word, merges[-1], new)) for word in spelled]
        return merges

    return choose


def vocabulary(arm: str, texts: Sequence[str], n_merges: int, seed: int):
    """What turns text into ids and back, learned from the texts of both sides."""
    require(arm in ARMS, f"arm must be one of {', '.join(ARMS)}", repr(arm))
    if arm == WORDS:
        return Words(texts)
    choose = random_merges(seed) if arm == RANDOM else learn
    subwords = Subwords(texts, n_merges, choose=choose)
    return OwnSymbols(texts, subwords) if arm == OWN else subwords


# ---- learning and writing


class Translator(Seq2Seq):
    """Week 11's network with the call of a Transformer."""

    def forward(
        self, source: Int[Tensor, "batch source"], target: Int[Tensor, "batch target"]
    ) -> Float[Tensor, "batch target vocab"]:
        """Logits under teacher forcing."""
        return super().forward(source, (source != PAD).sum(dim=1), target)[0]


def write(model: Translator, vocab, sources: Sequence[str]) -> list[str]:
    """Greedy translations; unknown words are copied from where attention looks."""
    rows, lengths = pad([vocab.encode(text) for text in sources], PAD)
    ends = {"bos": BOS, "eos": EOS, "pad": PAD, "max_len": 40}
    written = greedy_decode(model, rows, lengths, **ends)
    if not isinstance(vocab, Words):
        return [vocab.decode(ids) for ids in written.tolist()]
    target = torch.nn.functional.pad(written[:, :-1], (1, 0), value=BOS)
    with torch.no_grad():
        places = Seq2Seq.forward(model, rows, lengths, target)[1].argmax(dim=-1)
    read = [[text.split()[i] for i in row] for text, row in zip(sources, places, strict=True)]
    return [vocab.decode(ids, copy) for ids, copy in zip(written.tolist(), read, strict=True)]


def f1_by_frequency(
    written: Sequence[str], references: Sequence[str], seen: Counter[str]
) -> dict[str, float]:
    """F1 (%) of words, each counted at most as often as the reference has it, by group."""
    found = {}
    for group, (least, most) in GROUPS.items():
        right = ours = theirs = 0
        for text, reference in zip(written, references, strict=True):
            a, b = (
                Counter(word for word in side.split() if least <= seen[word] <= most)
                for side in (text, reference)
            )
            right, ours, theirs = right + (a & b).total(), ours + a.total(), theirs + b.total()
        found[group] = 200 * right / max(1, ours + theirs)
    return found


def fit(arm: str, seed: int, *, sentences: int, tests: int, merges: int, steps: int, lr: float):
    """F1 by group of one network, and the pieces per word of its vocabulary."""
    learned, asked = corpus(seed, sentences, tests)
    texts = list(chain(*learned))
    vocab = vocabulary(arm, texts, merges, seed)
    torch.manual_seed(seed)
    model = Translator(len(vocab), len(vocab), d_model=48, hidden_size=64)
    ids = [(vocab.encode(a), vocab.encode(b)) for a, b in learned]
    generator = torch.Generator().manual_seed(seed)
    options = {"batch_size": 32, "label_smoothing": 0.0, "generator": generator}
    train(model, ids, steps=steps, lr=lr, warmup_steps=min(steps, 20), **options)
    seen = Counter(word for _, text in learned for word in text.split())
    references = [b for _, b in asked]
    scores = f1_by_frequency(write(model, vocab, [a for a, _ in asked]), references, seen)
    return scores, sum(len(b) for _, b in ids) / (2 * len(ids))


def main(run: Run, *, seeds: PositiveInt = 3, steps: PositiveInt = 150) -> None:
    """Train networks on words and on subwords, and judge by the front matter's rules.

    Parameters
    ----------
    seeds
        Languages, and networks of each kind.
    steps
        Updates of each, of 32 sentences.
    """
    paper = papers.load(__file__)
    torch.set_num_threads(1)  # steps of 64 units are too small to share
    run.rounding(5e-2, "float32 sums in another order; words are right or wrong")
    check(run)
    seeds = run.budget(quick=2, default=max(seeds, 3), full=max(seeds, 8))
    steps = run.budget(quick=2, default=steps, full=4 * steps)
    sizes = {"sentences": run.budget(quick=60, default=2000), "merges": 150, "steps": steps}
    sizes["tests"] = run.budget(quick=10, default=300)
    scores: dict[str, list[dict]] = {arm: [] for arm in ARMS}
    for seed in run.progress(range(run.seed, run.seed + seeds), "languages"):
        for arm in ARMS:
            found, length = fit(arm, seed, lr=paper.matter["lrs"][arm], **sizes)
            scores[arm].append(found)
            if seed == run.seed:
                run.metric(f"{arm}: symbols per word", length)
    f1 = {arm: {g: np.array([row[g] for row in scores[arm]]) for g in GROUPS} for arm in ARMS}
    judge(run, paper, f1)
    draw(run, paper, f1)


def judge(run: Run, paper: papers.Paper, f1: dict[str, dict[str, np.ndarray]]) -> None:
    """Points of F1 of subwords minus words, paired by language."""
    late = {"quick": False, "rtol": None}
    for arm, group in ((arm, group) for arm in ARMS for group in GROUPS):
        run.metric(f"{arm}: F1, seen {group}", f1[arm][group].mean(), "%", rtol=None)

    def gain(arm: str, group: str) -> Float[np.ndarray, " seeds"]:
        return f1[arm][group] - f1[WORDS][group]

    paper.judge(run, "rare words gain", gain(SUBWORDS, "rare"), **late)
    for arm in (OWN, RANDOM):
        run.falsifier(arm, gain(arm, "rare"), breaks="rare words gain")
    paper.judge(run, "words never seen lose", gain(SUBWORDS, "never"), **late)


def check(run: Run) -> None:
    """The pairs that `subword-nmt` merges, in its order; texts there and back."""
    from subword_nmt import learn_bpe as theirs

    theirs.tqdm = lambda steps: steps  # no second progress bar

    rng = np.random.default_rng(run.seed)
    words = sorted({"".join(row) for row in rng.choice(list("abcde"), (300, 4))})
    times = rng.integers(10**8, 10**9, len(words)).tolist()  # no ties: the two break them otherwise
    out = _Lines()
    theirs.learn_bpe([f"{w} {n}" for w, n in zip(words, times, strict=True)], out, 40, is_dict=True)
    spelled = [[*w[:-1], w[-1] + "</w>"] for w in words]  # the end of a word is marked there
    symbols = sorted(set(chain(*spelled)))
    count = {tuple(map(symbols.index, w)): n for w, n in zip(spelled, times, strict=True)}
    ours = []
    for a, b in learn(count, 40, len(symbols)):
        ours.append([symbols[a], symbols[b]])
        symbols.append("".join(ours[-1]))
    same = [a == b.split() for a, b in zip(ours, out[1:], strict=True)]
    run.check("merges", sum(same), 40, against="subword_nmt.learn_bpe", why="equal or not")
    sides = list(zip(*corpus(run.seed, 300, 1)[0], strict=True))
    joint = Subwords([*sides[0], *sides[1]], 60)
    again = [joint.decode(joint.encode(text)) == text for text in sides[1]]
    same = {"kind": "consistency", "why": "texts are equal or not"}
    run.check("texts there and back", sum(again), len(again), against="the texts", **same)


class _Lines(list):
    """What subword-nmt writes, by line."""

    write = list.append


def draw(run: Run, paper: papers.Paper, f1: dict[str, dict[str, np.ndarray]]) -> None:
    """The paper's F1, and ours by how often a word was seen."""
    title = "Which words does it help to write in pieces?"
    options = {"columns": 2, "size": (10, 4), "width_ratios": [1, 1.6]}
    with run.figure("f1", title, **options) as (left, right):
        given = {
            f"{a}, {b}": f for a, of in paper.matter["paper_f1"].items() for b, f in of.items()
        }
        colors = [plots.GRAY if name.endswith(", words") else plots.BLUE for name in given]
        plots.bars(left, given, colors=colors, xlabel="F1 (%), English to German\n(the paper)")
        lines = {arm: np.stack(list(of.values()), axis=1) for arm, of in f1.items()}
        colors = (plots.GRAY, plots.BLUE, plots.SKY, plots.ORANGE)
        labels = {"xlabel": "tokens in the training text", "ylabel": "F1 (%)", "ylim": (0, 100)}
        plots.curves(right, range(len(GROUPS)), lines, marker="o", colors=colors, **labels)
        right.set_xticks(range(len(GROUPS)), ["more than 5", "1 to 5", "none"])


if __name__ == "__main__":
    cli(main)
