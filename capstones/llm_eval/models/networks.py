"""What computes: our LLaMA with its cache, a run of tiny-gpt, an ONNX graph, Transformers.

Each scores rows of tokens and writes tokens after prompts. Only our LLaMA shares beginnings and
writes several answers at a time; the others read row by row, to the same numbers.

>>> from week18.llama3 import LlamaConfig
>>> network = LlamaNetwork(Llama(LlamaConfig(vocab_size=50), torch.Generator().manual_seed(0)))
>>> written = []
>>> network.write([Prompt((3, 1, 4), 8)], frozenset(), lambda i, token: written.append(token))
>>> len(written)
8
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from llm_eval.models.scoring import Row, Scores, Tree, headless, score_plainly
from week18.llama3 import Llama
from week19.fused_llama import FusedLlama
from week19.quantized_linear import DynamicInt8Linear
from week19.sampling import Sampler
from week19.scheduler import Request, Scheduler

BLOCK, TOGETHER = 16, 16
Done = Callable[[int, int], object]  # of a prompt's number and its new token: true when it is over


@dataclass(frozen=True)
class Prompt:
    """Tokens to go on from, and how."""

    tokens: tuple[int, ...]
    max_new_tokens: int
    temperature: float = 0.0
    seed: int = 0


class Network(ABC):
    """A model of tokens.

    Attributes
    ----------
    context
        Most tokens that it sees.
    shared
        Whether a context is read once for all that goes on from it.
    """

    context: int
    shared = False

    @abstractmethod
    def score(self, rows: Sequence[Row]) -> list[Scores]:
        """How likely each continuation is."""

    @abstractmethod
    def write(self, prompts: Sequence[Prompt], ends: frozenset[int], done: Done) -> None:
        """Say `done(i, token)` of each new token of prompt i, until it answers something true."""


class LlamaNetwork(Network):
    """Week 18's LLaMA: shared beginnings for scores, week 19's scheduler for text."""

    shared = True

    def __init__(self, model: Llama, *, batch_tokens: int = 4096):
        self.model, self.context = model.eval(), model.config.context
        self.batch_tokens = batch_tokens
        self._tree = Tree(model, batch_tokens=batch_tokens)

    def score(self, rows: Sequence[Row]) -> list[Scores]:
        """See `Network.score`."""
        return self._tree(rows)

    @cached_property
    def _writer(self) -> Llama:
        if self.model.embed.weight.device.type != "cpu":
            return self.model
        return fused(self.model, batch=TOGETHER)

    def write(self, prompts: Sequence[Prompt], ends: frozenset[int], done: Done) -> None:
        """See `Network.write`; the same prompts in the same order give the same bits."""
        longest = max(len(prompt.tokens) + prompt.max_new_tokens for prompt in prompts)
        blocks = -(-max(longest, self.batch_tokens) // BLOCK) + 1
        options = {"n_blocks": blocks, "block_size": BLOCK, "max_batch": TOGETHER}
        scheduler = Scheduler(self._writer, **options)
        number_of = {}
        for i, prompt in enumerate(prompts):
            choose = Sampler(temperature=prompt.temperature)
            asked = Request(prompt.tokens, prompt.max_new_tokens, choose, prompt.seed, ends)
            number_of[scheduler.submit(asked)] = i
        while not scheduler.idle:
            for number, token in scheduler.step().items():
                if done(number_of[number], token) and number not in scheduler.finished:
                    scheduler.cancel(number)


def fused(model: Llama, *, batch: int = 1) -> Llama:
    """Week 19's form of a model, for decoding; itself where its layers have no such form."""
    scaling = model.config.rope_scaling
    rounds = any(isinstance(layer, DynamicInt8Linear) for layer in model.modules())
    if rounds or (scaling is not None and scaling.by_length):
        return model
    return FusedLlama(model, batch=batch)


