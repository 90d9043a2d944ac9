"""Which folders are packages: week folders are numbered NN, and Python imports them as weekNN."""

from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
TOP = {"shared": "shared"}
TOP |= {
    f"week{path.parent.name}": f"weeks/{path.parent.name}"
    for path in sorted(ROOT.glob("weeks/*/__init__.py"))
}
TOP |= {
    path.parent.name: f"capstones/{path.parent.name}"
    for path in sorted(ROOT.glob("capstones/*/__init__.py"))
}
PACKAGES = [
    ".".join([name, *inner.parent.relative_to(ROOT / folder).parts])
    for name, folder in TOP.items()
    for inner in sorted((ROOT / folder).rglob("__init__.py"))
]

setup(packages=PACKAGES, package_dir=TOP)
