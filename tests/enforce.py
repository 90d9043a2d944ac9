"""How tests see the weeks' functions: with every annotation enforced, or `plain`, as readers do."""

import importlib.util
import sys
import tomllib
from pathlib import Path
from types import ModuleType

from beartype import BeartypeConf, beartype

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CAPSTONES = sorted(path.parent.name for path in ROOT.glob("capstones/*/__init__.py"))
PACKAGES = [*CAPSTONES, *(f"week{p.parent.name}" for p in sorted(ROOT.glob("weeks/*/__init__.py")))]

# An int is allowed where a float is asked for, as everywhere in Python.
typechecker = beartype(conf=BeartypeConf(is_pep484_tower=True))


def plain(week: str, name: str) -> ModuleType:
    """A week's module without the shape contracts: scikit-learn's checks pass lists and more."""
    path = ROOT / "weeks" / week / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"plain{week}_{name}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where pickle looks for its classes
    spec.loader.exec_module(module)
    return module
