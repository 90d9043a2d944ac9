r"""Five other ways to adapt a frozen model: adapters, biases, prompts, prefixes, scales.

LoRA adds to the weights. One can as well add small layers to the *outputs*, or numbers to the
*inputs*. With $y$ what a linear layer of the frozen model gives:

$$\text{bottleneck: } y + U \mathrm{gelu}(D y), \qquad \text{BitFit: } y + b, \qquad
  (\text{IA})^3\text{: } \ell \odot y,$$

where $D$ is narrow, $U$ and $b$ start at 0 and $\ell$ at 1, so that training starts at the model as
it was. **Prompt tuning** leaves all layers alone and puts $n$ learned embeddings before the text;
**prefix tuning** puts $n$ learned keys and values before those of each layer, as if a text had been
read that no tokens spell.

>>> from week18.llama3 import LlamaConfig
>>> tokens = torch.arange(12)[None]
>>> for name in METHODS:
...     model = Llama(LlamaConfig(vocab_size=50, d_model=32), torch.Generator().manual_seed(0))
...     before = model(tokens)
...     after = adapt(model, name, 2, torch.Generator().manual_seed(1))
...     print(name, trainable(after), torch.equal(after(tokens), before))
bottleneck 512 True
bitfit 672 True
ia3 304 True
prompt 64 False
prefix 256 False

    uv run weeks/20/adapters.py

Sources: Houlsby et al., "Parameter-efficient transfer learning for NLP" (2019), section 2.1; Ben
Zaken et al., "BitFit" (2022); Lester et al., "The power of scale for parameter-efficient prompt
tuning" (2021), section 2; Li & Liang, "Prefix-tuning" (2021), section 4; Liu et al., "Few-shot
parameter-efficient fine-tuning is better and cheaper than in-context learning" (2022), section 3.3.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared.require import require
from week18.llama3 import Llama

LINEAR = ("q_proj", "k_proj", "v_proj", "out_proj", "gate_proj", "up_proj", "down_proj")


# ---- beside a layer


class Bottleneck(nn.Module):
    """A narrow MLP after a layer that adds to the residual stream, with a way around it.

    Parameters
    ----------
    base
        The layer whose output is corrected.
    width
        Inner width of the MLP. There are no biases, so that budgets compare.

    References
    ----------
    Houlsby et al. (2019), figure 2: after the projection, before the sum; one after attention and
    one after the MLP.
    """

    def __init__(self, base: nn.Linear, width: int, generator: torch.Generator | None = None):
        super().__init__()
        self.base, d = base, base.out_features
        self.down = nn.Parameter(torch.randn(width, d, generator=generator) / d**0.5)
        self.up = nn.Parameter(torch.zeros(d, width))

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        """The layer's output and its correction."""
        y = self.base(x)
        return y + F.linear(F.gelu(F.linear(y, self.down)), self.up)


class Shifted(nn.Module):
    """A layer with a bias that is learned: BitFit's only parameters.

    BitFit trains the biases that a model has. A LLaMA has none, so they are added, at zero.
    """

    def __init__(self, base: nn.Linear):
        super().__init__()
        self.base, self.shift = base, nn.Parameter(torch.zeros(base.out_features))

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        """The layer's output, moved."""
        return self.base(x) + self.shift


class Scaled(nn.Module):
    """A layer whose outputs, or inputs, are each multiplied by a learned number: (IA)³.

    References
    ----------
    Liu et al. (2022), section 3.3: keys, values, and what enters the MLP's second matrix.
    """

    def __init__(self, base: nn.Linear, *, inputs: bool):
        super().__init__()
        self.base, self.inputs = base, inputs
        self.scale = nn.Parameter(torch.ones(base.in_features if inputs else base.out_features))

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        """The layer's output, some of it louder."""
        return self.base(x * self.scale) if self.inputs else self.base(x) * self.scale


# ---- before the text


