r"""Captions from German to English, word by word: one network is trained, and writes.

Both languages are words and marks in lower case; one id begins and ends a sentence. Training is
teacher forcing, the mean over words of

$$ -\ln p(y_t \mid y_{<t}, x), $$

and writing is greedy: the likeliest word at each step.

>>> words = Captions([("Ein Hund schläft.", "A dog sleeps."), ("Ein Hund!", "A dog!")], least=1)
>>> words.encode("Ein Hund bellt.", "de")  # 1 is a word never seen
[3, 4, 1, 6]
>>> words.decode([3, 4, 5, 6, 2, 3])  # 2 ends it
'a dog sleeps .'
>>> torch.manual_seed(0)  # doctest: +ELLIPSIS
<...>
>>> model = words.network(score="additive", d_model=4, hidden_size=4)
>>> len(train(model, words.ids, epochs=3, generator=torch.Generator()))  # losses, one per epoch
3

`uv run weeks/11/seq2seq_attention.py --full` translates with it, and so does
`uv run papers/2014-bahdanau-attention/reproduce.py --full`.
"""

import re
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn import functional as F

from shared.require import require
from week11.batches import length_buckets, pad
from week11.lstm_gru import GRU
from week11.sentiment import Vocabulary
from week11.seq2seq_attention import Seq2Seq, greedy_decode

PAD, END = 0, 2
Ids = tuple[list[int], list[int]]  # of a sentence and of its translation


def split(text: str) -> str:
    """Words and marks in lower case, with a blank between them."""
    return " ".join(re.findall(r"\w+|[^\w\s]", text.lower()))


class Captions:
    """The words of two languages that occur at least `least` times, and the pairs in their ids.

    Parameters
    ----------
    pairs
        Sentences and their translations.
    """

    def __init__(self, pairs: Sequence[tuple[str, str]], least: int = 4):
        require(pairs, "pairs must hold at least one pair of sentences", "none")
        self.words = {
            language: Vocabulary(map(split, texts), least)
            for language, texts in zip(("de", "en"), zip(*pairs, strict=True), strict=True)
        }
        for vocabulary in self.words.values():  # 2 is the end of a sentence, and no word
            vocabulary.ids = {word: i + 1 for word, i in vocabulary.ids.items()}
        self.names = {i: word for word, i in self.words["en"].ids.items()}
        self.ids = [(self.encode(de, "de"), self.encode(en, "en")) for de, en in pairs]

    def encode(self, text: str, language: Literal["de", "en"]) -> list[int]:
        """Ids of a sentence's words, without the end."""
        return self.words[language].encode(split(text))

    def decode(self, ids: Sequence[int]) -> str:
        """The words of English ids up to the end; what is no word is ``<unk>``."""
        end = ids.index(END) if END in ids else len(ids)
        return " ".join(self.names.get(i, "<unk>") for i in ids[:end] if i != PAD)

    def network(self, *, score: str, **sizes) -> Seq2Seq:
        """A `Seq2Seq` for these vocabularies; ``"none"`` gives an `OneVector`."""
        source, target = (len(vocabulary) + 1 for vocabulary in self.words.values())
        if score == "none":
            return OneVector(source, target, **sizes)
        return Seq2Seq(source, target, score=score, **sizes)


class OneVector(Seq2Seq):
    """Without attention, and without the weights that would wait for a context in vain."""

    def __init__(self, source_vocab: int, target_vocab: int, *, d_model: int, **sizes):
        super().__init__(source_vocab, target_vocab, d_model=d_model, score="none", **sizes)
        hidden = self.decoder.hidden_size
        self.decoder = GRU(d_model, hidden)
        self.out_proj = nn.Linear(hidden, target_vocab)

    def encode(
        self, source: Int[Tensor, "batch source"], lengths: Int[Tensor, " batch"]
    ) -> tuple[Tensor, ...]:
        """As in `Seq2Seq`, with nothing of the memory left."""
        state, _, memory, keep = super().encode(source, lengths)
        return state, memory[..., :0], memory[..., :0], keep


def in_use(model: Seq2Seq) -> int:
    """Parameters that can change an output: nothing but attention reads the forward encoder."""
    n = sum(p.numel() for p in model.parameters())
    if isinstance(model, OneVector):
        weights = model.encoder.named_parameters()
        n -= sum(p.numel() for name, p in weights if not name.endswith("_reverse"))
    return n


def as_batch(
    pairs: Sequence[Ids],
) -> tuple[Int[Tensor, "batch source"], Int[Tensor, " batch"], Int[Tensor, "batch target"]]:
    """Padded sources, their lengths, and targets between start and end."""
    source, lengths = pad([x for x, _ in pairs], PAD)
    target, _ = pad([[END, *y, END] for _, y in pairs], PAD)
    return source, lengths, target


def train(
    model: Seq2Seq,
    pairs: Sequence[Ids],
    *,
    epochs: int,
    generator: torch.Generator,
    lr: float = 1e-2,
    batch_size: int = 64,
) -> list[float]:
    """Adam on length buckets, the rate falling to zero; ends in the state for use.

    Returns
    -------
    losses
        Mean over the batches of each epoch, nats per word.
    """
    require(epochs >= 1, "epochs must be at least 1", epochs)
    optimizer, means = torch.optim.Adam(model.parameters()), []
    lengths = [len(x) for x, _ in pairs]
    model.train()
    for epoch in range(epochs):
        losses, batches = [], length_buckets(lengths, batch_size, generator)
        for i, batch in enumerate(batches):
            optimizer.param_groups[0]["lr"] = lr * (1 - (epoch + i / len(batches)) / epochs)
            source, sizes, target = as_batch([pairs[row] for row in batch.tolist()])
            logits, _ = model(source, sizes, target[:, :-1])
            wanted = target[:, 1:].flatten()
            loss = F.cross_entropy(logits.flatten(0, 1), wanted, ignore_index=PAD)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
        means.append(sum(losses) / len(losses))
    model.eval()
    return means


def write(model: Seq2Seq, sources: Sequence[list[int]], *, max_len: int = 50) -> list[list[int]]:
    """Ids that the model writes for each source, 100 at a time, of like lengths."""
    written: list[list[int]] = [[] for _ in sources]
    for rows in length_buckets([len(source) for source in sources], 100):
        source, lengths = pad([sources[i] for i in rows.tolist()], PAD)
        ids = greedy_decode(model, source, lengths, bos=END, eos=END, max_len=max_len, pad=PAD)
        for i, row in zip(rows.tolist(), ids.tolist(), strict=True):
            written[i] = row
    return written
