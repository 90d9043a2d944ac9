r"""word2vec: a word is what predicts its neighbors, without a softmax over the vocabulary.

Each word has two vectors, $v$ where it stands in a context and $u$ where it is predicted.
Skip-gram lets each word $j$ of the context predict the center $c$, CBOW their mean
$\bar v = \frac1{|C|}\sum_{j \in C} v_j$. The prediction is a few yes-or-no questions in place of
one choice among all words. With $k$ noise words, $n_i$ drawn with $P(n) \propto \#(n)^{3/4}$,

$$ \ell(h, c) = -\log \sigma(u_c^\top h) - \sum_{i=1}^k \log \sigma(-u_{n_i}^\top h),
   \qquad h = v_j \text{ or } \bar v, $$

or the turns left and right on the way down to $c$ in a Huffman tree, whose product is $p(c)$.

>>> corpus = read(["the cat sat on the mat".split(), "the dog sat on the rug".split()], min_count=2)
>>> corpus.words, corpus.counts.tolist()
(['the', 'on', 'sat'], [4, 2, 2])
>>> huffman_paths(corpus.counts).codes.tolist()  # the: 0; on: 10; sat: 11 (False pads)
[[False, False], [True, False], [True, True]]
>>> keep_probability(torch.tensor([900, 100]), threshold=0.1).numpy().round(3)
array([0.444, 1.   ], dtype=float32)

    uv run weeks/12/word2vec.py

Mikolov, Chen, Corrado and Dean (2013), arXiv:1301.3781; Mikolov, Sutskever, Chen, Corrado and Dean
(2013), arXiv:1310.4546, sections 2 and 4; one set of noise words per window: Ji et al. (2016),
"Parallelizing Word2Vec in Shared and Distributed Memory".
"""

import heapq
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, sigmoid
from torch.nn.functional import embedding, softplus

from shared.require import require
from week01.word_geometry import build_vocabulary

# ---- the text


class Corpus(NamedTuple):
    """A text as numbers: words by falling count; the tokens, and the sentence each stands in."""

    words: list[str]
    counts: Int[Tensor, " vocab"]
    tokens: Int[Tensor, " n"]
    sentence: Int[Tensor, " n"]


def read(sentences: Sequence[Sequence[str]], min_count: int = 5) -> Corpus:
    """Number the words that occur at least `min_count` times; the others are left out.

    What is left out takes no place: the words beside it become neighbors, as in the C code.
    """
    words = build_vocabulary(sentences, min_count)
    must = f"sentences must hold words that occur min_count = {min_count} times"
    require(len(words) >= 2, must, f"{len(words)} of them")
    index = {word: i for i, word in enumerate(words)}
    pairs = [(index[w], s) for s, words in enumerate(sentences) for w in words if w in index]
    tokens, sentence = torch.tensor(pairs).T.contiguous()
    return Corpus(words, torch.bincount(tokens), tokens, sentence)


def join_phrases(
    sentences: Sequence[Sequence[str]], *, min_count: int = 5, threshold: float = 10.0
) -> list[list[str]]:
    r"""Join neighbors $a\,b$ to `a_b` where $\frac{\#(ab) - \delta}{\#(a)\,\#(b)} N$ > threshold.

    Parameters
    ----------
    min_count
        $\delta$: pairs must occur more often than this.
    threshold
        How many times as often as by chance; $N$ is the number of words, as in the C code (eq. 6
        of the paper has no $N$).
    """
    count = Counter(word for sentence in sentences for word in sentence)
    both = Counter(pair for s in sentences for pair in itertools.pairwise(s))
    n = sum(count.values())
    phrases = {
        (a, b)
        for (a, b), k in both.items()
        if k > min_count and (k - min_count) / count[a] / count[b] * n > threshold
    }
    joined = []
    for words in sentences:
        line, i = [], 0
        while i < len(words):  # a word belongs to one phrase at most, the leftmost
            pair = tuple(words[i : i + 2])
            line.append("_".join(pair) if pair in phrases else words[i])
            i += 2 if pair in phrases else 1
        joined.append(line)
    return joined


def keep_probability(counts: Int[Tensor, " vocab"], threshold: float) -> Float[Tensor, " vocab"]:
    r"""How often a token of each word is kept, $\min(1, \sqrt{t/f} + t/f)$; $f$ its frequency.

    The formula of the C code. The paper's (eq. 5), $\sqrt{t/f}$, drops a little more.
    """
    require(threshold > 0, "threshold must be above 0", threshold)
    ratio = threshold * counts.sum() / counts
    return (ratio.sqrt() + ratio).clamp(max=1.0)


