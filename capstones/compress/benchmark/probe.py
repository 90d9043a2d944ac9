"""What this processor can do with small integers, and whether that made anything faster.

>>> verdict(20.0, 10.0), verdict(10.2, 10.0), verdict(2.0, 10.0)
('2.00 × float32: faster', '1.02 × float32: no faster', '0.20 × float32: slower')
"""

from pathlib import Path

import torch

# Instructions that int8 or bfloat16 kernels need to be fast, as Linux names them.
WANTED = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "asimddp")
MARGIN = 0.05  # of a ratio, for noise


def flags() -> dict[str, bool]:
    """Of each instruction set, whether the processor has it; empty where Linux does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    said = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    there = set(said.partition(":")[2].split())
    return {name: name in there for name in WANTED}


def probe() -> str:
    """One line: instruction sets that matter here, and what torch takes of them."""
    found = flags()
    there = ", ".join(name for name, has in found.items() if has) or "none that is known"
    absent = ", ".join(name for name, has in found.items() if not has and name != "asimddp")
    capability = torch.backends.cpu.get_cpu_capability()
    text = f"this processor has {there}; torch computes with {capability}"
    return text + (f"; it has no {absent}" if absent else "")


def verdict(per_second: float, of_float: float) -> str:
    """Whether a kernel is faster here than float32's, by what was measured."""
    ratio = per_second / of_float
    word = "no faster" if abs(ratio - 1) <= MARGIN else "faster" if ratio > 1 else "slower"
    return f"{ratio:.2f} × float32: {word}"
