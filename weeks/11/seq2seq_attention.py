r"""From sequence to sequence: a decoder that looks back at what the encoder read.

Squeezed into one vector, a long sentence does not fit. Bahdanau's decoder asks again before each
token: its state $s$ is compared with every state $m_j$ of a bidirectional encoder, and it gets
their mean, weighted by the comparison:

$$ e_j = v^\top \tanh(W s + U m_j) \;\text{(additive)} \quad\text{or}\quad
   e_j = s^\top W m_j \;\text{(multiplicative)}, \qquad c = \sum_j \mathrm{softmax}(e)_j\, m_j . $$

>>> model = Seq2Seq(source_vocab=9, target_vocab=7, d_model=4, hidden_size=6).eval()
>>> source, lengths = torch.tensor([[3, 4, 5], [6, 7, 0]]), torch.tensor([3, 2])
>>> logits, weights = model(source, lengths, torch.tensor([[1, 2], [1, 2]]))
>>> logits.shape, weights[1, 0, 2].item()  # of the last source token, which is padding
(torch.Size([2, 2, 7]), 0.0)

    uv run weeks/11/seq2seq_attention.py

Bahdanau, Cho & Bengio (2015), sections 3 and A.1; Luong, Pham & Manning (2015), section 3.1, for
the multiplicative score; Sutskever, Vinyals & Le (2014), for the decoder without attention.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from shared.arguments import checked
from shared.require import require
from week11.lstm_gru import GRU

SCORES = ("additive", "multiplicative", "none")


class Attention(nn.Module):
    """Where to look: weights over the encoder's states, and their weighted mean.

    Parameters
    ----------
    score
        ``"none"`` looks nowhere: the context is zero.
    """

    def __init__(self, hidden_size: int, memory_size: int, score: str = "additive"):
        super().__init__()
        require(score in SCORES, f"score must be one of {', '.join(SCORES)}", repr(score))
        self.score = score
        if score != "none":
            self.k_proj = nn.Linear(memory_size, hidden_size, bias=False)
        if score == "additive":
            self.q_proj = nn.Linear(hidden_size, hidden_size, bias=False)
            self.v = nn.Parameter(torch.empty(hidden_size).uniform_(-0.1, 0.1))

    def keys(
        self, memory: Float[Tensor, "batch source memory"]
    ) -> Float[Tensor, "batch source key"]:
        """What each state is compared by; computed once per sentence."""
        return memory if self.score == "none" else self.k_proj(memory)

    def forward(
        self,
        state: Float[Tensor, "batch hidden"],
        keys: Float[Tensor, "batch source key"],
        memory: Float[Tensor, "batch source memory"],
        keep: Bool[Tensor, "batch source"],
    ) -> tuple[Float[Tensor, "batch memory"], Float[Tensor, "batch source"]]:
        """The context and the weights; `keep` is True at real tokens."""
        if self.score == "none":
            return torch.zeros_like(memory[:, 0]), memory.new_zeros(memory.shape[:2])
        if self.score == "additive":
            scores = torch.tanh(self.q_proj(state)[:, None] + keys) @ self.v
        else:
            scores = (keys @ state[..., None])[..., 0]
        weights = scores.masked_fill(~keep, -torch.inf).softmax(dim=-1)
        return (weights[:, None] @ memory)[:, 0], weights


class Seq2Seq(nn.Module):
    """A bidirectional GRU reads, a GRU with attention writes.

    Parameters
    ----------
    d_model, hidden_size
        Width of the token vectors, and of the GRUs in each direction.
    score
        How the decoder looks back, see `Attention`.
    """

    def __init__(
        self,
        source_vocab: int,
        target_vocab: int,
        *,
        d_model: int,
        hidden_size: int,
        score: str = "additive",
        dropout: float = 0.0,
    ):
        super().__init__()
        self.source_embedding = nn.Embedding(source_vocab, d_model)
        self.target_embedding = nn.Embedding(target_vocab, d_model)
        self.encoder = GRU(d_model, hidden_size, bidirectional=True)
        self.start = nn.Linear(hidden_size, hidden_size)
        self.attention = Attention(hidden_size, 2 * hidden_size, score)
        self.decoder = GRU(d_model + 2 * hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.out_proj = nn.Linear(3 * hidden_size, target_vocab)

    def encode(
        self, source: Int[Tensor, "batch source"], lengths: Int[Tensor, " batch"]
    ) -> tuple[Tensor, ...]:
        """The decoder's first state, then keys, memory and which of it is real."""
        embedded = self.dropout(self.source_embedding(source))
        memory, h = self.encoder(embedded, lengths=lengths)
        keep = torch.arange(source.shape[1], device=source.device) < lengths[:, None]
        return torch.tanh(self.start(h[1])), self.attention.keys(memory), memory, keep

    def step(
        self, token: Int[Tensor, " batch"], state: Float[Tensor, "batch hidden"], *memory: Tensor
    ) -> tuple[Float[Tensor, "batch vocab"], Float[Tensor, "batch hidden"], Tensor]:
        """Logits of the token after `token`, the next state, and where the decoder looked."""
        context, weights = self.attention(state, *memory)
        x = torch.cat([self.dropout(self.target_embedding(token)), context], dim=-1)
        _, h = self.decoder(x[:, None], state[None])
        logits = self.out_proj(self.dropout(torch.cat([h[0], context], dim=-1)))
        return logits, h[0], weights

    @checked
    def forward(
        self,
        source: Int[Tensor, "batch source"],
        lengths: Int[Tensor, " batch"],
        target: Int[Tensor, "batch target"],
        *,
        forced: bool = True,
    ) -> tuple[Float[Tensor, "batch target vocab"], Float[Tensor, "batch target source"]]:
        """Logits after each target token, and the attention weights.

        Parameters
        ----------
        forced
            Teacher forcing: step t reads target token t, right or not it might have been. Without
            it the decoder runs free: after the first token it reads its own likeliest one.
        """
        state, *memory = self.encode(source, lengths)
        rows, token = [], target[:, 0]
        for t in range(target.shape[1]):
            token = target[:, t] if forced or t == 0 else rows[-1][0].argmax(dim=-1)
            logits, state, weights = self.step(token, state, *memory)
            rows.append((logits, weights))
        logits, weights = (torch.stack(part, dim=1) for part in zip(*rows, strict=True))
        return logits, weights


@torch.no_grad()
def greedy_decode(
    model: Seq2Seq,
    source: Int[Tensor, "batch source"],
    lengths: Int[Tensor, " batch"],
    *,
    bos: int,
    eos: int,
    max_len: int,
    pad: int = 0,
) -> Int[Tensor, "batch length"]:
    """The likeliest token at each step until `eos` or `max_len` tokens; then `pad`."""
    require(max_len >= 1, "max_len must be at least 1", max_len)
    state, *memory = model.encode(source, lengths)
    token = source.new_full((len(source),), bos)
    done, written = torch.zeros_like(token, dtype=torch.bool), []
    for _ in range(max_len):
        logits, state, _ = model.step(token, state, *memory)
        require(not logits.isnan().any(), "logits must not be NaN; the model has diverged")
        token = logits.argmax(dim=-1).masked_fill(done, pad)
        written.append(token)
        done |= token == eos
        if done.all():
            break
    return torch.stack(written, dim=1)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
