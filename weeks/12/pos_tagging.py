r"""Parts of speech: the best sequence of tags, by counting and by learning from mistakes.

A *hidden Markov model* tells how a sentence came about: each tag draws the next one and its word.
The best tags of a sentence maximize the joint probability, START and STOP included,

$$ \prod_{i=1}^{n+1} p(t_i \mid t_{i-1}) \prod_{i=1}^{n} p(w_i \mid t_i), \qquad
   p(w \mid t) \propto \frac{p(t \mid w)}{p(t)}, $$

and Viterbi's algorithm finds them in $n T^2$ steps. What a word tells about its tag is smoothed by
its ending, that by a shorter one, and so on, so that no word is unknown. An *averaged perceptron*
tells nothing: it scores tags by features, the tags before included, corrects the weights after
every mistake, and keeps the average of all weights it ever had.

>>> path, score = viterbi(
...     np.log([[0.5, 0.5], [0.9, 0.1]]),
...     np.log([[0.2, 0.8], [0.5, 0.5]]),
...     start=np.log([0.6, 0.4]),
...     stop=np.log([0.1, 0.9]),
... )
>>> path.tolist(), round(float(np.exp(score)), 4)  # .4 × .5 × .5 × .9 × .1 and three others lose
([0, 1], 0.0216)
>>> tagger = HMM().fit([[("the", "DET"), ("dog", "NOUN")], [("the", "DET"), ("cat", "NOUN")]])
>>> tagger.tag(["the", "cog"])
['DET', 'NOUN']

    uv run weeks/12/pos_tagging.py

Source: T. Brants, "TnT" (2000), for the endings; M. Collins, "Discriminative training methods for
hidden Markov models" (2002), for the averaged perceptron; the average by two tables: H. Daumé III,
*Practical Structured Learning Techniques* (2006), section 2.1.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float, Int

from shared.arguments import checked
from shared.require import require

Tagged = Sequence[tuple[str, str]]  # a sentence: words with their tags


@checked
def viterbi(
    emissions: Float[np.ndarray, "n t"],
    transitions: Float[np.ndarray, "t t"],
    *,
    start: Float[np.ndarray, " t"],
    stop: Float[np.ndarray, " t"],
) -> tuple[Int[np.ndarray, " n"], float]:
    """The path of the greatest sum of scores, and that sum; of equals, the first tag.

    Parameters
    ----------
    emissions
        Score of each tag at each place, such as a log-probability.
    transitions
        Score of going from one tag (row) to the next (column).
    start, stop
        Score of beginning and of ending with a tag.
    """
    n = len(emissions)
    require(n >= 1, "emissions must hold at least one place", n)
    best = start + emissions[0]
    came_from = np.zeros(emissions.shape, int)
    for i in range(1, n):
        ways = best[:, None] + transitions
        came_from[i] = ways.argmax(axis=0)
        best = ways.max(axis=0) + emissions[i]
    best = best + stop
    path = [int(best.argmax())]
    for i in range(n - 1, 0, -1):
        path.append(int(came_from[i, path[-1]]))
    return np.array(path[::-1]), float(best.max())


# ---- what a word looks like


def shape(word: str) -> str:
    """Capitals, small letters and digits as ``X``, ``x`` and ``d``, runs shortened: ``Xx-d``."""
    kinds = re.sub(r"[^\W\d_]", lambda m: "X" if m[0].isupper() else "x", word)
    return re.sub(r"(.)\1+", r"\1", re.sub(r"\d", "d", kinds))


def normal(word: str) -> str:
    """A word in lower case; numbers and addresses are each one word."""
    if re.fullmatch(r"[\d.,:/-]*\d[\d.,:/-]*", word):
        return "<number>"
    return "<address>" if re.match(r"https?:|www\.|[^@\s]+@[^@\s]", word) else word.lower()


# ---- the hidden Markov model


class HMM:
    """Tagger by counts of neighboring tags and of the tags of words and their endings.

    Parameters
    ----------
    trust
        As how many sightings the next shorter ending counts.
    """

    def __init__(self, trust: float = 0.5):
        require(trust > 0, "trust must be above 0", trust)
        self.trust = trust

    def fit(self, sentences: Iterable[Tagged]) -> "HMM":
        """Count tags, their neighbors, and what words and endings say about them."""
        sentences = [list(sentence) for sentence in sentences]
        pairs = Counter(pair for sentence in sentences for pair in sentence)
        require(pairs, "sentences must hold at least one word", "none")
        self.tags = sorted({tag for _, tag in pairs})
        code, n = {tag: i for i, tag in enumerate(self.tags)}, len(self.tags)
        follow = np.full((n + 1, n + 1), 0.1)  # row n is START, column n is STOP
        for sentence in sentences:
            path = [n, *(code[tag] for _, tag in sentence), n]
            np.add.at(follow, (path[:-1], path[1:]), 1)
        follow[n, n] = 0
        with np.errstate(divide="ignore"):
            self.follow = np.log(follow / follow.sum(axis=1, keepdims=True))
        self.counts: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(n))
        for (word, tag), times in pairs.items():
            *endings, whole = self._chain(word)
            for key in endings:  # once per kind of word: an unknown word is a new kind
                self.counts[key][code[tag]] += 1
            self.counts[whole][code[tag]] += times
        self.counts.default_factory = None
        self.share = sum(self.counts[normal(word)] for word in {normal(w) for w, _ in pairs})
        self.share = self.share / self.share.sum()
        return self

    @staticmethod
    def _chain(word: str) -> list[str]:
        """Keys from the vaguest to the word itself."""
        form, lower = shape(word), normal(word)
        return ["^", f"^{form}", *(f"^{form}-{lower[-k:]}" for k in range(1, 5)), lower]

    def emissions(self, words: Sequence[str]) -> Float[np.ndarray, "n t"]:
        """ln p(t | w) - ln p(t) of each word and tag, which is ln p(w | t) up to a constant."""
        rows = []
        for word in words:
            p = self.share
            for key in self._chain(word):
                if key in self.counts:
                    seen = self.counts[key]
                    p = (seen + self.trust * p) / (seen.sum() + self.trust)
            rows.append(p / self.share)
        return np.log(np.array(rows))

    def tag(self, words: Sequence[str]) -> list[str]:
        """The most probable tags of a sentence; none of an empty one."""
        require(hasattr(self, "tags"), "HMM must be fitted before use: call fit first")
        if not len(words):
            return []
        ends = {"start": self.follow[-1, :-1], "stop": self.follow[:-1, -1]}
        path, _ = viterbi(self.emissions(words), self.follow[:-1, :-1], **ends)
        return [self.tags[i] for i in path]


# ---- the averaged perceptron


def features(words: Sequence[str], *hints: Sequence[str]) -> list[list[str]]:
    """What can be seen of each word and its neighbors, as strings, before any tag is known.

    Parameters
    ----------
    hints
        What else is known of each word, one sequence per kind: a tag of another tagger, a class.
    """
    sizes = [len(words), *map(len, hints)]
    require(len({*sizes}) == 1, f"hints must be one per word = {len(words)}", sizes[1:])
    around = ["<s>", "<s>", *map(normal, words), "</s>", "</s>"]
    kinds = [["<s>", *kind, "</s>"] for kind in hints]
    rows = []
    for i, word in enumerate(words):
        before2, before, this, after, after2 = around[i : i + 5]
        row = ["bias", f"w {this}", f"shape {shape(word)} {i == 0}", f"start {this[:3]}"]
        row += [f"end {this[-k:]}" for k in range(1, 5)]
        row += [f"w-1 {before}", f"w+1 {after}", f"w-2 {before2}", f"w+2 {after2}"]
        row += [f"end-1 {before[-3:]}", f"end+1 {after[-3:]}"]
        row += [f"w-1,0 {before} {this}", f"w0,+1 {this} {after}"]
        for k, known in enumerate(kinds):
            left, here, right = known[i : i + 3]
            row += [f"{k}h {here}", f"{k}h-1 {left}", f"{k}h+1 {right}", f"{k}h,w {here} {this}"]
            row += [f"{k}h-1,0 {left} {here}", f"{k}h0,+1 {here} {right}"]
        rows.append(row)
    return rows


class AveragedPerceptron:
    """Tagger that goes left to right and takes its own tags for what came before.

    Weights w are corrected by ±1 at each mistake. Their average over all steps needs no second
    look at them: u adds up the corrections times the step they were made at, and the average after
    c steps is w - u / c.
    """

    def __init__(self, tags: Iterable[str]):
        self.tags = sorted(set(tags))
        require(self.tags, "tags must hold at least one tag", "none")
        self.rows: dict[str, int] = {}
        self.w, self.u = np.zeros((2, 1024, len(self.tags)))
        self.steps = 0

    def learn(self, row: list[str], truth: str) -> str:
        """One step: guess the tag of features, correct the weights if wrong; give the guess."""
        must = f"truth must be one of the {len(self.tags)} tags"
        require(truth in self.tags, must, repr(truth))
        codes = [self.rows.setdefault(feature, len(self.rows)) for feature in row]
        while len(self.rows) > len(self.w):
            self.w, self.u = (np.concatenate([x, np.zeros_like(x)]) for x in (self.w, self.u))
        guess = int(self.w[codes].sum(axis=0).argmax())
        if self.tags[guess] != truth:
            right = self.tags.index(truth)
            for table, size in ((self.w, 1), (self.u, self.steps)):
                np.add.at(table, (codes, right), size)
                np.add.at(table, (codes, guess), -size)
        self.steps += 1
        return self.tags[guess]

    def average(self) -> Float[np.ndarray, "feature tag"]:
        """Mean of the weights after each step."""
        return (self.w - self.u / max(self.steps, 1))[: len(self.rows)]

    def fit(
        self,
        sentences: Sequence[Tagged],
        *,
        rng: np.random.Generator,
        epochs: int = 8,
        hints: Sequence[Sequence[Sequence[str]]] = (),
    ) -> "AveragedPerceptron":
        """Go through the sentences `epochs` times, in a new order each time.

        Parameters
        ----------
        hints
            Of each kind one sequence per sentence, see `features`.
        """
        require(epochs >= 1, "epochs must be at least 1", epochs)
        words = [[word for word, _ in sentence] for sentence in sentences]
        seen = [features(w, *kinds) for w, *kinds in zip(words, *hints, strict=True)]
        for _ in range(epochs):
            for i in rng.permutation(len(sentences)):
                tags = ["<s>", "<s>"]
                for row, (word, truth) in zip(seen[i], sentences[i], strict=True):
                    tags.append(self.learn(row + _history(tags, word), truth))
        self.averaged = self.average()
        return self

    def tag(self, words: Sequence[str], *hints: Sequence[str]) -> list[str]:
        """Tags by the averaged weights; features that were never seen say nothing."""
        require(hasattr(self, "averaged"), "AveragedPerceptron must be fitted before use")
        tags = ["<s>", "<s>"]
        for row, word in zip(features(words, *hints), words, strict=True):
            row = row + _history(tags, word)
            codes = [self.rows[feature] for feature in row if feature in self.rows]
            tags.append(self.tags[int(self.averaged[codes].sum(axis=0).argmax())])
        return tags[2:]


def _history(tags: list[str], word: str) -> list[str]:
    """Features of the two tags before."""
    before2, before = tags[-2:]
    return [f"t-1 {before}", f"t-2,-1 {before2} {before}", f"t-1,w {before} {normal(word)}"]


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
