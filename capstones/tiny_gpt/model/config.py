r"""A decoder's sizes and parts, chosen by name: from GPT-2 to what the ablation kept.

Three architectures, each a row of choices (`ARCHITECTURES`):

- ``gpt2``: layer norm, learned positions, GELU, biases, tied head (Radford et al., 2019).
- ``llama``: RMS norm, rotary positions, SwiGLU, optional grouped queries (week 18's block).
- ``modern``: rotary positions, normalized queries and keys, ReLU², the previous token's embedding
  mixed in, an untied head that starts at zero. Layer norm without gain and bias normalizes here:
  one fused operator where RMS norm takes five. The ablation of the README has RMS norm and SwiGLU a
  little ahead in loss at equal steps; these two are chosen for their speed on a CPU.

Sources: Radford et al., "Language models are unsupervised multitask learners" (2019), section 2.3;
Grattafiori et al., "The Llama 3 herd of models" (2024), section 3.2; Henry et al., "Query-key
normalization" (2020), section 3; So et al., "Primer" (2021), section 4.1, for ReLU²; Su et al.,
"RoFormer" (2021), eq. 34.
"""

from dataclasses import dataclass
from typing import Any, Literal

from shared.require import require

__all__ = ["ARCHITECTURES", "Architecture", "GPTConfig"]

Architecture = Literal["gpt2", "llama", "modern"]

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "gpt2": {"norm": "layer", "positions": "learned", "mlp": "gelu", "bias": True, "tied": True},
    "llama": {"norm": "rms", "positions": "rotary", "mlp": "swiglu", "rope_base": 10_000.0},
    "modern": {"norm": "plain", "positions": "rotary", "mlp": "relu2"}
    | {"qk_norm": True, "mix_previous": True, "zero_head": True},
}
SIZES = ("vocab_size", "context", "n_layers", "n_heads", "d_model", "n_kv_heads", "d_ff")


@dataclass(frozen=True)
class GPTConfig:
    """Sizes and choices of a model.

    Attributes
    ----------
    n_kv_heads
        Heads of keys and values, each shared by `n_heads / n_kv_heads` query heads; all of their
        own if None.
    d_ff
        Width of the MLP; if None 4 d_model, or for `swiglu` 8/3 d_model up to a multiple of 8.
    norm
        `layer` with gain and bias (bias only with `bias`), `rms` with gain, `plain` layer norm
        without either.
    qk_norm
        Normalize each query and key to root mean square 1, so that no logit can run away.
    mix_previous
        Add a second embedding, of the token before, to each token's.
    tied
        The output head is the embedding.
    zero_head
        An untied head starts at zero: the first loss is ln(vocab_size), no gradient is noise.
    dropout
        Of the embedding and of both branches of a block.
    """

    vocab_size: int
    context: int = 64
    n_layers: int = 4
    n_heads: int = 4
    d_model: int = 128
    n_kv_heads: int | None = None
    d_ff: int | None = None
    norm: Literal["layer", "rms", "plain"] = "plain"
    positions: Literal["learned", "rotary"] = "rotary"
    mlp: Literal["gelu", "swiglu", "relu2"] = "relu2"
    bias: bool = False
    qk_norm: bool = False
    mix_previous: bool = False
    tied: bool = False
    zero_head: bool = False
    dropout: float = 0.0
    rope_base: float = 10_000.0
    norm_eps: float = 1e-5

    def __post_init__(self):
        whole = self.n_heads < 1 or self.d_model % self.n_heads == 0
        require(whole, f"n_heads must divide d_model = {self.d_model}", self.n_heads)
        wide = -(-8 * self.d_model // 24) * 8 if self.mlp == "swiglu" else 4 * self.d_model
        for name, value in (("n_kv_heads", self.n_heads), ("d_ff", wide)):
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        for name in SIZES:
            require(getattr(self, name) >= 1, f"{name} must be at least 1", getattr(self, name))
        whole = self.n_heads % self.n_kv_heads == 0
        require(whole, f"n_kv_heads must divide n_heads = {self.n_heads}", self.n_kv_heads)
        even = self.positions != "rotary" or self.head_dim % 2 == 0
        require(even, "head_dim must be even where positions are rotary", self.head_dim)
        require(0 <= self.dropout < 1, "dropout must be in [0, 1)", self.dropout)
        apart = not (self.tied and self.zero_head)
        require(apart, "zero_head must be off where the head is tied to the embedding")

    @classmethod
    def of(cls, architecture: Architecture, vocab_size: int, **changes: Any) -> "GPTConfig":
        """The configuration of a named architecture; `changes` override its choices."""
        must = f"architecture must be one of {', '.join(ARCHITECTURES)}"
        require(architecture in ARCHITECTURES, must, repr(architecture))
        return cls(vocab_size, **{**ARCHITECTURES[architecture], **changes})

    @property
    def head_dim(self) -> int:
        """Size of one head."""
        return self.d_model // self.n_heads

    @property
    def block_weights(self) -> int:
        """Entries of the blocks' matrices."""
        attention = (self.n_heads + 2 * self.n_kv_heads) * self.head_dim + self.d_model
        mlp = (3 if self.mlp == "swiglu" else 2) * self.d_ff
        return self.n_layers * self.d_model * (attention + mlp)
