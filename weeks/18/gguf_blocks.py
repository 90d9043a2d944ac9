r"""How llama.cpp stores weights: blocks of 32 or 256 numbers that share a scale.

Every kind is a layout of bytes and one line of arithmetic. With a scale $d$, a minimum $m$ and
small integers $q$,

$$w = d\,(q - \text{excess}) \quad (\texttt{Q4\_0}, \texttt{Q5\_0}, \texttt{Q8\_0}), \qquad
  w = d\,q + m \quad (\texttt{Q4\_1}, \texttt{Q5\_1}),$$

and the K kinds cut 256 numbers into groups whose own scales are small integers again. Four bits
are packed with their **half-block partner**: byte j holds number j below and number j + 16 above.

>>> block = np.zeros(18, np.uint8)  # Q4_0: two bytes of scale, sixteen of nibbles
>>> block[:2].view("<f2")[:] = 0.5
>>> block[2:] = 8 + 16 * np.arange(16)  # 8 below: the excess; 0 to 15 above
>>> dequantize(block, "Q4_0")[[0, 15, 16, 31]]
array([ 0. ,  0. , -4. ,  3.5], dtype=float32)

`uv run weeks/18/smollm2.py` compares with the package gguf. Source: the ggml project's block
structures (ggml-common.h) and its reference dequantization (ggml-quants.c).
"""

import numpy as np
from jaxtyping import Float32, Int, UInt8

from shared.require import require

LAYOUT = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "Q8_0": np.dtype([("d", "<f2"), ("q", "i1", 32)]),
    "Q4_0": np.dtype([("d", "<f2"), ("q", "u1", 16)]),
    "Q4_1": np.dtype([("d", "<f2"), ("m", "<f2"), ("q", "u1", 16)]),
    "Q5_0": np.dtype([("d", "<f2"), ("high", "u1", 4), ("q", "u1", 16)]),
    "Q5_1": np.dtype([("d", "<f2"), ("m", "<f2"), ("high", "u1", 4), ("q", "u1", 16)]),
    "Q4_K": np.dtype([("d", "<f2"), ("m", "<f2"), ("scales", "u1", (3, 4)), ("q", "u1", (4, 32))]),
    "Q6_K": np.dtype(
        [("q", "u1", (2, 64)), ("high", "u1", (2, 32)), ("scales", "i1", (16, 1)), ("d", "<f2")]
    ),
}
NUMBERS = dict.fromkeys(LAYOUT, 32) | {"F32": 1, "F16": 1, "BF16": 1, "Q4_K": 256, "Q6_K": 256}


def dequantize(raw: UInt8[np.ndarray, "*batch bytes"], kind: str) -> Float32[np.ndarray, "..."]:
    """The numbers of whole blocks, rows in and rows out."""
    require(kind in LAYOUT, f"kind must be among {', '.join(LAYOUT)}", kind)
    size = LAYOUT[kind].itemsize
    whole = raw.shape[-1] % size == 0
    require(whole, f"raw must hold whole blocks of {size} bytes in a row", raw.shape[-1])
    shape = (*raw.shape[:-1], raw.shape[-1] // size * NUMBERS[kind])
    blocks = np.ascontiguousarray(raw).reshape(-1).view(LAYOUT[kind])
    with np.errstate(over="ignore", invalid="ignore"):  # a scale may be infinite: so be it
        return _numbers(blocks, kind).reshape(shape)


def _numbers(blocks: np.ndarray, kind: str) -> np.ndarray:
    if kind in ("F32", "F16"):
        return blocks.astype(np.float32)
    if kind == "BF16":  # the upper half of a float32
        return (blocks.astype(np.uint32) << 16).view(np.float32)
    d = blocks["d"].astype(np.float32)[:, None]
    if kind == "Q8_0":
        return d * blocks["q"]
    if kind == "Q4_K":
        scale, minimum = six_bits(blocks["scales"])
        q, m = nibbles(blocks["q"]).reshape(-1, 8, 32), blocks["m"].astype(np.float32)[:, None]
        return (d * scale)[..., None] * q - (m * minimum)[..., None]
    if kind == "Q6_K":
        high = blocks["high"][:, :, None] >> np.array([[0], [2], [4], [6]], np.uint8) & 3
        q = nibbles(blocks["q"]).reshape(-1, 8, 32) | high.reshape(-1, 8, 32) << 4
        scale = d[..., None] * blocks["scales"]
        return scale * (q.astype(np.int8) - np.int8(32)).reshape(-1, 16, 16)
    q = nibbles(blocks["q"][:, None]).reshape(-1, 32)
    if "high" in blocks.dtype.names:  # the fifth bits of all 32 stand together
        q = q | np.unpackbits(blocks["high"], axis=1, bitorder="little") << 4
    if "m" in blocks.dtype.names:
        return d * q + blocks["m"].astype(np.float32)[:, None]
    excess = 16 if "high" in blocks.dtype.names else 8
    return d * (q.astype(np.int8) - np.int8(excess))


def nibbles(
    packed: UInt8[np.ndarray, "block group half"],
) -> UInt8[np.ndarray, "block group 2 half"]:
    """Four bits of each byte, then the other four: the lower ones of a group come first."""
    return np.stack([packed & 15, packed >> 4], axis=2)


def six_bits(
    packed: UInt8[np.ndarray, "block 3 4"],
) -> tuple[Int[np.ndarray, "block 8"], Int[np.ndarray, "block 8"]]:
    """Scales and minima of Q4_K's eight groups, six bits each.

    Groups 0 to 3 lie in the lower bits of bytes 0 to 3 (scales) and 4 to 7 (minima). Groups 4 to 7
    have four bits in bytes 8 to 11, scales below and minima above, and two in the others' tops.
    """
    scales, minima, rest = packed[:, 0], packed[:, 1], packed[:, 2]
    scale = np.concatenate([scales & 63, rest & 15 | scales >> 6 << 4], axis=1)
    minimum = np.concatenate([minima & 63, rest >> 4 | minima >> 6 << 4], axis=1)
    return scale, minimum