def noise_distribution(
    counts: Int[Tensor, " vocab"], power: float = 0.75
) -> Float[Tensor, " vocab"]:
    """Probability of each word as noise: its count to a power, normalized (section 2.2)."""
    weight = counts.double() ** power
    return weight / weight.sum()


class Paths(NamedTuple):
    """From the root to each word: inner nodes, turns (True: right), False where padded."""

    nodes: Int[Tensor, "vocab depth"]
    codes: Bool[Tensor, "vocab depth"]
    mask: Bool[Tensor, "vocab depth"]


def huffman_paths(counts: Int[Tensor, " vocab"]) -> Paths:
    """The binary tree with the shortest mean path: join the two rarest until one is left.

    Inner nodes are numbered from the root, 0, on; with one vector each they are as many as the
    words minus one.
    """
    n = len(counts)
    require(n >= 2, "counts must be of at least 2 words", n)
    heap = [(count, i) for i, count in enumerate(counts.tolist())]
    heapq.heapify(heap)
    parent, right = {}, {}
    for node in range(n, 2 * n - 1):
        (first, a), (second, b) = heapq.heappop(heap), heapq.heappop(heap)
        parent[a], parent[b], right[a], right[b] = node, node, False, True
        heapq.heappush(heap, (first + second, node))
    ways: dict[int, list[tuple[int, bool]]] = {2 * n - 2: []}
    for node in range(2 * n - 3, -1, -1):  # parents have higher numbers
        ways[node] = [*ways[parent[node]], (2 * n - 2 - parent[node], right[node])]
    depth = max(len(ways[i]) for i in range(n))
    nodes = torch.zeros(n, depth, dtype=torch.int64)
    codes, mask = (torch.zeros(n, depth, dtype=torch.bool) for _ in range(2))
    for i in range(n):
        mask[i, : len(ways[i])] = True
        steps = torch.tensor(ways[i])
        nodes[i, mask[i]], codes[i, mask[i]] = steps[:, 0], steps[:, 1].bool()
    return Paths(nodes, codes, mask)


# ---- the model


class Batch(NamedTuple):
    """Centers with the words of their context, and the questions that the context answers.

    Labels are 1 (yes) or 0; masks are False where a context or a list of questions is shorter.
    """

    context: Int[Tensor, "batch place"]
    context_mask: Bool[Tensor, "batch place"]
    target: Int[Tensor, "batch question"]
    label: Float[Tensor, "batch question"]
    target_mask: Bool[Tensor, "batch question"]


