r"""LoRA: a frozen matrix learns a small correction of low rank.

Fine-tuning changes every weight, so each task needs a whole copy of the model, and Adam two more
numbers per weight while it trains. LoRA freezes $W_0 \in \mathbb{R}^{d \times k}$ and learns the
change as a product of two thin matrices,

$$h = W_0 x + \frac{\alpha}{r} B A x, \qquad B \in \mathbb{R}^{d \times r},\
  A \in \mathbb{R}^{r \times k},\quad r \ll \min(d, k).$$

$B$ starts at zero, so training starts at the model as it was; $r (d + k)$ numbers are trained
instead of $d k$; and afterwards $W_0 + \frac{\alpha}{r} B A$ is a matrix like any other, which
costs nothing extra to run.

>>> model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
>>> before, x = [p.clone() for p in model.parameters()], torch.randn(5, 64)
>>> y = model(x)
>>> inject(model, LoRAConfig(r=2, alpha=4, targets=("0",)))[0].scaling
2.0
>>> torch.equal(model(x), y), trainable(model)  # 2 (64 + 64) of 4,680 + 256
(True, (256, 4936))
>>> plain = unload(merge(model))
>>> all(torch.equal(p, q) for p, q in zip(plain.parameters(), before))  # B is still zero
True

    uv run weeks/20/lora.py

Sources: Hu et al., "LoRA: Low-rank adaptation of large language models" (2021), section 4.1 and
equation 3; Kalajdzievski, "A rank stabilization scaling factor for fine-tuning with LoRA" (2023).
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from shared.require import require


@dataclass(frozen=True)
class LoRAConfig:
    """What is adapted, and how strongly.

    Attributes
    ----------
    r, alpha
        Rank of the correction, and what it is multiplied by before it is divided by r.
    dropout
        Share of a layer's inputs that the correction does not see in training.
    rank_stabilized
        Divide alpha by the square root of r instead (rsLoRA), so that large ranks learn too.
    targets
        Layers by their name or its last parts: `q_proj` is that of every block.
    """

    r: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    rank_stabilized: bool = False
    targets: tuple[str, ...] = ("q_proj", "v_proj")

    def __post_init__(self):
        require(self.r >= 1, "r must be at least 1", self.r)
        usual = 0 < self.alpha < math.inf  # at 0 nothing would ever be learned
        require(usual, "alpha must be above 0 and finite", self.alpha)
        require(0 <= self.dropout < 1, "dropout must be in [0, 1)", self.dropout)
        listed = not isinstance(self.targets, str) and len(self.targets) > 0
        require(listed, "targets must be names of layers, at least one", repr(self.targets))

    @property
    def scaling(self) -> float:
        """What B A is multiplied by.

        References
        ----------
        Hu et al. (2021), section 4.1; Kalajdzievski (2023), theorem 3.2, for the root.
        """
        return self.alpha / (math.sqrt(self.r) if self.rank_stabilized else self.r)

    def matches(self, name: str) -> bool:
        """Whether a layer of this full name is adapted."""
        return any(f".{name}".endswith(f".{target}") for target in self.targets)


class LoRALinear(nn.Module):
    """A linear layer that stays as it is, and a correction of rank r beside it.

    Parameters
    ----------
    base
        An `nn.Linear`, or any module with `in_features` and `out_features` (a quantized one); only
        the first can be merged into.
    config
        Rank, scaling and dropout.
    generator
        Where A comes from.

    References
    ----------
    Hu et al. (2021), equation 3. A is drawn as `nn.Linear` draws its weight, as in the authors'
    code and in peft (the paper says Gaussian).
    """

    def __init__(
        self, base: nn.Module, config: LoRAConfig, generator: torch.Generator | None = None
    ):
        super().__init__()
        self.base, self.scaling, self.dropout = base, config.scaling, nn.Dropout(config.dropout)
        weight = getattr(base, "weight", None)
        like = {"dtype": torch.float32, "device": next(base.buffers(), weight).device}
        if isinstance(base, nn.Linear):
            like = {"dtype": weight.dtype, "device": weight.device}
        bound = 1 / math.sqrt(base.in_features)
        a = torch.empty(config.r, base.in_features).uniform_(-bound, bound, generator=generator)
        self.A = nn.Parameter(a.to(**like))
        self.B = nn.Parameter(torch.zeros(base.out_features, config.r, **like))
        self._before: Tensor | None = None  # the base's own weight, while it is merged
        base.requires_grad_(False)

    @property
    def merged(self) -> bool:
        """Whether the base holds the sum and the correction is not added again."""
        return self._before is not None

    def delta(self) -> Float[Tensor, "d_out d_in"]:
        """The learned change of the weight."""
        return self.scaling * (self.B @ self.A)

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """The layer's output; x passes the narrow middle, and the product B A is never formed."""
        y = self.base(x)
        if self.merged:
            return y
        low = F.linear(self.dropout(x.to(self.A.dtype)), self.A)
        return y + (self.scaling * F.linear(low, self.B)).to(y.dtype)

    def merged_weight(self) -> Float[Tensor, "d_out d_in"]:
        """The weight of the one layer that gives the same outputs."""
        return self.base.weight + self.delta().to(self.base.weight.dtype)

    @torch.no_grad()
    def merge(self) -> None:
        """Put the sum into the base. The old weight is kept: subtracting would not give it back."""
        linear = isinstance(self.base, nn.Linear)
        require(linear, "base must be an nn.Linear to be merged", type(self.base).__name__)
        require(not self.merged, "the layer must not be merged already")
        weight = self.merged_weight()
        require(weight.isfinite().all(), "the merged weight must be finite, got others")
        self._before, self.base.weight.data = self.base.weight.data, weight

    def unmerge(self) -> None:
        """Give the base its weight back, bit by bit."""
        require(self.merged, "the layer must be merged")
        self.base.weight.data, self._before = self._before, None


