r"""How likely continuations are, each beginning read once: four answers are one question.

The log-likelihood of a continuation $y$ after a context $x$ is

$$\ln p(y \mid x) = \sum_{t=1}^{|y|} \ln p(y_t \mid x, y_{<t}) ,$$

and keys and values of $x$ do not depend on $y$. So a batch is read as a tree: what its contexts
have in common (examples, a system's turn) is one row, contexts go on from it, padded on the left so
that they end together, and continuations go on from their contexts. The output head, the largest
matrix of a small model, is multiplied with those positions only that predict a scored token.

>>> from week18.llama3 import LlamaConfig
>>> model = Llama(LlamaConfig(vocab_size=50), torch.Generator().manual_seed(0))
>>> rows = [Row((3, 1, 4), (1, 5)), Row((3, 1, 4), (9,)), Row((2, 6), (5, 3, 5))]
>>> [len(found.logprobs) for found in Tree(model)(rows)]
[2, 1, 3]
>>> tokens = torch.tensor([[3, 1, 4, 1]])
>>> plain = model(tokens).log_softmax(-1)[0, [2, 3], [1, 5]]
>>> torch.allclose(torch.tensor(Tree(model)(rows)[0].logprobs), plain, atol=1e-5)
True

Sources: lm-eval 0.4.13 for what is scored; Zheng et al., "SGLang" (2024), section 3, for reading a
common beginning once.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from week18.llama3 import Llama
from week19.kv_cache import left_pad

HEAD = 256  # positions whose logits are in memory at a time
KEYS = 32  # times as many keys as new tokens may be in memory, of one layer
FEW = 8  # rows that are read together whatever their lengths
WHOLE = 16  # common beginnings are cut to a multiple, so that more batches have the same one
Logits = Callable[
    [Int[Tensor, "batch seq"], Int[Tensor, " column"]], Float[Tensor, "batch column vocab"]
]


class Row(NamedTuple):
    """Tokens of a context, at least one, and of what is scored after it, at least one."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


class Scores(NamedTuple):
    """Log-probability of each token, and whether each was the likeliest."""

    logprobs: tuple[float, ...]
    greedy: bool


def common(sequences: Sequence[Sequence[int]]) -> int:
    """How many tokens all of them begin with.

    >>> common([(3, 1, 4), (3, 1, 5, 9)])
    2
    """
    first, last = min(sequences), max(sequences)  # the two that differ soonest
    pairs = enumerate(zip(first, last, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(last)))


class Branch:
    """A `week18.llama3.Cache` of rows that each go on from a row of another one.

    Only the new tokens' keys and values are kept; those before are gathered layer by layer.
    """

    def __init__(self, before: "Branch | None" = None, parents: Int[Tensor, " row"] | None = None):
        self.before, self.parents = before, parents
        self.length = 0 if before is None else before.length
        self._own: dict[int, tuple[Tensor, Tensor]] = {}

    def update(
        self,
        layer: int,
        k: Float[Tensor, "batch kv_head new dim"],
        v: Float[Tensor, "batch kv_head new dim"],
    ) -> tuple[Float[Tensor, "batch kv_head key dim"], Float[Tensor, "batch kv_head key dim"]]:
        """Keep what is new; return it behind all that came before."""
        self._own[layer] = k, v
        return self._read(layer, None)

    def _read(self, layer: int, rows: Tensor | None) -> tuple[Tensor, ...]:
        own, parents = self._own[layer], self.parents
        if rows is not None:
            own = tuple(part[rows] for part in own)
            parents = None if parents is None else parents[rows]
        if self.before is None:
            return own
        earlier = self.before._read(layer, parents)
        return tuple(torch.cat(parts, dim=2) for parts in zip(earlier, own, strict=True))

    def advance(self, n: int) -> None:
        """Every layer has stored its n new tokens."""
        self.length += n


def headless(model: nn.Module) -> nn.Module:
    """The same model, weights shared, whose output is what its `head` would be multiplied with."""
    body = copy.copy(model)
    body._modules = dict(model._modules)
    body.head = nn.Identity()
    return body


def read_off(
    head: Callable[[Tensor], Tensor],
    hidden: Float[Tensor, "position d"],
    at: Sequence[int],
    tokens: Sequence[int],
) -> list[tuple[float, bool]]:
    """Of each token the log-probability after position `at`, and whether it is the likeliest."""
    found: list[tuple[float, bool]] = [(0.0, False)] * len(tokens)
    for start in range(0, len(hidden), HEAD):
        logits = head(hidden[start : start + HEAD]).float()
        total, best = logits.logsumexp(-1), logits.argmax(-1)
        mine = [i for i, position in enumerate(at) if start <= position < start + HEAD]
        row = torch.tensor([at[i] - start for i in mine], dtype=torch.long, device=logits.device)
        token = torch.tensor([tokens[i] for i in mine], dtype=torch.long, device=logits.device)
        logprobs = (logits[row, token] - total[row]).tolist()
        for i, logprob, right in zip(mine, logprobs, (best[row] == token).tolist(), strict=True):
            found[i] = logprob, right
    return found


