"""How much memory SmolLM2 takes, in a process that does nothing else.

>>> sorted(stages(lambda: {"resident": 1.0}, {"a": lambda: None, "b": lambda: None}))
['a', 'b']
"""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from shared.errors import UserError

STATUS = Path("/proc/self/status")
FIELDS = {"resident": "VmRSS", "private": "RssAnon", "peak": "VmHWM"}
Memory = dict[str, float]


def now() -> Memory:
    """MiB of this process: resident, of them private (no file's pages), and most so far."""
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return {name: int(lines[field].split()[0]) / 1024 for name, field in FIELDS.items()}


def stages(
    measure: Callable[[], Memory], steps: Mapping[str, Callable[[], object]]
) -> dict[str, Memory]:
    """What is measured after each step; what the steps return is kept until the end."""
    found, kept = {}, []
    for name, step in steps.items():
        kept.append(step())
        found[name] = measure()
    return found


def smollm2_alone() -> dict[str, Memory]:
    """Memory after importing torch, the tokenizer, the model, and a pass over eight tokens.

    Raises
    ------
    UserError
        If the system does not say how much memory a process has.
    """
    if not STATUS.exists():
        raise UserError(f"{STATUS} is not there; memory is measured on Linux only")
    command = [sys.executable, "-m", "week18.evidence.memory"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Print the stages of this process as JSON."""
    import torch

    found = {"torch": now()}
    from shared import pretrained
    from week18.gguf_file import GGUF
    from week18.gguf_tokenizer import GGUFTokenizer
    from week18.pretrained import load_pretrained

    path = pretrained.smollm2()
    model: list[torch.nn.Module] = []
    tokens = torch.arange(8)[None]
    with torch.inference_mode():
        steps = {
            "tokenizer": lambda: GGUFTokenizer.from_gguf(GGUF.open(path)),
            "model": lambda: model.append(load_pretrained(path)),
            "in use": lambda: model[0](tokens),
        }
        found |= stages(now, steps)
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
