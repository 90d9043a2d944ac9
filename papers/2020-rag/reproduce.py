r"""Does a search that learns from answers alone beat a frozen one, and a search for words?

A passage $z$ is found for a question $x$ by the inner product of their vectors, and a reader copies
from it. Which passage is right nobody says: the likelihood of the answer $y$ is that over the five
best, as one passage per answer (RAG-Sequence) or one per word (RAG-Token),

$$ p(y \mid x) = \sum_z p(z \mid x) \prod_i p(y_i \mid x, z, y_{<i}), \qquad
   \prod_i \sum_z p(z \mid x)\, p(y_i \mid x, z, y_{<i}), \qquad
   p(z \mid x) \propto e^{d(z) \cdot q(x)} . $$

Reduced: 500 generated facts for 21 million passages, bags of words for BERT, a pointer of one layer
for BART. Questions use a passage's words, or others that never stand in a passage. The rules stand
in the front matter of README.md.

    uv run papers/2020-rag/reproduce.py

Lewis, Perez, Piktus et al. (2020), "Retrieval-Augmented Generation for Knowledge-Intensive NLP
Tasks", arXiv:2005.11401, sections 2 to 4 and table 6.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared import papers, plots
from shared.require import require
from shared.study import PositiveInt, Run, cli
from week12.bm25 import BM25

TOP, LENGTH = 5, 2  # passages read, words of an answer
GAP, VERBATIM = "other words", "the same words"
LEARNED, FROZEN, LEXICAL, CLOSED = "learned", "frozen", "BM25", "closed book"
AGAIN = "no gradient into the question's encoder"
FORMS = (GAP, VERBATIM)
ARMS = (CLOSED, LEXICAL, FROZEN, LEARNED, AGAIN)


# ---- facts, and questions about them


@dataclass(frozen=True)
class World:
    """Facts, told in passages, and two questions about each.

    Attributes
    ----------
    facts
        Entity and relation of each.
    values
        The two words that answer it.
    turned
        Whether the passage begins with the answer.
    text
        Sentences without facts, in which a word and its synonym have the same neighbors.
    """

    facts: list[tuple[int, int]]
    values: Int[np.ndarray, "facts 2"]
    turned: list[bool]
    text: list[list[str]]

    def passages(self) -> list[list[str]]:
        """The r3 of e5 is v1 v2; or v1 v2 is the r3 of e5."""
        told = []
        for (e, r), value, turned in zip(self.facts, self.answers(), self.turned, strict=True):
            subject = ["the", f"r{r}", "of", f"e{e}"]
            told.append([*value, "is", *subject] if turned else [*subject, "is", *value])
        return told

    def answers(self) -> list[list[str]]:
        """The two words of each."""
        return [[f"v{i}" for i in row] for row in self.values]

    def questions(self, form: str) -> list[list[str]]:
        """One per fact, in the words of the passage or in their synonyms."""
        require(form in (GAP, VERBATIM), f"form must be {GAP} or {VERBATIM}", repr(form))
        if form == GAP:
            return [["please", "tell", "me", "which", f"s{r}", f"f{e}"] for e, r in self.facts]
        return [["what", "is", "the", f"r{r}", "of", f"e{e}"] for e, r in self.facts]

    def changed(self, rng: np.random.Generator) -> "World":
        """The same entities and relations with other values, each of its words a new one."""
        n = self.values.max() + 1
        return replace(self, values=(self.values + rng.integers(1, n, self.values.shape)) % n)


def world(seed: int, *, entities: int = 125, relations: int = 4, sentences: int = 16) -> World:
    """Draw the facts of all entities, and `sentences` without facts about each word."""
    rng = np.random.default_rng(seed)
    facts = [(e, r) for e in range(entities) for r in range(relations)]
    pairs = [(f"e{i}", f"f{i}") for i in range(entities)]
    pairs += [(f"r{i}", f"s{i}") for i in range(relations)]
    text = []
    for pair in pairs:
        near = rng.integers(100, size=3)
        for _ in range(sentences):
            beside = [*rng.choice(near, 2), rng.integers(100)]
            text.append([pair[rng.integers(2)], *(f"c{i}" for i in beside)])
    turned = (rng.random(len(facts)) < 0.5).tolist()
    return World(facts, rng.integers(60, size=(len(facts), 2)), turned, text)


class Words:
    """Numbers of the words, and of texts of one length."""

    def __init__(self, texts: Sequence[Sequence[str]]):
        self.ids = {word: i for i, word in enumerate(sorted({w for text in texts for w in text}))}

    def __len__(self) -> int:
        return len(self.ids)

    def encode(self, texts: Sequence[Sequence[str]]) -> Int[Tensor, "text word"]:
        """Numbers by text."""
        return torch.tensor([[self.ids[word] for word in text] for text in texts])


# ---- finding


def word_vectors(
    texts: Sequence[Sequence[str]], words: Words, dim: int
) -> Float[Tensor, "vocab dim"]:
    """Latent semantic analysis: a word's place in the first singular directions, times its idf."""
    counts = np.zeros((len(texts), len(words)))
    for row, text in enumerate(texts):
        for word in text:
            counts[row, words.ids[word]] += 1
    idf = np.log(len(texts) / np.maximum((counts > 0).sum(axis=0), 1))
    directions = np.linalg.svd(counts * idf, full_matrices=False)[2][:dim]
    return torch.tensor(directions.T * idf[:, None], dtype=torch.float32)


