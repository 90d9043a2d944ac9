"""What Hugging Face's `config.json` calls the ways to stretch rotary frequencies.

>>> config = LlamaConfig(9, rope_scaling=YaRN(4.0, 512))
>>> rope = hugging_face_rope(config)
>>> rope["rope_type"], rope["original_max_position_embeddings"]
('yarn', 512)
>>> scaling_from_hugging_face(rope, config.context) == config.rope_scaling
True

`week18.pretrained` reads and writes with it; `uv run weeks/18/long_context.py` compares the
frequencies with those of `transformers`.
"""

from typing import Any

from shared.require import require
from week18.llama3 import LlamaConfig
from week18.long_context import NTK, DynamicNTK, Interpolation, YaRN
from week18.rotary import RopeScaling, Scaling

# What `rope_type` calls a scaling, the fields it must have and those it may have; the training
# context is `original_max_position_embeddings` where there is one, else `max_position_embeddings`.
SCALINGS = {
    "llama3": (RopeScaling, ("factor", "low_freq_factor", "high_freq_factor"), ()),
    "linear": (Interpolation, ("factor",), ()),
    "dynamic": (DynamicNTK, ("factor",), ()),
    "yarn": (
        YaRN,
        ("factor",),
        ("beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim", "truncate"),
    ),
}


def hugging_face_rope(config: LlamaConfig) -> dict[str, Any]:
    """The part of `config.json` on rotary positions."""
    scaling, base = config.rope_scaling, config.rope_base
    if isinstance(scaling, NTK):  # has no name of its own: it is another base
        scaling, base = None, scaling.new_base(config.head_dim, base)
    if scaling is None:
        return {"rope_type": "default", "rope_theta": base}
    kinds = [kind for kind, (known, *_) in SCALINGS.items() if type(scaling) is known]
    require(kinds, "rope_scaling must be one that transformers knows", type(scaling).__name__)
    _, required, optional = SCALINGS[kinds[0]]
    fields = {name: getattr(scaling, name) for name in (*required, *optional)}
    rope = {"rope_type": kinds[0], "rope_theta": base}
    rope |= {name: value for name, value in fields.items() if value is not None}
    if kinds[0] in ("llama3", "yarn"):
        rope["original_max_position_embeddings"] = scaling.original_context
    return rope


def scaling_from_hugging_face(rope: dict[str, Any], context: int) -> Scaling | None:
    """The scaling that `rope_parameters` asks for; `context` is `max_position_embeddings`."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    must = "rope_type must be 'default', " + " or ".join(map(repr, SCALINGS))
    require(kind in ("default", *SCALINGS), must, repr(kind))
    if kind == "default":
        return None
    known, required, optional = SCALINGS[kind]
    fields = {name: rope[name] for name in required}
    fields |= {name: rope[name] for name in optional if rope.get(name) is not None}
    if kind != "linear":
        given = None if kind == "dynamic" else rope.get("original_max_position_embeddings")
        fields["original_context"] = context if given is None else given
    return known(**fields)
