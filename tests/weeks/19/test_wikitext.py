"""Windows of a text, and what stands in for the real model."""

import pytest
import torch

from shared import pretrained
from shared.errors import UserError
from week18.llama3 import Llama, LlamaConfig
from week19 import wikitext
from week19.characters import Text
from week19.layer_inputs import quantized_losses


def test_windows_are_spread_and_do_not_overlap():
    tokens = torch.arange(101)
    found = wikitext.windows(tokens, 4, 20, skip=10)
    assert found.shape == (4, 20)
    assert found[:, 0].tolist() == [10, 32, 54, 76]
    assert len(found.unique()) == 80
    with pytest.raises(ValueError, match="tokens must hold 4 windows of 26"):
        wikitext.windows(tokens, 4, 26)


def test_without_the_package_a_small_model_takes_its_place(monkeypatch):
    def missing():
        raise UserError("the weights are missing")

    small = Llama(LlamaConfig(97, 16, 1, 2))
    monkeypatch.setattr(wikitext, "smollm2", missing)
    monkeypatch.setattr(wikitext, "trained_model", lambda *size: small)
    found = wikitext.language_model(2, 3, context=8)
    assert found.model is small
    assert found.name == "a small model (the weights are missing)"
    assert (found.calibration.shape, found.texts.shape) == ((2, 8), (3, 8))


def test_calibration_and_judging_do_not_share_text(monkeypatch):
    read = []

    class Tokenizer:
        def encode(self, text):
            return list(range(len(text)))

    def part(name):
        read.append(name)
        return "x" * 200_000

    monkeypatch.setattr(wikitext, "smollm2", lambda: (None, Tokenizer()))
    monkeypatch.setattr(wikitext.datasets, "wikitext2", part)
    wikitext.language_model(2, 3, context=8)
    assert read == ["valid", "test"]


def test_texts_must_be_as_long_as_calibration():
    model = Llama(LlamaConfig(7, 8, 1, 2))
    tokens = torch.zeros(2, 5, dtype=torch.long)
    with pytest.raises(ValueError, match=r"texts must be integers of shape \(window, n = 4\)"):
        quantized_losses(model, tokens[:, :4], tokens, {})


def test_the_package_is_found():
    assert pretrained.smollm2().exists()


def test_added_losses_are_judged_by_a_text_that_no_method_has_read(monkeypatch):
    read = []

    def losses(model, calibration, judged, methods):
        read.append((calibration, judged))
        return {name: torch.tensor([i + 1.0, i + 3.0]) for i, name in enumerate(methods)}

    text = Text(torch.arange(5000), torch.arange(5000, 9000), "")
    monkeypatch.setattr(wikitext, "manual", lambda: text)
    monkeypatch.setattr(wikitext, "trained_model", lambda *size: None)
    monkeypatch.setattr(wikitext, "quantized_losses", losses)
    methods = dict.fromkeys(("a", "b"), lambda block, inputs: None)
    start, found = wikitext.added_losses(1, 5, 3, methods)
    assert (start, found) == (2.0, {"a": 1.0, "b": 2.0})
    ((calibration, judged),) = read
    assert calibration.shape == judged.shape == (3, 64)
    assert 1000 == calibration.min() <= calibration.max() < 5000 <= judged.min()