def encode_passages(
    passages: Int[Tensor, "passage word"], vectors: Float[Tensor, "vocab dim"]
) -> Float[Tensor, "passage dim"]:
    """Sum of the words' vectors, of length 1; never trained, so the index stays."""
    return nn.functional.normalize(vectors[passages].sum(dim=1), dim=1)


def lexical_scores(
    questions: Sequence[Sequence[str]], passages: Sequence[Sequence[str]]
) -> Float[Tensor, "question passage"]:
    """BM25 of each passage, Lucene's variant."""
    index = BM25().add([str(i) for i in range(len(passages))], passages)
    return torch.tensor(np.array([index.scores(question) for question in questions]))


# ---- reading


class Reader(nn.Module):
    """Writes an answer word by word: points into the passage, or takes a word of its own."""

    def __init__(self, n_words: int, *, dim: int = 32):
        super().__init__()
        self.words, self.place = nn.Embedding(n_words + 1, dim), nn.Embedding(7, dim)
        self.step = nn.Embedding(LENGTH, dim)
        self.hidden = nn.Sequential(nn.Linear(dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim))
        self.own, self.gate = nn.Linear(dim, n_words), nn.Linear(dim, 1)
        self.start = n_words

    def forward(
        self,
        questions: Int[Tensor, "batch word"],
        passages: Int[Tensor, "batch passage place"],
        answers: Int[Tensor, "batch passage 2"],
    ) -> Float[Tensor, "batch passage 2 vocab"]:
        """p(y_i | x, z, y_<i) of every word, under teacher forcing."""
        before = torch.cat([torch.full_like(answers[..., :1], self.start), answers[..., :-1]], -1)
        asked = self.words(questions).mean(dim=1)[:, None, None]
        state = asked + self.hidden(asked + self.words(before) + self.step.weight)
        seen = self.words(passages) + self.place.weight
        scores = torch.einsum("bpid,bpjd->bpij", state, seen) / seen.shape[-1] ** 0.5
        copied = scores.softmax(dim=-1)
        target = passages[:, :, None].expand_as(copied)
        own = self.own(state).softmax(dim=-1)
        gate = self.gate(state).sigmoid()
        p = ((1 - gate) * own).scatter_add(-1, target, gate * copied)
        return 0.999 * p + 0.001 / p.shape[-1]  # no word is impossible: its logarithm is finite


def sequence_marginal(
    prior: Float[Tensor, "batch passage"], words: Float[Tensor, "batch passage 2"]
) -> Float[Tensor, " batch"]:
    """Log-likelihood if one passage gives all words; `words` are p(y_i | x, z, y_<i)."""
    return (prior.log() + words.log().sum(dim=-1)).logsumexp(dim=-1)


def token_marginal(
    prior: Float[Tensor, "batch passage"], words: Float[Tensor, "batch passage 2"]
) -> Float[Tensor, " batch"]:
    """Log-likelihood if each word has a passage of its own."""
    return (prior[..., None] * words).sum(dim=-2).log().sum(dim=-1)


def probabilities(
    reader: Reader,
    questions: Int[Tensor, "batch word"],
    read: Int[Tensor, "batch passage place"],
    answers: Int[Tensor, "batch passage 2"],
) -> Float[Tensor, "batch passage 2"]:
    """p(y_i | x, z, y_<i) of given answers."""
    return reader(questions, read, answers).gather(-1, answers[..., None])[..., 0]


