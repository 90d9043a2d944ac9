"""How tests see the weeks' functions: with every annotation enforced, or `plain`, as readers do."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from beartype import BeartypeConf, beartype

# An int is allowed where a float is asked for, as everywhere in Python.
typechecker = beartype(conf=BeartypeConf(is_pep484_tower=True))


def plain(week: str, name: str) -> ModuleType:
    """A week's module without the shape contracts: scikit-learn's checks pass lists and more."""
    path = Path(__file__).resolve().parents[1] / "weeks" / week / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"plain{week}_{name}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where pickle looks for its classes
    spec.loader.exec_module(module)
    return module
