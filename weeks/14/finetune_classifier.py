r"""Project 3b: a pretrained network learns to tell kind from unkind sentences.

A body that was pretrained on something else gives a vector per token; their mean goes through one
new linear map,

$$ p(\text{kind}) = \sigma(w^\top f + b), \qquad f = \frac{1}{n} \sum_{i=1}^n h_i . $$

A *linear probe* trains $w$ and $b$ only: it measures what the body already knows. *Fine-tuning*
trains the body too, slowly. *From scratch* is the same network without the pretraining. What the
body forgets meanwhile shows in the loss of its old task.

>>> body = GPT(GPTConfig(vocab_size=30), torch.Generator().manual_seed(0))
>>> model = SentenceClassifier(body)
>>> rows, labels = [[1, 2, 3], [4, 5], [1, 2], [5, 5, 4]], torch.tensor([1.0, 0.0, 1.0, 0.0])
>>> losses = train(model, rows, labels, epochs=30, lr=1e-3, generator=torch.manual_seed(0))
>>> (predict(model, rows) > 0).int().tolist()
[1, 0, 1, 0]

    uv run weeks/14/finetune_classifier.py           # short training sentences, about a minute
    uv run weeks/14/finetune_classifier.py --full    # all of them

Sources: Devlin et al., "BERT" (2019), sections 3.2 and A.3; McCloskey & Cohen, "Catastrophic
interference in connectionist networks" (1989). Data: Socher et al. (2013), binary sentences.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from shared.require import require
from week09.optimizers import AdamW
from week11.batches import length_buckets, pad
from week14.bert import Bert
from week14.minimal_gpt import GPT, GPTConfig

__all__ = ["GPT", "GPTConfig", "SentenceClassifier", "features", "predict", "train"]

Rows = Sequence[Sequence[int]]  # token ids of each sentence


class SentenceClassifier(nn.Module):
    """A body, the mean over a sentence's tokens, one logit.

    The head starts at zero, so that the first step does not pull the body in a random direction.

    Parameters
    ----------
    body
        An encoder, whose tokens see all others, or a GPT, whose tokens see those before.
    """

    def __init__(self, body: Bert | GPT):
        super().__init__()
        self.body, self.out_proj = body, nn.Linear(body.config.d_model, 1)
        nn.init.zeros_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def states(
        self, tokens: Int[Tensor, "batch seq"], keep: Bool[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch seq d_model"]:
        """What the body says at each token; a GPT does not see the padding behind."""
        if isinstance(self.body, GPT):
            return self.body.norm(self.body.residual_stream(tokens)[-1])
        return self.body(tokens, keep=keep)

    def features(
        self, tokens: Int[Tensor, "batch seq"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch d_model"]:
        """The mean over the real tokens."""
        keep = torch.arange(tokens.shape[1]) < lengths[:, None]
        x = self.states(tokens, keep) * keep[..., None]
        return x.sum(dim=1) / lengths[:, None]

    def forward(
        self, tokens: Int[Tensor, "batch seq"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        """Logits of *kind*."""
        return self.out_proj(self.features(tokens, lengths))[:, 0]


def train(
    model: SentenceClassifier,
    rows: Rows,
    labels: Float[Tensor, " n"],
    *,
    epochs: int,
    lr: float,
    generator: torch.Generator,
    head_lr: float = 1e-2,
    batch_size: int = 32,
    weight_decay: float = 0.01,
) -> list[float]:
    """Train head and body on batches of like lengths; the loss of each step (nats).

    Parameters
    ----------
    lr, head_lr
        Peaks of the rates, which rise for a tenth of the steps and then fall to zero. The head
        knows nothing yet and goes faster; a body at rate 0 stays what it was.
    """
    n = len(rows)
    require(n == len(labels) > 0, f"labels must be one for each of the {n} rows", len(labels))
    require(epochs >= 1, "epochs must be at least 1", epochs)
    model.train()
    body = [p for p in model.body.parameters() if p.requires_grad]
    parts = [
        ([p for p in body if p.ndim >= 2], lr, weight_decay),
        ([p for p in body if p.ndim < 2], lr, 0.0),
        ([*model.out_proj.parameters()], head_lr, 0.0),
    ]
    optimizers = [AdamW(p, lr=rate, weight_decay=decay) for p, rate, decay in parts]
    steps, losses = epochs * -(-n // batch_size), []
    warm = max(1, steps // 10)
    lengths = [len(row) for row in rows]
    for _ in range(epochs):
        for batch in length_buckets(lengths, batch_size, generator):
            factor = min((len(losses) + 1) / warm, (steps - len(losses)) / (steps - warm + 1))
            logits = model(*pad([rows[i] for i in batch.tolist()], 0))
            loss = F.binary_cross_entropy_with_logits(logits, labels[batch])
            for optimizer, (_, rate, _) in zip(optimizers, parts, strict=True):
                optimizer.zero_grad()
                optimizer.lr = rate * factor
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
            losses.append(loss.item())
    return losses


@torch.no_grad()
def features(model: SentenceClassifier, rows: Rows) -> Float[Tensor, "n d_model"]:
    """The mean vector of each row, in their order, by the model as it stands."""
    model.eval()
    out = torch.empty(len(rows), model.out_proj.in_features)
    for batch in length_buckets([len(row) for row in rows], batch_size=64):
        out[batch] = model.features(*pad([rows[i] for i in batch.tolist()], 0))
    return out


@torch.no_grad()
def predict(model: SentenceClassifier, rows: Rows) -> Float[Tensor, " n"]:
    """Logits of *kind* of all rows, in their order."""
    return model.out_proj(features(model, rows))[:, 0]


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