@torch.no_grad()
def write(
    reader: Reader,
    prior: Float[Tensor, "batch passage"],
    questions: Int[Tensor, "batch word"],
    read: Int[Tensor, "batch passage place"],
) -> Int[Tensor, "batch 2"]:
    """The best of each passage's own greedy answer, judged by all passages."""
    answers = torch.zeros(*read.shape[:2], LENGTH, dtype=torch.int64)
    for i in range(LENGTH):
        answers[:, :, i] = reader(questions, read, answers)[:, :, i].argmax(dim=-1)
    each = [answers[:, j, None].expand_as(answers) for j in range(answers.shape[1])]
    words = [probabilities(reader, questions, read, answer) for answer in each]
    scores = torch.stack([sequence_marginal(prior, p) for p in words])
    return answers[torch.arange(len(answers)), scores.argmax(dim=0)]


# ---- an arm: where passages come from, and what learns


class Corpus:
    """A world in numbers: passages and their vectors, questions, and who is asked in training."""

    def __init__(self, seed: int, *, dim: int = 64, **sizes: int):
        self.world = world(seed, **sizes)
        texts = [*self.world.passages(), *self.world.text]
        asked = [*self.world.questions(GAP), *self.world.questions(VERBATIM)]
        values = [[f"v{i}"] for i in range(60)]
        self.words = Words([*texts, *asked, *values])
        self.vectors = word_vectors(texts, self.words, dim)
        self.questions = {form: self.words.encode(self.world.questions(form)) for form in FORMS}
        order = torch.from_numpy(np.random.default_rng(seed).permutation(len(self.world.facts)))
        self.test, self.train = order.tensor_split([len(order) * 2 // 5])
        self.open(self.world)

    def open(self, of: World) -> None:
        """Put the passages of a world into the index."""
        self.passages = self.words.encode(of.passages())
        self.answers = self.words.encode(of.answers())
        self.index = encode_passages(self.passages, self.vectors)
        self.lexical = {form: lexical_scores(of.questions(form), of.passages()) for form in FORMS}


def copying_reader(corpus: Corpus, seed: int, steps: int, lr: float = 0.01) -> Reader:
    """A reader that has learned to read, as BART comes pretrained: from passages of made-up facts.

    It sees the right passage only, and no fact twice.
    """
    torch.manual_seed(seed)
    rng, reader = np.random.default_rng(seed), Reader(len(corpus.words))
    optimizer = torch.optim.Adam(reader.parameters(), lr=lr)
    for step in range(steps):
        invented = corpus.world.changed(rng)
        read, answers = (
            corpus.words.encode(x)[corpus.train, None]
            for x in (invented.passages(), invented.answers())
        )
        questions = corpus.questions[FORMS[step % 2]][corpus.train]
        optimizer.zero_grad()
        (-probabilities(reader, questions, read, answers).log().mean()).backward()
        optimizer.step()
    return reader


class Arm:
    """A reader, and where its passages come from.

    The closed book reads one word again and again, and learns the questions of all facts by heart,
    which takes it longer.
    """

    def __init__(self, name: str, corpus: Corpus, reader: Reader):
        require(name in ARMS, f"name must be one of {', '.join(ARMS)}", repr(name))
        self.name, self.corpus = name, corpus
        self.reader = deepcopy(reader)
        # Its vectors begin as those of the passages' encoder, so much longer that softmax decides.
        begin = {"freeze": name != LEARNED, "mode": "sum"}
        self.encoder = nn.EmbeddingBag.from_pretrained(10 * corpus.vectors, **begin)

    def find(
        self, form: str, rows: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch passage"], Int[Tensor, "batch passage place"]]:
        """p(z | x) of the best passages, and their words."""
        c = self.corpus
        if self.name == CLOSED:
            blank = torch.full((len(rows), 1, c.passages.shape[1]), c.words.ids["the"])
            return torch.ones(len(rows), 1), blank
        if self.name == LEXICAL:
            scores = c.lexical[form][rows]
        else:
            scores = self.encoder(c.questions[form][rows]) @ c.index.T
        best, found = scores.topk(TOP)
        return best.softmax(dim=-1), c.passages[found]

    def fit(self, steps: int, lr: float, seed: int) -> None:
        """Raise the marginal likelihood of the answers; most arms see the same batches."""
        c = self.corpus
        generator = torch.Generator().manual_seed(seed + 500 * (self.name == AGAIN))
        rows = torch.arange(len(c.answers)) if self.name == CLOSED else c.train
        parts = [*self.reader.parameters(), *self.encoder.parameters()]
        optimizer = torch.optim.Adam([p for p in parts if p.requires_grad], lr=lr)
        for step in range(steps):
            batch = rows[torch.randint(len(rows), (64,), generator=generator)]
            form = FORMS[step % 2]
            prior, read = self.find(form, batch)
            given = c.answers[batch][:, None].expand(-1, read.shape[1], -1)
            p = probabilities(self.reader, c.questions[form][batch], read, given)
            optimizer.zero_grad()
            (-sequence_marginal(prior, p).mean()).backward()
            optimizer.step()

    def score(self, form: str, answers: Int[Tensor, "facts 2"]) -> float:
        """Percent of the test questions whose answer is right in both words."""
        rows = self.corpus.test
        with torch.no_grad():
            prior, read = self.find(form, rows)
        written = write(self.reader, prior, self.corpus.questions[form][rows], read)
        return 100 * (written == answers[rows]).all(dim=1).double().mean().item()

    def found(self, form: str) -> float:
        """Percent of the test questions whose passage is among the five."""
        rows = self.corpus.test
        with torch.no_grad():
            _, read = self.find(form, rows)
        right = (read == self.corpus.passages[rows][:, None]).all(dim=-1).any(dim=1)
        return 100 * right.double().mean().item()


# ---- the experiment


def main(run: Run, *, seeds: PositiveInt = 3, steps: PositiveInt = 150) -> None:
    """Train readers on passages found in four ways, change the facts, and judge.

    Parameters
    ----------
    seeds
        Worlds, with readers of their own.
    steps
        Updates of each arm, of 64 questions.
    """
    paper = papers.load(__file__)
    torch.set_num_threads(1)  # these layers are too small to share
    run.rounding(5e-2, "float32 sums in another order; answers are right or wrong")
    check(run)
    seeds = run.budget(quick=2, default=max(seeds, 3), full=max(seeds, 8))
    steps = run.budget(quick=2, default=steps, full=4 * steps)
    sizes = run.budget(quick={"entities": 20, "sentences": 4}, default={})
    rows: dict[str, list[float]] = {}
    for seed in run.progress(range(run.seed, run.seed + seeds), "worlds"):
        for name, value in measure(seed, steps, paper.matter["lr"], **sizes).items():
            rows.setdefault(name, []).append(value)
    found = {name: np.array(values) for name, values in rows.items()}
    for name, values in found.items():
        untrained = name.startswith(FROZEN) and name.endswith("found")
        run.metric(name, values.mean(), "%", rtol=0.02 if untrained else None)
    judge(run, paper, found)
    draw(run, paper, found)


def measure(seed: int, steps: int, lr: float, **sizes: int) -> dict[str, float]:
    """Right answers of all arms in one world, before and after its facts change."""
    corpus, found = Corpus(seed, **sizes), {}
    taught = copying_reader(corpus, seed, min(steps, 30))
    other = corpus.world.changed(np.random.default_rng(seed + 1))
    truth, new = corpus.answers, corpus.words.encode(other.answers())
    arms = {name: Arm(name, corpus, taught) for name in ARMS}
    for name, arm in arms.items():
        arm.fit(steps * (8 if name == CLOSED else 1), lr, seed)
        for form in FORMS:
            found[f"{name}, {form}"] = arm.score(form, truth)
            if name in (LEXICAL, FROZEN, LEARNED):
                found[f"{name}, {form}: passage found"] = arm.found(form)
    for index, facts in (("old", corpus.world), ("new", other)):
        corpus.open(facts)
        for name in (LEARNED, CLOSED):
            right = [arms[name].score(form, new) for form in FORMS]
            found[f"{name}, new facts, {index} passages"] = sum(right) / len(right)
    return found


def judge(run: Run, paper: papers.Paper, found: dict[str, Float[np.ndarray, " seeds"]]) -> None:
    """Points of right answers, paired by world."""
    late, (gap, words, swap, closed) = {"quick": False, "rtol": None}, paper.rules

    def gain(arm: str) -> Float[np.ndarray, " seeds"]:
        return found[f"{arm}, {GAP}"] - found[f"{FROZEN}, {GAP}"]

    paper.judge(run, gap, gain(LEARNED), **late)
    run.falsifier(AGAIN, gain(AGAIN), breaks=gap)
    paper.judge(
        run, words, found[f"{LEXICAL}, {VERBATIM}"] - found[f"{LEARNED}, {VERBATIM}"], **late
    )
    before = sum(found[f"{LEARNED}, {form}"] for form in FORMS) / len(FORMS)
    kept = {
        index: 100 * found[f"{LEARNED}, new facts, {index} passages"] / np.maximum(before, 1e-9)
        for index in ("new", "old")
    }
    paper.judge(run, swap, kept["new"], **late)
    run.falsifier("the old passages", kept["old"], breaks=swap)
    paper.judge(run, closed, found[f"{CLOSED}, new facts, new passages"], **late)


def check(run: Run) -> None:
    """Marginals by enumeration, and the two searches by libraries."""
    import bm25s
    import faiss

    rng = run.rng
    prior = torch.from_numpy(rng.dirichlet(np.ones(3), 4))
    words = torch.from_numpy(rng.dirichlet(np.ones(6), (4, 3, LENGTH)))  # p of each of six words
    one, each = np.zeros((4, 6, 6)), np.zeros((4, 6, 6))
    for row, a, b in product(range(4), range(6), range(6)):
        p, w = prior[row].tolist(), words[row].tolist()
        one[row, a, b] = sum(p[z] * w[z][0][a] * w[z][1][b] for z in range(3))
        pairs = product(range(3), repeat=2)
        each[row, a, b] = sum(p[z] * w[z][0][a] * p[v] * w[v][1][b] for z, v in pairs)
    same = run.against("enumeration of passages", kind="theorem", atol=1e-12, why="float64 sums")
    pairs = list(product(range(6), repeat=2))
    given = [torch.stack([words[:, :, 0, a], words[:, :, 1, b]], dim=-1) for a, b in pairs]
    for name, truth in (("RAG-Sequence", one), ("RAG-Token", each)):
        marginal = sequence_marginal if name == "RAG-Sequence" else token_marginal
        ours = torch.stack([marginal(prior, p).exp() for p in given], dim=1)
        same(f"{name}, every answer", ours, truth.reshape(4, 36))
        same(f"{name}, sum over answers", ours.sum(dim=1), np.ones(4))
    vectors, asked = (rng.normal(size=(n, 16)).astype(np.float32) for n in (200, 20))
    index = faiss.IndexFlatIP(16)
    index.add(vectors)
    theirs, rows = index.search(asked, TOP)
    best, found = (torch.from_numpy(asked) @ torch.from_numpy(vectors).T).topk(TOP)
    run.check("passages by inner product", found, rows, against="faiss.IndexFlatIP", why="the same")
    rounding = {"atol": 1e-5, "why": "float32 sums"}
    run.check("their scores", best, theirs, against="faiss.IndexFlatIP, scores", **rounding)
    some = world(run.seed, entities=20)
    library = bm25s.BM25(method="lucene")
    library.index(some.passages(), show_progress=False)
    ours = lexical_scores(some.questions(VERBATIM), some.passages())
    theirs = [
        library.get_scores([w for w in q if w in library.vocab_dict])
        for q in some.questions(VERBATIM)
    ]
    run.check("BM25", ours, theirs, against="bm25s, Lucene's idf", **rounding)


def draw(run: Run, paper: papers.Paper, found: dict[str, Float[np.ndarray, " seeds"]]) -> None:
    """The paper's exact match beside ours, by how questions are worded."""
    title = "Where does it help that search learns?"
    colors = (plots.GRAY, plots.ORANGE, plots.SKY, plots.BLUE)
    with run.figure("answers", title, columns=3, size=(10, 3.2)) as (left, middle, right):
        given = paper.matter["paper_em"]
        xlabel = "exact match (%), RAG-Sequence\n(the paper, Natural Questions)"
        plots.bars(left, given, colors=colors[1:], xlabel=xlabel)
        for axes, form in ((middle, GAP), (right, VERBATIM)):
            scores = {arm: found[f"{arm}, {form}"] for arm in (CLOSED, LEXICAL, FROZEN, LEARNED)}
            label = f"right answers (%), {form}"
            plots.bars(axes, scores, colors=colors, xlabel=label, xlim=(0, 100))
            if axes is right:
                axes.set_yticklabels([])


if __name__ == "__main__":
    cli(main)
