r"""Names in a text: a conditional random field, one softmax over all taggings of a sentence.

The score of a tagging adds up a weight for each feature of a token with its tag and one for each
pair of neighboring tags; its probability is the softmax over all $T^n$ taggings,

$$ p(t \mid w) = \frac{1}{Z(w)} \exp\Big( \sum_{i=1}^n e_{i, t_i} + \sum_{i=2}^n A_{t_{i-1} t_i}
   \Big), \qquad e_{i,t} = \sum_{f \in F_i} W_{f t} . $$

Forward sums, $\alpha_{i,t} = e_{i,t} + \ln \sum_s \exp(\alpha_{i-1,s} + A_{st})$, give $\ln Z$ in
$n T^2$ steps; with the backward ones they give how often each weight is expected to be used. The
gradient is that minus how often it was: the chain is trained by L-BFGS on a convex loss. Beginning
and end are features of the first and the last token, which is a START and a STOP.

>>> emissions, transitions = np.log([[1.0, 2.0], [3.0, 1.0]]), np.log([[1.0, 1.0], [2.0, 1.0]])
>>> log_z, marginals, pairs = forward_backward(emissions, transitions, np.array([2]))
>>> np.exp(log_z).round(6)  # 1·1·3 + 1·1·1 + 2·2·3 + 2·1·1
array([18.])
>>> marginals.round(4)
array([[0.2222, 0.7778],
       [0.8333, 0.1667]])
>>> entities(["B-person", "I-person", "O", "B-group"])
[('person', 0, 2), ('group', 3, 4)]

    uv run weeks/12/ner.py

Source: J. Lafferty, A. McCallum and F. Pereira, "Conditional random fields" (2001); C. Sutton and
A. McCallum, "An introduction to conditional random fields" (2012), sections 4.1 and 5.1.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize
from scipy.sparse import csr_array

from shared.arguments import checked
from shared.require import require
from week12.pos_tagging import normal, shape, viterbi

Rows = Sequence[Sequence[str]]  # the features of each token of a sentence


# ---- sums over all taggings


def _log_matmul(
    x: Float[np.ndarray, "n s"], transitions: Float[np.ndarray, "s t"]
) -> Float[np.ndarray, "n t"]:
    """Ln of exp(x) @ exp(transitions); rows are shifted, so that no sum overflows or vanishes."""
    top = x.max(axis=1, keepdims=True)
    return top + np.log(np.exp(x - top) @ np.exp(transitions))


@checked
def forward_backward(
    emissions: Float[np.ndarray, "n t"],
    transitions: Float[np.ndarray, "t t"],
    lengths: Int[np.ndarray, " sentence"],
) -> tuple[Float[np.ndarray, " sentence"], Float[np.ndarray, "n t"], Float[np.ndarray, "t t"]]:
    """Sums over all taggings of each sentence, of all sentences at once.

    Parameters
    ----------
    emissions
        Score of each token with each tag, the sentences one after another.
    transitions
        Score of each pair of neighboring tags, the first (row) and the second (column).
    lengths
        Tokens of each sentence, at least one.

    Returns
    -------
    log_z
        Logarithm of the sum of exp(score), per sentence.
    marginals
        Probability of each tag of each token.
    pairs
        Expected number of each pair of neighboring tags, in all sentences together.
    """
    total, least = lengths.sum(), lengths.min(initial=1)
    require(least >= 1, "lengths must be at least 1", least)
    require(total == len(emissions), f"lengths must sum to n = {len(emissions)}", total)
    order = np.argsort(-lengths, kind="stable")  # those that are still going come first
    starts = (np.cumsum(lengths) - lengths)[order]
    going = [starts[: (lengths > i).sum()] + i for i in range(lengths.max(initial=0))]
    alpha, beta = emissions.copy(), np.zeros_like(emissions)
    for at in going[1:]:
        alpha[at] += _log_matmul(alpha[at - 1], transitions)
    for at in going[:0:-1]:
        beta[at - 1] = _log_matmul(emissions[at] + beta[at], transitions.T)
    last = np.cumsum(lengths) - 1
    top = alpha[last].max(axis=1)
    log_z = top + np.log(np.exp(alpha[last] - top[:, None]).sum(axis=1))
    of_token = np.repeat(log_z, lengths)[:, None]
    marginals = np.exp(alpha + beta - of_token)
    second = np.delete(np.arange(total), starts)
    shift = alpha[second - 1].max(axis=1, keepdims=True)
    left = np.exp(alpha[second - 1] - shift)
    right = np.exp(emissions[second] + beta[second] + shift - of_token[second])
    return log_z, marginals, np.exp(transitions) * (left.T @ right)


# ---- the field


class CRF:
    """Linear-chain conditional random field over features that are strings.

    Parameters
    ----------
    l2
        Weight of the sum of squared weights in the loss.
    min_count
        Features of fewer training tokens have no weight.
    max_iter
        Most iterations of L-BFGS.
    """

    def __init__(self, *, l2: float = 0.1, min_count: int = 2, max_iter: int = 100):
        require(l2 >= 0, "l2 must be at least 0", l2)
        require(min_count >= 1, "min_count must be at least 1", min_count)
        require(max_iter >= 1, "max_iter must be at least 1", max_iter)
        self.l2, self.min_count, self.max_iter = l2, min_count, max_iter

    def fit(self, sentences: Sequence[Rows], tags: Sequence[Sequence[str]]) -> "CRF":
        """Minimize the penalized negative log-likelihood of the tags."""
        self.prepare(sentences, tags)
        n_features, n_tags = len(self.codes), len(self.tags)
        found = minimize(
            self.loss,
            np.zeros((n_features + n_tags) * n_tags),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": self.max_iter, "maxcor": 6},
        )
        self.weights, self.transitions = self._split(found.x)
        self.final_loss = float(found.fun)
        del self._table, self._columns, self._lengths, self._observed
        return self

    def prepare(self, sentences: Sequence[Rows], tags: Sequence[Sequence[str]]) -> None:
        """Number features and tags, and count how often each was seen with each."""
        sizes, others = [*map(len, sentences)], [*map(len, tags)]
        require(sizes and min(sizes) > 0, "sentences must each hold a token", sizes[:3] or "none")
        at = next((i for i, (a, b) in enumerate(zip(sizes, others, strict=False)) if a != b), None)
        same = at is None and len(sizes) == len(others)
        require(same, "tags must be one per token", f"another number in sentence {at}")
        counts = Counter(f for rows in sentences for row in rows for f in set(row))
        kept = sorted(feature for feature, n in counts.items() if n >= self.min_count)
        self.codes = {feature: i for i, feature in enumerate(kept)}
        self.tags = sorted(set(chain.from_iterable(tags)))
        self._table, self._lengths = self._features(chain.from_iterable(sentences)), np.array(sizes)
        code = {tag: i for i, tag in enumerate(self.tags)}
        gold = np.array([code[tag] for tag in chain.from_iterable(tags)])
        truth = np.eye(len(self.tags))[gold]
        within = np.delete(np.arange(len(gold)), np.cumsum(sizes) - sizes)
        pairs = np.zeros((len(self.tags), len(self.tags)))
        np.add.at(pairs, (gold[within - 1], gold[within]), 1)
        self._columns = csr_array(self._table.T)
        self._observed = np.concatenate([self._columns @ truth, pairs]).ravel()

    def loss(self, x: Float[np.ndarray, " p"]) -> tuple[float, Float[np.ndarray, " p"]]:
        """Negative log-likelihood of the prepared sentences plus the penalty, and the gradient.

        `x` holds the weights (feature, tag) and then the transitions, row by row.
        """
        weights, transitions = self._split(x)
        emissions = self._table @ weights
        log_z, marginals, pairs = forward_backward(emissions, transitions, self._lengths)
        expected = np.concatenate([self._columns @ marginals, pairs]).ravel()
        value = log_z.sum() - self._observed @ x + self.l2 * x @ x
        return float(value), expected - self._observed + 2 * self.l2 * x

    def tag(self, rows: Rows) -> list[str]:
        """The likeliest tags of a sentence; features without a weight say nothing."""
        require(hasattr(self, "weights"), "CRF must be fitted before use: call fit first")
        if not len(rows):
            return []
        ends = np.zeros(len(self.tags))
        emissions = self._features(rows) @ self.weights
        path, _ = viterbi(emissions, self.transitions, start=ends, stop=ends)
        return [self.tags[i] for i in path]

    def _split(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        table = x.reshape(-1, len(self.tags))
        return table[: len(self.codes)], table[len(self.codes) :]

    def _features(self, rows: Iterable[Sequence[str]]) -> csr_array:
        """Which features each token has, (token, feature)."""
        codes = [sorted({self.codes[f] for f in row if f in self.codes}) for row in rows]
        columns = np.array([*chain.from_iterable(codes)], np.int64)
        ends = np.cumsum([0, *map(len, codes)])
        shape = (len(codes), len(self.codes))
        return csr_array((np.ones(len(columns)), columns, ends), shape=shape)


def features(words: Sequence[str]) -> list[list[str]]:
    """What each token and its neighbors look like; the first and the last say so."""
    rows = []
    for i, word in enumerate(words):
        row = ["bias", f"w {normal(word)}", f"shape {shape(word)}", f"end {word[-3:].lower()}"]
        row += [f"start {word[:3].lower()}", f"first {word[:1] if word[:1] in '@#' else ''}"]
        row += ["capital"] if word[:1].isupper() and i else []
        row += ["capitals"] if word.isupper() and len(word) > 1 else []
        for step in (-2, -1, 1, 2):
            if 0 <= i + step < len(words):
                other = words[i + step]
                row.append(f"w{step:+} {normal(other)}")
                row += [f"shape{step:+} {shape(other)}"] if abs(step) == 1 else []
        row += ["BOS"] if i == 0 else []
        row += ["EOS"] if i == len(words) - 1 else []
        rows.append(row)
    return rows


# ---- entities


def entities(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """Type, first token and token after the last of each entity, by seqeval's default rule.

    An I- that continues nothing (after O, or another type) begins an entity, as a B- would.
    """
    wrong = [tag for tag in tags if tag != "O" and tag[:2] not in ("B-", "I-")]
    require(not wrong, "tags must be O, B-TYPE or I-TYPE", *map(repr, wrong[:1]))
    found: list[tuple[str, int, int]] = []
    for i, tag in enumerate(tags):
        kind = tag[2:]
        if tag == "O":
            continue
        if tag.startswith("I-") and found and found[-1][0] == kind and found[-1][2] == i:
            found[-1] = (kind, found[-1][1], i + 1)
        else:
            found.append((kind, i, i + 1))
    return found


def entity_scores(
    truth: Sequence[Sequence[str]], found: Sequence[Sequence[str]]
) -> Int[np.ndarray, "sentence 3"]:
    """Per sentence: entities found with the right type and ends, entities found, entities there."""
    same = [len(a) for a in truth] == [len(b) for b in found]
    require(same, "found must have as many tags as truth in each sentence", "another number")
    pairs = [(set(entities(a)), set(entities(b))) for a, b in zip(truth, found, strict=True)]
    return np.array([(len(a & b), len(b), len(a)) for a, b in pairs]).reshape(-1, 3)


def f1(scores: Int[np.ndarray, "sentence 3"]) -> float:
    """2 right / (found + there), over all sentences together; 0 if there are no entities."""
    right, found, there = scores.sum(axis=0)
    return float(2 * right / max(found + there, 1))


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
