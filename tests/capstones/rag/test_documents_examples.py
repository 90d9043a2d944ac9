"""The examples in the docstrings of the loaders and chunkers print what they say."""

import doctest
import importlib
import pkgutil

import pytest

from rag import documents

MODULES = [module.name for module in pkgutil.iter_modules(documents.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    found = doctest.testmod(importlib.import_module(f"rag.documents.{name}"))
    assert not found.failed
    assert found.attempted or name == "docx_text"  # whose input is no text
