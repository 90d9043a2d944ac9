r"""A draft for a real model: a small LLaMA that has learned to say what the large one would say.

Speculative decoding wants a draft that is far cheaper than its target and often of its opinion. For
greedy text an opinion is one token, so what the target writes is all that there is to learn: let it
answer many questions, and train a small model on the answers (*sequence-level distillation*).

A guess reads the draft's weights once. With $V$ tokens of width $d$ and $n$ blocks that is

$$4\,(V d + 12\, n\, d^2) \ \text{bytes}, \qquad V = 49{,}152,\ d = 128,\ n = 2:
  \quad 94\,\% \text{ of them in the head.}$$

So the draft knows the $V$ tokens only that its target uses most; where it wants to say another one,
it makes no guess, and that costs nothing but a guess. Its embedding, which is its head too, starts
as the principal components of the target's.

>>> frequent([torch.tensor([7, 7, 3]), torch.tensor([3, 7, 9])], most=2)
tensor([7, 3])
>>> target = Llama(LlamaConfig(vocab_size=50), torch.Generator().manual_seed(0))
>>> answers = write(target, [[1, 2, 3], [4, 5]], 12, end=49)  # in one batch
>>> options = {"known": 20, "d_model": 16, "n_layers": 1, "steps": 60, "context": 8}
>>> draft = imitate(target.embed.weight, answers, **options, generator=torch.Generator())
>>> text = draft_generate(target, draft, torch.tensor([1, 2, 3]), 12, gamma=3)
>>> torch.equal(text.tokens, answers[0]), text.target_passes  # passes for 12 tokens
(True, 3)

    uv run weeks/19/draft_model.py --full

Sources: Leviathan, Kalman & Matias (2023); Kim & Rush, "Sequence-level knowledge distillation"
(2016); Zhao et al., "FR-Spec" (2025), for a head of frequent tokens only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from shared.require import require
from week18.llama3 import Llama, LlamaConfig
from week18.training import train
from week19.kv_cache import KVCache, generate
from week19.prompt_lookup import checked_generate
from week19.sampling import greedy
from week19.speculative_decoding import Generation

# ---- what the target says


def write(
    target: Llama, prompts: Sequence[Sequence[int]], most: int, *, end: int, batch_size: int = 64
) -> list[Int[Tensor, " _"]]:
    """The target's greedy answers, each with its prompt before it."""
    texts = []
    for i in range(0, len(prompts), batch_size):
        rows = prompts[i : i + batch_size]
        steps = torch.stack(list(generate(target, rows, most, choose=greedy, stop=[end])), dim=1)
        for row, new in zip(rows, steps, strict=True):
            texts.append(torch.cat([torch.tensor(row), new[new >= 0]]))
    return texts


def frequent(texts: Sequence[Int[Tensor, " _"]], most: int) -> Int[Tensor, " known"]:
    """The tokens that occur most often, at most so many."""
    counts = torch.cat(list(texts)).bincount()
    return counts.argsort(descending=True, stable=True)[: min(most, int((counts > 0).sum()))]


# ---- the draft


@dataclass(frozen=True)
class Draft:
    """A small model of some of the target's tokens; its last token stands for all others.

    Attributes
    ----------
    model
        A LLaMA of one token more than `known` holds.
    known
        Which token of the target each of its tokens is.
    """

    model: Llama
    known: Int[Tensor, " known"]

    def read(self, text: Int[Tensor, "*batch n"], vocab_size: int) -> Int[Tensor, "*batch n"]:
        """The target's tokens in the draft's numbers."""
        numbers = torch.full((vocab_size,), len(self.known))
        numbers[self.known] = torch.arange(len(self.known))
        return numbers[text]


def principal_rows(rows: Float[Tensor, "n d"], d_model: int) -> Float[Tensor, "n d_model"]:
    """The rows' first principal components, scaled as a new embedding would be."""
    centered = rows - rows.mean(dim=0)
    directions = torch.linalg.eigh(centered.T @ centered).eigenvectors.flip(1)[:, :d_model]
    found = centered @ directions
    return found * (0.02 / found.std())


