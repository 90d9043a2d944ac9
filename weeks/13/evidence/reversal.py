"""A task for one layer: write a sequence of digits backwards."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from week13.transformer import Transformer, cross_entropy, greedy_decode

PAD, BOS, EOS, FIRST_DIGIT, N_TOKENS = 0, 1, 2, 3, 13
SHORTEST, LONGEST = 4, 8


def reversal_batch(
    n: int, generator: torch.Generator, *, extra_padding: int = 0
) -> tuple[Int[Tensor, "n source"], Int[Tensor, "n target"]]:
    """Sequences of 4 to 8 digits, and the same backwards; both end with EOS, then padding."""
    lengths = torch.randint(SHORTEST, LONGEST + 1, (n, 1), generator=generator)
    digits = torch.randint(FIRST_DIGIT, N_TOKENS, (n, LONGEST), generator=generator)
    position = torch.arange(LONGEST)
    backwards = digits.gather(1, (lengths - 1 - position).clamp(min=0))
    source = torch.full((n, LONGEST + 1 + extra_padding), PAD)
    target = torch.full((n, LONGEST + 2), PAD)
    target[:, 0] = BOS
    for tokens, start, row in ((source, 0, digits), (target, 1, backwards)):
        tokens[:, start : start + LONGEST] = row.masked_fill(position >= lengths, PAD)
        tokens.scatter_(1, lengths + start, EOS)
    return source, target


class WithoutPaddingMask(Transformer):
    """The classic mistake: padding is attended to as if it were text."""

    def keep(self, tokens: Int[Tensor, "batch seq"]) -> Bool[Tensor, "batch 1 1 seq"]:
        """Everything."""
        return torch.ones_like(tokens, dtype=torch.bool)[:, None, None, :]


def train_reversal(
    steps: int, seed: int, *, kind: type[Transformer] = Transformer, shuffled: bool = False
) -> tuple[Transformer, list[float]]:
    """Train one layer with one head on reversal; return it and its losses."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = kind(N_TOKENS, N_TOKENS, d_model=64, n_heads=1, n_layers=1, pad=PAD)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps, pct_start=0.1)
    losses = []
    for _ in range(steps):
        source, target = reversal_batch(64, generator)
        if shuffled:
            target = target[torch.randperm(len(target), generator=generator)]
        loss = cross_entropy(model(source, target[:, :-1]), target[:, 1:], pad=PAD)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return model.eval(), losses


def exact_match(model: Transformer, seed: int, *, extra_padding: int = 0, n: int = 500) -> float:
    """Share (%) of new sequences that greedy decoding gets right to the last token."""
    generator = torch.Generator().manual_seed(1000 + seed)
    source, target = reversal_batch(n, generator, extra_padding=extra_padding)
    output = greedy_decode(model, source, bos=BOS, eos=EOS, max_len=LONGEST + 1)
    wanted = target[:, 1 : output.shape[1] + 1]
    return 100 * (output == wanted).all(dim=1).float().mean().item()


@torch.no_grad()
def cross_attention_map(
    model: Transformer, source: Int[Tensor, "1 source"], target: Int[Tensor, "1 target"]
) -> Float[Tensor, "target source"]:
    """Weights of the first layer's first head, one row per target token."""
    layer, memory = model.decoder.layers[0], model.encode(source)
    x = model._embed(target, model.target_embedding)
    x = layer.residuals[0](x, lambda h: layer.self_attention(h, is_causal=True))
    x = layer.residuals[1].norm(x) if layer.residuals[1].norm_first else x
    return layer.cross_attention.weights(x, memory, mask=model.keep(source))[0, 0]
