"""The steps that a recipe is made of, and what each can be told.

>>> Prune(method="wanda", pattern="2:4").n_of_m
(2, 4)
>>> chosen = Quantize(bits=4, overrides={"*.down_proj": {"bits": 8}})
>>> chosen.of("blocks.3.down_proj").bits, chosen.of("blocks.3.up_proj").bits
(8, 4)
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

from compress.pipeline.options import made, must_hold, plain

QuantizeMethod = Literal["rtn", "gptq", "awq", "smoothquant", "hqq"]
PruneMethod = Literal["magnitude", "wanda", "sparsegpt"]
Scope = Literal["row", "layer", "global"]
DTypeName = Literal["float32", "bfloat16", "float16"]
SCOPES = {"magnitude": ("row", "layer", "global"), "wanda": ("row", "layer")}
SCOPES |= {"sparsegpt": ("layer",)}


@dataclass(frozen=True, kw_only=True)
class Prune:
    """Weights that become zero.

    Attributes
    ----------
    sparsity
        Share of the weights of each group that go, rounded to a whole number.
    pattern
        Instead: `n:m`, of each m neighbors of a row n are kept. In quotes: YAML reads 2:4 as 124.
    scope
        What a group is. By default a row; for SparseGPT the matrix, which is its only one.
    damping
        Of SparseGPT: share of the Hessian's mean diagonal that is added to the diagonal.
    weighted
        Whether errors count by what later layers make of them (see `stages`).
    """

    method: PruneMethod = "sparsegpt"
    sparsity: float = 0.5
    pattern: str | None = None
    scope: Scope | None = None
    damping: float = 0.01
    weighted: bool = True

    def __post_init__(self):
        allowed = SCOPES[self.method]
        object.__setattr__(self, "scope", self.scope or allowed[0])
        must = f"scope must be {' or '.join(allowed)} for {self.method}"
        must_hold(self.scope in allowed, must, self.scope)
        must_hold(0 <= self.sparsity < 1, "sparsity must be in [0, 1)", self.sparsity)
        must_hold(0 <= self.damping <= 1, "damping must be in [0, 1]", self.damping)
        plain = self.pattern is None or self.scope == allowed[0]
        must_hold(plain, f"scope must be {allowed[0]} where there is a pattern", self.scope)
        self.n_of_m  # noqa: B018 (it checks)

    @property
    def n_of_m(self) -> tuple[int, int] | None:
        """The pattern as numbers."""
        if self.pattern is None:
            return None
        n, _, m = self.pattern.partition(":")
        whole = n.isascii() and m.isascii() and n.isdecimal() and m.isdecimal()
        sound = whole and 1 <= int(n) < int(m) <= 256
        must_hold(sound, "pattern must be n:m with n below m, such as 2:4", repr(self.pattern))
        return int(n), int(m)

    @property
    def needs_inputs(self) -> bool:
        """Whether it has to see what layers read."""
        return self.method != "magnitude"


@dataclass(frozen=True, kw_only=True)
class Quantize:
    """Weights that become integers.

    Attributes
    ----------
    group_size
        Columns that share a grid; None for all of a row.
    symmetric
        Whether zero is the middle of each grid.
    act_order
        Of GPTQ: inputs with the largest Hessian diagonal first.
    damping, weighted
        Of GPTQ, as in `Prune`.
    int8_inputs
        Whether layers round what they read too (of 8 bits only); SmoothQuant does.
    alpha
        Of SmoothQuant: how much of the inputs' range moves into the weights.
    embedding_bits
        Bits of the embedding and the output head, symmetric; None leaves them as they are.
    embedding_group_size
        Columns of theirs that share a grid; None for a grid per token.
    embedding_method
        GPTQ weighs errors by what the head reads, in the model as it came to this pass; those of
        an embedding that is the head too, as much again by themselves. An embedding that is not the
        head is rounded to nearest all the same.
    overrides
        What is otherwise for some layers, by names with wildcards: `{"blocks.0.*": {"bits": 8},
        "*.down_proj": {"bits": None}}`, where None leaves a layer as it is. The first that fits
        counts.
    """

    method: QuantizeMethod = "gptq"
    bits: int = 4
    group_size: int | None = 128
    symmetric: bool = False
    act_order: bool = False
    damping: float = 0.01
    weighted: bool = True
    int8_inputs: bool = False
    alpha: float = 0.5
    embedding_bits: int | None = None
    embedding_group_size: int | None = None
    embedding_method: Literal["rtn", "gptq"] = "rtn"
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if self.method == "smoothquant":
            for name, value in (("int8_inputs", True), ("symmetric", True), ("group_size", None)):
                object.__setattr__(self, name, value)
            must_hold(self.bits == 8, "bits must be 8 for smoothquant", self.bits)
        must_hold(self.bits in (2, 3, 4, 8), "bits must be 2, 3, 4 or 8", self.bits)
        some = self.group_size is None or self.group_size >= 2
        must_hold(some, "group_size must be at least 2", self.group_size)
        must_hold(0 <= self.damping <= 1, "damping must be in [0, 1]", self.damping)
        must_hold(0 <= self.alpha <= 1, "alpha must be in [0, 1]", self.alpha)
        known = self.embedding_bits in (None, 4, 8)
        must_hold(known, "embedding_bits must be 4 or 8", self.embedding_bits)
        size, method = self.embedding_group_size, self.embedding_method
        must_hold(size is None or size >= 2, "embedding_group_size must be at least 2", size)
        asked = self.embedding_bits is not None or (size, method) == (None, "rtn")
        must = "embedding_bits must be given with embedding_group_size or embedding_method"
        must_hold(asked, must, "none")
        weights = (self.bits, self.symmetric, self.group_size)
        fits = not self.int8_inputs or weights == (8, True, None)
        must = "int8_inputs must go with symmetric weights of 8 bits, one grid per row"
        must_hold(fits, must, f"bits {self.bits}, group_size {self.group_size}")
        plain = not self.act_order or self.method == "gptq"
        must_hold(plain, "act_order must be left out but for gptq", self.method)
        asymmetric = not (self.symmetric and self.method in ("awq", "hqq"))
        must_hold(asymmetric, f"symmetric must be off for {self.method}", "on")
        allowed = {"bits", "group_size", "symmetric"}
        for pattern, changes in self.overrides.items():
            sound = isinstance(changes, Mapping) and changes.keys() <= allowed
            must = f"overrides must hold {', '.join(sorted(allowed))} for {pattern}"
            must_hold(sound, must, changes)
            self._with(changes)

    def of(self, name: str) -> "Quantize | None":
        """What is done to a layer of this name; None if nothing."""
        for pattern, changes in self.overrides.items():
            if fnmatchcase(name, pattern):
                return self._with(changes)
        return self

    def _with(self, changes: Mapping[str, Any]) -> "Quantize | None":
        if changes.get("bits", self.bits) is None:
            return None
        return made(Quantize, {**plain(self), **changes, "overrides": {}})

    @property
    def folds(self) -> bool:
        """Whether factors move between layers before anything is rounded."""
        return self.method in ("awq", "smoothquant")

    @property
    def needs_inputs(self) -> bool:
        """Whether it has to see what layers read."""
        return self.folds or "gptq" in (self.method, self.embedding_method)


@dataclass(frozen=True, kw_only=True)
class Pass:
    """Once through the model, block by block."""

    prune: Prune | None = None
    quantize: Quantize | None = None

    @property
    def needs_inputs(self) -> bool:
        """Whether the calibration text has to go through the model."""
        return any(part is not None and part.needs_inputs for part in (self.prune, self.quantize))

    @property
    def weighted(self) -> bool:
        """Whether errors count by what later layers make of them."""
        return all(part is None or part.weighted for part in (self.prune, self.quantize))


@dataclass(frozen=True, kw_only=True)
class Structured:
    """Whole parts that leave, the least important first, equally many of each block.

    Attributes
    ----------
    heads, neurons
        Shares of the heads of keys and values (with the queries they serve) and of the MLPs'
        neurons.
    layers
        Blocks that leave.
    """

    heads: float = 0.0
    neurons: float = 0.0
    layers: int = 0

    def __post_init__(self):
        for name in ("heads", "neurons"):
            value = getattr(self, name)
            must_hold(0 <= value < 1, f"{name} must be in [0, 1)", value)
        must_hold(self.layers >= 0, "layers must be at least 0", self.layers)
        some = (self.heads, self.neurons, self.layers) != (0, 0, 0)
        must_hold(some, "structured must say how many heads, neurons or layers", "none")


@dataclass(frozen=True, kw_only=True)
class Recover:
    """Short training on the calibration text, by distillation from the model as it came.

    Attributes
    ----------
    method
        `full` trains all that are floats; `lora` corrections of rank `r`, merged afterwards. What
        is quantized stays as it is, and what is pruned stays zero.
    temperature
        Of teacher and student.
    """

    method: Literal["full", "lora"] = "full"
    steps: int = 100
    lr: float = 1e-4
    batch_size: int = 4
    r: int = 8
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self):
        for name in ("steps", "batch_size", "r"):
            value = getattr(self, name)
            must_hold(value >= 1, f"{name} must be at least 1", value)
        must_hold(0 < self.lr < 1, "lr must be in (0, 1)", self.lr)
        must_hold(0 < self.temperature <= 100, "temperature must be in (0, 100]", self.temperature)
        must_hold(self.seed >= 0, "seed must be at least 0", self.seed)


@dataclass(frozen=True, kw_only=True)
class Cast:
    """Whatever is floats is stored in another precision."""

    dtype: DTypeName = "bfloat16"


Step = Pass | Structured | Recover | Cast
PARTS = {"prune": Prune, "quantize": Quantize, "structured": Structured}
PARTS |= {"recover": Recover, "cast": Cast}