class PlainNetwork(Network):
    """A model that is asked for logits, row by row where it writes."""

    @abstractmethod
    def logits(
        self, tokens: Int[Tensor, "batch seq"], columns: Int[Tensor, " column"]
    ) -> Float[Tensor, "batch column vocab"]:
        """Of rows that are padded on the right, at some of their positions."""

    def score(self, rows: Sequence[Row]) -> list[Scores]:
        """See `Network.score`."""
        return score_plainly(self.logits, rows)

    def write(self, prompts: Sequence[Prompt], ends: frozenset[int], done: Done) -> None:
        """See `Network.write`."""
        for i, prompt in enumerate(prompts):
            for token in self.stream(prompt):
                if done(i, token) or token in ends:
                    break

    @torch.inference_mode()
    def stream(self, prompt: Prompt) -> Iterator[int]:
        """New tokens, everything read again for each."""
        choose = Sampler(temperature=prompt.temperature)
        generator = torch.Generator().manual_seed(prompt.seed)
        history = torch.tensor([prompt.tokens])
        for _ in range(prompt.max_new_tokens):
            last = torch.tensor([history.shape[1] - 1])
            token = choose(self.logits(history, last)[:, 0].float().cpu(), history, generator)
            history = torch.cat([history, token[:, None]], dim=1)
            yield int(token)


class TinyNetwork(PlainNetwork):
    """A decoder of tiny-gpt; it writes with its own cache."""

    def __init__(self, model: nn.Module):
        self.model, self.context, self._body = model, model.config.context, headless(model)

    def logits(
        self, tokens: Int[Tensor, "batch seq"], columns: Int[Tensor, " column"]
    ) -> Float[Tensor, "batch column vocab"]:
        """See `PlainNetwork.logits`."""
        device = self.model.embed.weight.device
        return self.model.head(self._body(tokens.to(device))[:, columns.to(device)])

    def stream(self, prompt: Prompt) -> Iterator[int]:
        """New tokens."""
        from tiny_gpt.generation.generate import generate

        sampler = Sampler(temperature=prompt.temperature)
        options = {"sampler": sampler, "seeds": [prompt.seed]}
        columns = generate(self.model, [prompt.tokens], prompt.max_new_tokens, **options)
        yield from (int(column[0]) for column in columns)


class OnnxNetwork(PlainNetwork):
    """A graph from `tokens` to `logits`, as tiny-gpt exports it."""

    def __init__(self, session: Any, context: int):
        self.session, self.context = session, context

    def logits(
        self, tokens: Int[Tensor, "batch seq"], columns: Int[Tensor, " column"]
    ) -> Float[Tensor, "batch column vocab"]:
        """See `PlainNetwork.logits`."""
        (found,) = self.session.run(["logits"], {"tokens": tokens.numpy().astype(np.int64)})
        return torch.from_numpy(found[:, columns.numpy()])


class HuggingFaceNetwork(PlainNetwork):
    """A causal language model of Transformers; it writes with its own cache."""

    def __init__(self, model: Any):
        config = model.config.get_text_config()
        sizes = ("max_position_embeddings", "n_positions", "n_ctx")
        known = [n for size in sizes if (n := getattr(config, size, None))]
        self.model, self.context = model.eval(), known[0] if known else 2048
        self._selects = "logits_to_keep" in inspect.signature(model.forward).parameters

    def logits(
        self, tokens: Int[Tensor, "batch seq"], columns: Int[Tensor, " column"]
    ) -> Float[Tensor, "batch column vocab"]:
        """See `PlainNetwork.logits`."""
        tokens, columns = tokens.to(self.model.device), columns.to(self.model.device)
        if self._selects:
            return self.model(tokens, logits_to_keep=columns, use_cache=False).logits
        return self.model(tokens).logits[:, columns]

    def stream(self, prompt: Prompt) -> Iterator[int]:
        """New tokens."""
        choose = Sampler(temperature=prompt.temperature)
        generator = torch.Generator().manual_seed(prompt.seed)
        history = torch.tensor([prompt.tokens])
        tokens, cache = history, None
        for _ in range(prompt.max_new_tokens):
            with torch.inference_mode():
                given = tokens.to(self.model.device)
                out = self.model(given, past_key_values=cache, use_cache=True)
                cache = out.past_key_values
                tokens = choose(out.logits[:, -1].float().cpu(), history, generator)[:, None]
            history = torch.cat([history, tokens], dim=1)
            yield int(tokens)
