"""Codes of llm-compressor's GPTQ, which needs an older torch than the log, for our own to equal.

    uv run --no-project --with llmcompressor==0.14.0.1 tests/llm_compressor.py

writes `llm_compressor.json` anew. Without that library the module only says what was quantized.
"""

import json
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).with_suffix(".json")
ROWS, COLUMNS, GROUP = 12, 64, 16
CASES = [
    {"bits": bits, "symmetric": symmetric, "act_order": act_order, "block_size": block_size}
    for bits, symmetric, act_order, block_size in [
        (4, True, False, 128),
        (4, False, False, 16),
        (3, True, True, 128),
        (4, False, True, 32),
    ]
]


def matter():
    """Weights, and the Hessian of inputs that are far from independent."""
    generator = np.random.default_rng(0)
    w = generator.normal(size=(ROWS, COLUMNS))
    x = generator.normal(size=(300, COLUMNS)) @ generator.normal(size=(COLUMNS, COLUMNS))
    return w.astype(np.float32), (x.T @ x / len(x)).astype(np.float32)


def main():
    """Scales by our own rule of week 19, codes by theirs."""
    import llmcompressor
    import torch
    from compressed_tensors.quantization import QuantizationArgs
    from llmcompressor.modifiers.gptq.gptq_quantize import quantize_weight

    found = {"llmcompressor": llmcompressor.__version__, "codes": []}
    for case in CASES:
        w, h = (torch.from_numpy(part) for part in matter())
        bits, symmetric = case["bits"], case["symmetric"]
        low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
        groups = w.unflatten(1, (-1, GROUP))
        least, most = groups.amin(-1), groups.amax(-1)
        if symmetric:
            scale = torch.maximum(least.abs(), most.abs()) / ((high - low) / 2)
            zero = torch.zeros_like(scale)
        else:
            least, most = least.clamp(max=0), most.clamp(min=0)
            scale = (most - least) / (high - low)
            zero = low - torch.round(least / scale)
        arguments = QuantizationArgs(
            num_bits=bits,
            symmetric=symmetric,
            strategy="group",
            group_size=GROUP,
            actorder="weight" if case["act_order"] else None,
        )
        theirs, _, fallback = quantize_weight(
            w[None].clone(),
            h[None].clone(),
            scale[None],
            zero[None],
            None,
            arguments,
            blocksize=case["block_size"],
        )
        assert not fallback.any()
        wide = [part.repeat_interleave(GROUP, 1) for part in (scale, zero)]
        codes = torch.round(theirs[0] / wide[0] + wide[1])
        found["codes"].append(codes.int().tolist())
    GOLDEN.write_text(json.dumps(found, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