# ---- a whole model


def inject(
    model: nn.Module,
    config: LoRAConfig,
    generator: torch.Generator | None = None,
    *,
    layer: Callable[..., LoRALinear] = LoRALinear,
    kinds: type | tuple[type, ...] = nn.Linear,
) -> nn.Module:
    """Freeze a model and give its targets corrections, in place; all else it computes is the same.

    Parameters
    ----------
    layer
        What a target becomes: `layer(base, config, generator)`.
    kinds
        Classes of modules that may be targets.

    Raises
    ------
    ValueError
        If a target names no layer, or one whose weight is tied to another's: merging would change
        both.
    """
    adapted = [name for name, _ in adapters(model)]
    require(not adapted, "model must have no adapters yet", ", ".join(adapted[:2]))
    found = [n for n, m in model.named_modules() if isinstance(m, kinds) and config.matches(n)]
    for target in config.targets:
        named = any(f".{name}".endswith(f".{target}") for name in found)
        require(named, "targets must name linear layers of the model", repr(target))
    uses = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    tied = [n for n in found if any(uses[id(p)] > 1 for p in model.get_submodule(n).parameters())]
    require(not tied, "targets must share their weights with no other layer", ", ".join(tied))
    model.requires_grad_(False)
    for name in found:
        parent, _, own = name.rpartition(".")
        owner = model.get_submodule(parent)
        setattr(owner, own, layer(getattr(owner, own), config, generator))
    return model


def adapters(model: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    """Every adapted layer with its name."""
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            yield name, module


def merge(model: nn.Module) -> nn.Module:
    """Put every correction into its base."""
    for _, layer in adapters(model):
        layer.merge()
    return model


def unmerge(model: nn.Module) -> nn.Module:
    """Take every correction out again."""
    for _, layer in adapters(model):
        layer.unmerge()
    return model


def unload(model: nn.Module) -> nn.Module:
    """Put the bases back in place of the adapted layers: with their corrections if merged."""
    for name, layer in list(adapters(model)):
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, layer.base)
    return model


def trainable(model: nn.Module) -> tuple[int, int]:
    """How many numbers are trained, and how many there are."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, trained in sizes if trained), sum(n for n, _ in sizes)


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    """What was learned, by name: `blocks.0.q_proj.A` and so on."""
    return {
        f"{name}.{own}": p.detach()
        for name, layer in adapters(model)
        for own, p in layer.named_parameters(recurse=False)
    }


@torch.no_grad()
def load_adapter_state(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Put learned numbers into a model that has the same adapters.

    Raises
    ------
    ValueError
        If a name is missing, unknown or of another shape. torch's `strict=False` would be silent,
        and a B that is missing stays zero: the base answers, and nobody notices.
    """
    own = adapter_state(model)
    check_names("state", state, own)
    for name, p in own.items():
        shape, got = tuple(p.shape), tuple(state[name].shape)
        require(got == shape, f"state: {name} must have shape {shape}", got)
    for name, p in own.items():
        p.copy_(state[name])
    return model


def check_names(what: str, given: Iterable[str], expected: Iterable[str]) -> None:
    """One line where names are missing or unknown."""
    for says, names in (
        ("misses", set(expected) - set(given)),
        ("has unknown", set(given) - set(expected)),
    ):
        first, more = min(names, default=""), f" and {len(names) - 1} more" * (len(names) > 1)
        require(not names, f"{what} {says} {first}{more}")


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