class Tree:
    """Scores rows of a `Llama`, what is common to them read once.

    Parameters
    ----------
    batch_tokens
        Most tokens, padding included, of continuations that are read together.
    """

    def __init__(self, model: Llama, *, batch_tokens: int = 4096):
        self.body, self.head, self.batch_tokens = headless(model), model.head, batch_tokens
        # A long context beside a short one with a long continuation: padding makes the batch wider
        # than any row of it.
        self.body.config = replace(model.config, context=2 * model.config.context)
        self._kept: tuple[tuple[int, ...], Branch] | None = None  # of the last batch

    @torch.inference_mode()
    def __call__(self, rows: Sequence[Row]) -> list[Scores]:
        """Scores of each row, in their order."""
        contexts = list(dict.fromkeys(row.context for row in rows))
        n = min(common(contexts), min(map(len, contexts)) - 1) // WHOLE * WHOLE
        start = self._beginning(contexts[0][:n]) if n and len(contexts) > 1 else None
        n = n if start is not None else 0
        ends = self._read_contexts(contexts, n, start)
        index = {context: i for i, context in enumerate(contexts)}
        at = [index[row.context] for row in rows]
        first = read_off(self.head, ends.hidden, at, [row.continuation[0] for row in rows])
        found = [[one] for one in first]
        longer = [i for i, row in enumerate(rows) if len(row.continuation) > 1]
        longer.sort(key=lambda i: -len(rows[i].continuation))
        while longer:
            new = len(rows[longer[0]].continuation) - 1
            most = min(self.batch_tokens // new, KEYS * self.batch_tokens // (ends.width + new))
            # What is padded is computed too: much shorter ones wait for the next turn.
            short = (k for k, i in enumerate(longer) if 4 * len(rows[i].continuation) < 3 * new)
            most = max(1, min(most, max(FEW, next(short, most))))
            chunk, longer = longer[:most], longer[most:]
            continuations = [rows[i].continuation for i in chunk]
            later = self._go_on(ends, [at[i] for i in chunk], continuations)
            for i, rest in zip(chunk, later, strict=True):
                found[i] += rest
        return [
            Scores(tuple(logprob for logprob, _ in one), all(right for _, right in one))
            for one in found
        ]

    def _beginning(self, tokens: tuple[int, ...]) -> Branch:
        """Keys and values of what all contexts begin with; the last ones are at hand."""
        if self._kept is None or self._kept[0] != tokens:
            self._kept, branch = None, Branch()
            self.body(self._tensor([tokens]), cache=branch)
            self._kept = tokens, branch
        return self._kept[1]

    def _read_contexts(self, contexts: list[tuple[int, ...]], n: int, start: Branch | None):
        padded = left_pad([context[n:] for context in contexts])
        parents = None if start is None else self._tensor([0] * len(contexts))
        branch = Branch(start, parents)
        seen = torch.cat([torch.ones(len(contexts), n, dtype=torch.bool), padded.mask], dim=1)
        seen, device = seen.to(self.head.weight.device), self.head.weight.device
        hidden = self.body(
            padded.tokens.clamp(min=0).to(device),
            positions=(n + padded.positions).to(device),
            cache=branch,
            mask=None if seen.all() else seen,
        )
        lengths = self._tensor([len(context) for context in contexts])
        return _Contexts(branch, seen, lengths, hidden[:, -1])

    def _go_on(
        self, ends: "_Contexts", at: list[int], continuations: list[tuple[int, ...]]
    ) -> list[list[tuple[float, bool]]]:
        """Of each continuation's tokens after the first."""
        given = [torch.tensor(tokens[:-1]) for tokens in continuations]
        # Padded on the right, where causality hides it.
        tokens = pad_sequence(given, batch_first=True).to(self.head.weight.device)
        parents, width = self._tensor(at), tokens.shape[1]
        seen = torch.cat([ends.seen[parents], torch.ones_like(tokens, dtype=torch.bool)], dim=1)
        hidden = self.body(
            tokens,
            positions=ends.lengths[parents, None] + self._tensor(range(width)),
            cache=Branch(ends.branch, parents),
            mask=None if seen.all() else seen,
        )
        lengths = [len(tokens) - 1 for tokens in continuations]
        scored = torch.cat([row[:n] for row, n in zip(hidden, lengths, strict=True)])
        targets = [token for tokens in continuations for token in tokens[1:]]
        flat = iter(read_off(self.head, scored, range(len(targets)), targets))
        return [[next(flat) for _ in range(n)] for n in lengths]

    def _tensor(self, content) -> Int[Tensor, "..."]:
        return torch.tensor(content, device=self.head.weight.device)


class _Contexts(NamedTuple):
    """Contexts that have been read: which keys are tokens, how many, the last one's output."""

    branch: Branch
    seen: Bool[Tensor, "context key"]
    lengths: Int[Tensor, " context"]
    hidden: Float[Tensor, "context d"]

    @property
    def width(self) -> int:
        """Keys of each, padding included."""
        return self.seen.shape[1]


@torch.inference_mode()
def score_plainly(logits: Logits, rows: Sequence[Row]) -> list[Scores]:
    """The same for any model, each row read whole.

    Parameters
    ----------
    logits
        `logits(tokens, columns)`: of some positions of a batch that is padded on the right.
    """
    given = [torch.tensor([*row.context, *row.continuation[:-1]]) for row in rows]
    columns = [range(len(row.context) - 1, len(t)) for row, t in zip(rows, given, strict=True)]
    wanted = sorted({column for each in columns for column in each})
    place = {column: i for i, column in enumerate(wanted)}
    found = logits(pad_sequence(given, batch_first=True), torch.tensor(wanted))
    scores = []
    for row, own, each in zip(rows, found, columns, strict=True):
        at = [place[column] for column in each]
        pairs = read_off(nn.Identity(), own, at, row.continuation)
        scores.append(Scores(tuple(p for p, _ in pairs), all(right for _, right in pairs)))
    return scores