def new_draft(
    embedding: Float[Tensor, "vocab d"],
    known: Int[Tensor, " known"],
    *,
    d_model: int,
    n_layers: int,
    generator: torch.Generator,
) -> Draft:
    """A draft that has learned nothing but which tokens are alike."""
    width = embedding.shape[1]
    require(1 <= d_model <= width, f"d_model must be between 1 and the target's {width}", d_model)
    sizes = {"d_model": d_model, "n_layers": n_layers, "n_heads": max(1, d_model // 32)}
    model = Llama(LlamaConfig(len(known) + 1, **sizes, rope_base=1e4, tied=True), generator)
    with torch.no_grad():
        model.embed.weight[:-1] = principal_rows(embedding[known], d_model)
    return Draft(model, known)


def imitate(
    embedding: Float[Tensor, "vocab d"],
    texts: Sequence[Int[Tensor, " _"]],
    *,
    known: int,
    d_model: int = 128,
    n_layers: int = 2,
    steps: int,
    batch_size: int = 8,
    context: int = 128,
    lr_scale: float = 1.0,
    generator: torch.Generator,
) -> Draft:
    """Train a draft on what its target wrote.

    Parameters
    ----------
    embedding
        The target's.
    known
        How many of the target's tokens the draft may have.
    """
    sizes = {"d_model": d_model, "n_layers": n_layers}
    draft = new_draft(embedding, frequent(texts, known), **sizes, generator=generator)
    stream = draft.read(torch.cat(list(texts)), len(embedding))
    options = {"steps": steps, "batch_size": batch_size, "context": context, "lr_scale": lr_scale}
    train(draft.model, stream, **options, generator=generator)
    draft.model.eval().requires_grad_(False)
    return draft


# ---- guesses


class Guesser:
    """Greedy guesses of a draft, which reads each token of the text once.

    Parameters
    ----------
    draft
        Whose guesses they are.
    vocab_size
        How many tokens the target has.
    max_length
        Most tokens of a text and its guesses.
    """

    def __init__(self, draft: Draft, vocab_size: int, max_length: int):
        self.draft, self.vocab_size = draft, vocab_size
        self.cache = KVCache.for_model(draft.model, 1, max_length)

    @torch.inference_mode()
    def __call__(self, text: Int[Tensor, " n"], *, gamma: int) -> Int[Tensor, " most_gamma"]:
        """At most `gamma` tokens, fewer where the draft wants to say one that it does not know.

        A text must be the last one, guesses of it that were kept, and one token.
        """
        known, guesses = self.draft.known, []
        ids = self.draft.read(text, self.vocab_size)
        self.cache.crop(min(self.cache.length, len(text) - 1))  # rejected guesses were read, too
        while len(guesses) < gamma:
            logits = self.draft.model(ids[None, self.cache.length :], cache=self.cache)
            guess = logits[0, -1].argmax()
            if guess == len(known):
                break
            guesses.append(known[guess])
            ids = torch.cat([ids, guess[None]])
        return torch.stack(guesses) if guesses else text[:0]


def draft_generate(
    target: Llama,
    draft: Draft,
    prompt: Int[Tensor, " n"],
    max_new_tokens: int,
    *,
    gamma: int = 4,
    end: int | None = None,
) -> Generation:
    """Continue greedily, with a draft's guesses; the tokens are the target's in any case.

    Parameters
    ----------
    target
        A `Llama`, or a `FusedLlama` with `last` of at least `gamma` + 1.
    gamma
        Most guesses per pass.
    end
        The token that ends the text; it is kept.
    """
    require(gamma >= 1, "gamma must be at least 1", gamma)
    total = len(prompt) + max_new_tokens
    guesser = Guesser(draft, target.config.vocab_size, total)
    return checked_generate(target, prompt, max_new_tokens, guesser, gamma=gamma, end=end)


@torch.inference_mode()
def agreement(
    draft: Draft, text: Int[Tensor, " n"], skip: int, vocab_size: int
) -> Float[Tensor, " m"]:
    """At each token after the first `skip` of the target's text: 1 where the draft says it too."""
    ids = draft.read(text, vocab_size)
    said = draft.model(ids[None])[0, skip - 1 : -1].argmax(-1)
    return ((said == ids[skip:]) & (said < len(draft.known))).float()


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