class Word2Vec:
    """Input vectors `v` and output vectors `u` of all words, trained by SGD on batches of centers.

    Parameters
    ----------
    counts
        Of the words of the corpus.
    skip_gram
        Each word of the context predicts the center by itself; else CBOW, their mean does.
    negative
        Noise words per center, common to its context: in the mean, the gradient of drawing them
        anew for each pair. 0 is the hierarchical softmax.
    window
        Farthest neighbor; each batch draws its reach between 1 and this.
    threshold
        Of subsampling; None keeps all tokens.
    as_in_c
        CBOW passes the gradient of the mean on to each word undivided, as the C code and gensim
        do: |C| times the gradient of the loss for `v`, and the gradient itself for `u`.
    """

    def __init__(
        self,
        counts: Int[Tensor, " vocab"],
        dim: int = 100,
        *,
        skip_gram: bool = True,
        negative: int = 5,
        window: int = 5,
        threshold: float | None = 1e-3,
        as_in_c: bool = False,
        generator: torch.Generator,
    ):
        require(dim >= 1, "dim must be at least 1", dim)
        require(window >= 1, "window must be at least 1", window)
        require(negative >= 0, "negative must be at least 0", negative)
        self.skip_gram, self.negative, self.window = skip_gram, negative, window
        self.as_in_c, self.generator = as_in_c, generator
        keep = torch.ones(len(counts)) if threshold is None else keep_probability(counts, threshold)
        self.keep, self.noise = keep, noise_distribution(counts).cumsum(0).float()
        self.paths = huffman_paths(counts) if negative == 0 else None
        self.v = (torch.rand(len(counts), dim, generator=generator) - 0.5) / dim
        self.u = torch.zeros(len(counts), dim)

    def batches(self, corpus: Corpus, batch_size: int) -> Iterator[Batch]:
        """One pass over the tokens that subsampling keeps, centers in random order."""
        kept = torch.rand(len(corpus.tokens), generator=self.generator) < self.keep[corpus.tokens]
        tokens, sentence = corpus.tokens[kept], corpus.sentence[kept]
        order = torch.randperm(len(tokens), generator=self.generator)
        for at in order.split(batch_size):
            # one reach per batch: drawn per center it would leave two fifths of the places empty
            reach = int(torch.randint(1, self.window + 1, (), generator=self.generator))
            place, mask = contexts(at, sentence, reach)
            some = mask.any(dim=1)
            if not some.all():
                at, place, mask = at[some], place[some], mask[some]
            if len(at):
                yield Batch(tokens[place], mask, *self.questions(tokens[at]))

    def questions(self, center: Int[Tensor, " batch"]) -> tuple[Tensor, Tensor, Tensor]:
        """The last three fields of a batch: rows of `u`, their labels, and which of them count."""
        if self.paths is not None:
            nodes, codes, mask = (table[center] for table in self.paths)
            return nodes, (~codes).float(), mask
        uniform = torch.rand(len(center), self.negative, generator=self.generator)
        noise = torch.searchsorted(self.noise, uniform).clamp(max=len(self.noise) - 1)
        target = torch.cat([center[:, None], noise], dim=1)
        label = torch.zeros(target.shape)
        label[:, 0] = 1.0
        mask = target != center[:, None]  # noise that is the center by chance asks nothing
        mask[:, 0] = True
        return target, label, mask

    def gradients(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Summed loss; gradients by `v` (batch, place, dim) and `u` (batch, question, dim)."""
        v, u = embedding(batch.context, self.v), embedding(batch.target, self.u)
        inside = batch.context_mask.to(v.dtype)
        size = inside.sum(dim=1, keepdim=True)
        if self.skip_gram:
            h, counts = v, inside[:, :, None] * batch.target_mask[:, None, :]
        else:
            h = torch.bmm((inside / size)[:, None], v)
            counts = batch.target_mask[:, None, :].to(v.dtype)
        score, label = torch.bmm(h, u.mT), batch.label[:, None, :]
        loss = ((softplus(score) - label * score) * counts).sum()
        error = (sigmoid(score) - label) * counts  # of -log σ(±s) by s
        grad_v, grad_u = torch.bmm(error, u), torch.bmm(error.mT, h)
        if not self.skip_gram:
            share = inside if self.as_in_c else inside / size
            grad_v = share[:, :, None] * grad_v
        return loss, grad_v, grad_u

    def step(self, batch: Batch, lr: float) -> float:
        """One step of SGD on the batch's sum; the loss per prediction before it."""
        loss, grad_v, grad_u = self.gradients(batch)
        predictions = batch.context_mask.sum() if self.skip_gram else len(batch.context)
        # index_add_ sums the rows of a word that occurs twice; v[i] -= … would keep one of them
        self.v.index_add_(0, batch.context.flatten(), grad_v.flatten(0, 1), alpha=-lr)
        self.u.index_add_(0, batch.target.flatten(), grad_u.flatten(0, 1), alpha=-lr)
        return float(loss / predictions)

    def fit(
        self, corpus: Corpus, *, epochs: int = 5, lr: float = 0.025, batch_size: int = 128
    ) -> list[float]:
        """Train with a rate that falls linearly to nothing; the mean loss of each epoch."""
        losses, done = [], 0
        expected = epochs * float(self.keep[corpus.tokens].sum())
        for _ in range(epochs):
            seen = []
            for batch in self.batches(corpus, batch_size):
                seen.append(self.step(batch, lr * max(1 - done / expected, 1e-4)))
                done += len(batch.context)
            require(seen, "corpus must hold two neighbors that subsampling keeps", "none")
            losses.append(sum(seen) / len(seen))
        return losses


def contexts(
    at: Int[Tensor, " batch"], sentence: Int[Tensor, " n"], reach: int
) -> tuple[Int[Tensor, "batch place"], Bool[Tensor, "batch place"]]:
    """The 2 reach places around each center; False where its sentence has ended."""
    place = at[:, None] + torch.cat([torch.arange(-reach, 0), torch.arange(1, reach + 1)])
    inside = place.clamp(0, len(sentence) - 1)
    return inside, (place == inside) & (sentence[inside] == sentence[at][:, None])


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