class Prompted(nn.Module):
    """Learned embeddings before the text; they have positions 0 to n - 1 like tokens.

    Parameters
    ----------
    tokens
        n tokens whose embeddings they start as; random ones if None.

    References
    ----------
    Lester et al. (2021), section 2.
    """

    def __init__(
        self,
        model: Llama,
        n: int,
        generator: torch.Generator | None = None,
        tokens: Int[Tensor, " n"] | None = None,
    ):
        super().__init__()
        if tokens is None:
            tokens = torch.randint(model.config.vocab_size, (n,), generator=generator)
        self.model = model
        self.prompt = nn.Parameter(model.embed.weight[tokens].detach().clone())

    def forward(self, tokens: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq vocab"]:
        """Logits after the text's own tokens."""
        model, n = self.model, len(self.prompt)
        x = torch.cat([self.prompt.expand(len(tokens), -1, -1), model.embed(tokens)], dim=1)
        total, most = x.shape[1], model.config.context
        require(total <= most, f"tokens and prompt must fit in context = {most}", total)
        cos, sin = model.waves(torch.arange(total, device=tokens.device), None)
        for block in model.blocks:
            x = block(x, cos, sin)
        return model.head(model.norm(x[:, n:]))


class PrefixCache:
    """What `Llama` takes for tokens it has read: the learned keys and values of each layer."""

    def __init__(self, keys: Float[Tensor, "layer h n d"], values: Float[Tensor, "layer h n d"]):
        self.keys, self.values, self.length = keys, values, keys.shape[2]

    def update(
        self,
        layer: int,
        k: Float[Tensor, "batch h new d"],
        v: Float[Tensor, "batch h new d"],
    ) -> tuple[Float[Tensor, "batch h key d"], Float[Tensor, "batch h key d"]]:
        """The layer's prefix, then the text's own; nothing is stored."""
        kept = (self.keys[layer], self.values[layer])
        return tuple(
            torch.cat([p.expand(len(own), -1, -1, -1), own], dim=2)
            for p, own in zip(kept, (k, v), strict=True)
        )

    def advance(self, n: int) -> None:
        """Nothing was stored."""


class Prefixed(nn.Module):
    """Learned keys and values before those of each layer; the text's positions begin at n.

    The paper trains them through an MLP that is thrown away afterwards; here they are trained as
    they are, as its section 4.3 tries too. Keys are learned as they lie, already turned.

    References
    ----------
    Li & Liang (2021), section 4.2.
    """

    def __init__(self, model: Llama, n: int, generator: torch.Generator | None = None):
        super().__init__()
        c = model.config
        shape = (c.n_layers, c.n_kv_heads, n, c.head_dim)
        self.model = model
        self.keys = nn.Parameter(torch.randn(shape, generator=generator))
        self.values = nn.Parameter(0.02 * torch.randn(shape, generator=generator))

    def forward(self, tokens: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq vocab"]:
        """Logits after each token of the text."""
        return self.model(tokens, cache=PrefixCache(self.keys, self.values))


# ---- a whole model


def _wrap(model: Llama, names: tuple[str, ...], make) -> Llama:
    for block in model.blocks:
        for name in names:
            setattr(block, name, make(name, getattr(block, name)))
    return model


METHODS = {
    "bottleneck": lambda model, size, g: _wrap(
        model, ("out_proj", "down_proj"), lambda name, base: Bottleneck(base, size, g)
    ),
    "bitfit": lambda model, size, g: _wrap(model, LINEAR, lambda name, base: Shifted(base)),
    "ia3": lambda model, size, g: _wrap(
        model,
        ("k_proj", "v_proj", "down_proj"),
        lambda name, base: Scaled(base, inputs=name == "down_proj"),
    ),
    "prompt": Prompted,
    "prefix": Prefixed,
}


def adapt(
    model: Llama, method: str, size: int, generator: torch.Generator | None = None
) -> nn.Module:
    """Freeze a model and give it what a method learns, in place where layers are concerned.

    Parameters
    ----------
    method
        A key of `METHODS`.
    size
        Inner width of bottlenecks, number of prompt or prefix positions; the other two have none.
    """
    names = ", ".join(METHODS)
    require(method in METHODS, f"method must be one of {names}", repr(method))
    require(size >= 1, "size must be at least 1", size)
    return METHODS[method](model.requires_grad_(False), size, generator)


def trainable(model: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
