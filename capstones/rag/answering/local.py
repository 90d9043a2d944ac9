"""Models of a folder: a run of tiny-gpt, or any causal language model of Transformers."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from threading import Event

from rag.answering.prompt import Message
from shared.errors import UserError
from week27.streaming import Writing

END = "\n\n"  # of an answer, where a model was never taught to chat


def plain(messages: list[Message]) -> str:
    """A conversation for a model that was never taught to chat: it goes on after "Answer:"."""
    body = "\n\n".join(message["content"] for message in messages)
    return f"{body}\nAnswer:"


def stopped(pieces: Iterator[str], stop: Event | None) -> Iterator[str]:
    """Pieces until `stop` is set."""
    for piece in pieces:
        if stop is not None and stop.is_set():
            return
        yield piece


def written(
    tokens: Iterable[int],
    decode: Callable[[Sequence[int]], str],
    *,
    ends: Collection[int],
    stops: Collection[str] = (),
) -> Iterator[str]:
    """The text of tokens in whole characters, until one of the `ends` or a stop string."""
    text = Writing(decode, ends=ends, stops=stops)
    for token in tokens:
        if piece := text.feed(token):
            yield piece
        if text.finished:
            return
    if piece := text.end():
        yield piece


class TinyGPT:
    """A run of tiny-gpt, verified as it is read. It continues text, so an answer ends at a line."""

    def __init__(self, run: Path):
        from tiny_gpt.training.checkpoints import load_checkpoint

        self.checkpoint = load_checkpoint(run)
        self.name, self.note = f"tiny_gpt:{run}", ""

    def fits(self, messages: list[Message], max_new_tokens: int) -> bool:
        """Whether prompt and answer are within the context."""
        return len(self._tokens(messages)) + max_new_tokens <= self.checkpoint.model.config.context

    def _tokens(self, messages: list[Message]) -> list[int]:
        from tiny_gpt.generation.writing import prompt_tokens

        return prompt_tokens(self.checkpoint.tokenizer, plain(messages))

    def stream(
        self,
        messages: list[Message],
        *,
        max_new_tokens: int = 160,
        seed: int = 0,
        temperature: float = 0.0,
        stop: Event | None = None,
    ) -> Iterator[str]:
        """See `Model.stream`; a prompt longer than the context is read through its end."""
        from tiny_gpt.generation.writing import stream
        from week19.sampling import Sampler

        sampler = Sampler(temperature=temperature)
        options = {"seed": seed, "sampler": sampler, "stop": END}
        pieces = stream(self.checkpoint, plain(messages), max_new_tokens, **options)
        return stopped(pieces, stop)


class HuggingFace:
    """A folder with a tokenizer and a causal language model; nothing is fetched, no code is run."""

    def __init__(self, folder: Path):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder of a model")
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self.model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"{folder} is not a readable language model: {reason}") from error
        self.name, self.note = f"hf:{folder}", ""

    def fits(self, messages: list[Message], max_new_tokens: int) -> bool:
        """Whether prompt and answer are within the context."""
        most = getattr(self.model.config, "max_position_embeddings", 2048)
        return self._tokens(messages).shape[1] + max_new_tokens <= most

    def _tokens(self, messages: list[Message]):
        text, special = plain(messages), True
        if self.tokenizer.chat_template:
            options = {"tokenize": False, "add_generation_prompt": True}
            text, special = self.tokenizer.apply_chat_template(messages, **options), False
        encoded = self.tokenizer(text, return_tensors="pt", add_special_tokens=special)
        return encoded["input_ids"]

    def stream(
        self,
        messages: list[Message],
        *,
        max_new_tokens: int = 160,
        seed: int = 0,
        temperature: float = 0.0,
        stop: Event | None = None,
    ) -> Iterator[str]:
        """See `Model.stream`."""
        ends = self.model.generation_config.eos_token_id
        ends = set(ends) if isinstance(ends, list) else {ends, self.tokenizer.eos_token_id} - {None}
        new = self._new(messages, max_new_tokens, seed, temperature)

        def decode(tokens: Sequence[int]) -> str:
            return self.tokenizer.decode(tokens, skip_special_tokens=True)

        return stopped(written(new, decode, ends=ends), stop)

    def _new(self, messages, max_new_tokens, seed, temperature) -> Iterator[int]:
        import torch

        from week19.sampling import Sampler

        choose, generator = Sampler(temperature=temperature), torch.Generator().manual_seed(seed)
        history = tokens = self._tokens(messages)
        cache = None
        for _ in range(max_new_tokens):
            with torch.inference_mode():
                out = self.model(tokens, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            tokens = choose(out.logits[:, -1], history, generator)[:, None]
            history = torch.cat([history, tokens], dim=1)
            yield int(tokens)
