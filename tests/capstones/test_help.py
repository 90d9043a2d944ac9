"""What a program says of itself stands on the terminal as it stands in its docstring."""

import importlib

import pytest


@pytest.mark.parametrize("name", ["compress", "llm_eval", "rag", "serving", "tiny_gpt"])
def test_help_keeps_the_lines_of_the_docstring(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    cli = importlib.import_module(f"{name}.cli")
    assert cli.main(["--help"]) == 0
    said = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    title, *lines = cli.__doc__.strip().splitlines()
    assert title[:60] in "".join(said)
    for line in lines:
        assert line in said
