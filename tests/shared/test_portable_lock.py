"""The committed lock file: versions and dependencies, no address of any index."""

import re
import subprocess
import sys
import tomllib

import pytest
from enforce import PYPROJECT, ROOT
from hypothesis import given
from hypothesis import strategies as st

from shared.portable_lock import portable

LOCK = """\
version = 1
revision = 3
requires-python = ">=3.11"
resolution-markers = [
    "python_full_version >= '3.14'",
]

[[package]]
name = "color"
version = "0.5"
source = { registry = "https://mirror.example/simple" }
sdist = { url = "https://mirror.example/color-0.5.tar.gz", hash = "sha256:00", size = 9 }
wheels = [
    { url = "https://mirror.example/color-0.5[a]-py3-none-any.whl", hash = "sha256:01", size = 8 },
]

[[package]]
name = "project"
version = "1.0"
source = { editable = "." }
dependencies = [
    { name = "color" },
    { name = "paint", version = "2", source = { registry = "https://mirror.example/simple" }, marker = "sys_platform == 'win32'" },
]

[package.optional-dependencies]
extra = [
    { name = "brush" },
]

[package.dev-dependencies]
dev = [
    { name = "easel" },
]

[package.metadata]
requires-dist = [
    { name = "color", specifier = ">=0.5" },
]

[package.metadata.requires-dev]
dev = [{ name = "easel" }]

[[package]]
name = "paint"
version = "2"
source = { registry = "../mirror/simple" }
wheels = []
"""  # noqa: E501


def test_addresses_go_and_the_rest_stays():
    lock = portable(LOCK)
    assert "://" not in lock
    assert "mirror" not in lock
    before, after = tomllib.loads(LOCK), tomllib.loads(lock)
    assert after.keys() == before.keys()
    assert after["resolution-markers"] == before["resolution-markers"]
    color, project, paint = after["package"]
    assert color == {"name": "color", "version": "0.5", "source": {"registry": "."}}
    assert paint == {"name": "paint", "version": "2", "source": {"registry": "."}}
    assert project == {
        "name": "project",
        "version": "1.0",
        "source": {"editable": "."},
        "dependencies": [
            {"name": "color"},
            {
                "name": "paint",
                "version": "2",
                "source": {"registry": "."},
                "marker": "sys_platform == 'win32'",
            },
        ],
        "optional-dependencies": {"extra": [{"name": "brush"}]},
        "dev-dependencies": {"dev": [{"name": "easel"}]},
    }


def test_twice_is_once():
    assert portable(portable(LOCK)) == portable(LOCK)
    assert portable(LOCK.replace("\n", "\r\n")) == portable(LOCK)


@given(st.lists(st.sampled_from(LOCK.splitlines()), max_size=40))
def test_twice_is_once_whatever_the_lines(lines):
    once = portable("\n".join(lines))
    assert portable(once) == once


def committed():
    done = subprocess.run(
        ["git", "-C", str(ROOT), "show", ":uv.lock"], capture_output=True, check=False
    )
    if done.returncode == 0:
        return done.stdout.decode()
    return portable((ROOT / "uv.lock").read_text(encoding="utf-8"))


def test_committed_lock_is_portable():
    lock = committed()
    assert portable(lock) == lock
    assert "://" not in lock
    assert set(re.findall(r"source = \{ (.*?) \}", lock)) == {'registry = "."', 'editable = "."'}
    assert not re.search(r"^(sdist|wheels|hash|url) =", lock, re.M)


def named(requirements):
    return {re.match(r"[\w.-]+", requirement)[0].lower() for requirement in requirements}


def test_committed_lock_holds_every_dependency():
    packages = {package["name"]: package for package in tomllib.loads(committed())["package"]}
    own = packages["ml-studies"]
    project, groups = PYPROJECT["project"], PYPROJECT["dependency-groups"]
    assert {entry["name"] for entry in own["dependencies"]} == named(project["dependencies"])
    for group, requirements in groups.items():
        assert {entry["name"] for entry in own["dev-dependencies"][group]} == named(requirements)
    for package in packages.values():
        for entry in package.get("dependencies", []):
            assert entry["name"] in packages, f"{package['name']} needs {entry['name']}"


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_as_a_filter(newline):
    """As git runs it: bytes in, bytes out, the same on every system."""
    done = subprocess.run(
        [sys.executable, ROOT / "shared" / "portable_lock.py"],
        input=LOCK.replace("color", "café").replace("\n", newline).encode(),
        capture_output=True,
        check=True,
    )
    assert done.stdout == portable(LOCK.replace("color", "café")).encode()
