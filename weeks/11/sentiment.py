r"""Project 2b: is a sentence about a film kind or unkind? A bidirectional LSTM reads it.

Words become vectors, an LSTM reads them from both sides, and the largest value that each of its
outputs takes anywhere in the sentence decides:

$$ p(\text{kind}) = \sigma(w^\top m + b), \qquad
   m = \max_t\, [\overrightarrow h_t ; \overleftarrow h_t] . $$

What it has to beat is old: counts of words and pairs of words, in naive Bayes or logistic
regression.

>>> words = Vocabulary(["a fine film", "a dull film"], least=1)
>>> words.encode("a fine bore")  # 1 is a word never seen
[2, 4, 1]
>>> model = SentimentLSTM(len(words), d_model=4, hidden_size=3)
>>> tokens, lengths = pad([words.encode("a fine film"), words.encode("dull")], value=0)
>>> model(tokens, lengths).shape
torch.Size([2])

    uv run weeks/11/sentiment.py

Data: Socher et al. (2013), the sentences with a label of the binary Stanford Sentiment Treebank.
Baselines: Wang & Manning, "Baselines and bigrams" (2012).
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from shared.require import require
from week11.batches import length_buckets, pad
from week11.lstm_gru import LSTM

PAD, UNKNOWN = 0, 1


class Vocabulary:
    """The words, between blanks, that occur at least `least` times; the most frequent first."""

    def __init__(self, sentences: Iterable[str], least: int = 2):
        require(least >= 1, "least must be at least 1", least)
        counts = Counter(word for sentence in sentences for word in sentence.split())
        frequent = [word for word, n in counts.most_common() if n >= least]
        self.ids = {word: i for i, word in enumerate(frequent, start=2)}

    def __len__(self) -> int:
        return len(self.ids) + 2

    def encode(self, sentence: str) -> list[int]:
        """One id per word."""
        words = sentence.split()
        require(words, "sentence must hold at least one word", repr(sentence))
        return [self.ids.get(word, UNKNOWN) for word in words]


class SentimentLSTM(nn.Module):
    """Word vectors, a bidirectional LSTM, the maximum over time, one logit.

    Parameters
    ----------
    d_model, hidden_size
        Width of a word's vector, and of the LSTM in each direction.
    dropout
        Of the word vectors and of what the decision sees.
    """

    def __init__(self, vocab_size: int, d_model: int, hidden_size: int, dropout: float = 0.5):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, d_model)
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.lstm = LSTM(d_model, hidden_size, bidirectional=True)
        self.dropout = nn.Dropout(dropout)
        self.out_proj = nn.Linear(2 * hidden_size, 1)

    def outputs(
        self, tokens: Int[Tensor, "batch time"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch time features"]:
        """What the LSTM says at each word; -inf beyond the end, where nothing may be largest."""
        y, _ = self.lstm(self.dropout(self.embedding(tokens)), lengths=lengths)
        beyond = torch.arange(y.shape[1], device=y.device) >= lengths[:, None]
        return y.masked_fill(beyond[..., None], -torch.inf)

    def forward(
        self, tokens: Int[Tensor, "batch time"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        """Logits of *kind*."""
        largest = self.outputs(tokens, lengths).amax(dim=1)
        return self.out_proj(self.dropout(largest))[:, 0]


def train(
    model: SentimentLSTM,
    rows: Sequence[list[int]],
    labels: Float[Tensor, " n"],
    *,
    epochs: int,
    generator: torch.Generator,
    batch_size: int = 64,
    lr: float = 3e-3,
) -> list[float]:
    """Adam on batches of like lengths, the rate falling to zero; each step's loss (nats)."""
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    per_epoch, losses = -(-len(rows) // batch_size), []
    for _ in range(epochs):
        for batch in length_buckets([len(row) for row in rows], batch_size, generator):
            tokens, lengths = pad([rows[i] for i in batch.tolist()], PAD)
            optimizer.param_groups[0]["lr"] = lr * (1 - len(losses) / (epochs * per_epoch))
            loss = F.binary_cross_entropy_with_logits(model(tokens, lengths), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
    return losses


@torch.no_grad()
def predict(model: SentimentLSTM, rows: Sequence[list[int]]) -> Float[Tensor, " n"]:
    """Logits of all rows, in their order."""
    model.eval()
    logits = torch.empty(len(rows))
    for batch in length_buckets([len(row) for row in rows], batch_size=256):
        logits[batch] = model(*pad([rows[i] for i in batch.tolist()], PAD))
    return logits


def importance(model: SentimentLSTM, row: list[int]) -> Float[Tensor, " n"]:
    """By how much each word raises the logit: the sentence's minus that of the one without it."""
    require(len(row) >= 2, "row must hold at least two words", len(row))
    whole, *without = predict(model, [row, *(row[:i] + row[i + 1 :] for i in range(len(row)))])
    return whole - torch.stack(without)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
