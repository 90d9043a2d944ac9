"""Task, arms and alignments of papers/2014-bahdanau-attention."""

import numpy as np
import pytest
import torch
from test_scripts import load

from shared import records
from shared.datasets import multi30k
from week11.bleu import counts

paper = load(records.ROOT / "papers/2014-bahdanau-attention/reproduce.py")


def test_strings_are_reversed_in_another_alphabet():
    source, target = paper.strings(5, 7, torch.Generator().manual_seed(0))
    pairs = {
        (a, b)
        for x, y in zip(source.tolist(), target.tolist(), strict=True)
        for a, b in zip(x[::-1], y, strict=True)
    }
    assert len({a for a, _ in pairs}) == len(pairs) == len({b for _, b in pairs})
    assert source.min() >= paper.FIRST
    assert target.max() < paper.VOCAB


def test_the_decoder_does_not_read_what_it_must_write():
    target = torch.tensor([[4, 5, 6]])
    assert paper.inputs(target).tolist() == [[paper.BOS, 4, 5]]


def test_arms_have_nearly_as_many_parameters_in_use():
    used = {arm: paper.in_use(paper.network(arm, 0)) for arm in ("attention", "no attention")}
    assert abs(used["attention"] / used["no attention"] - 1) < 0.02
    model = paper.network("no attention", 0)  # what is counted out has no gradient
    source, target = paper.strings(2, 5, torch.Generator().manual_seed(0))
    model(source, torch.full((2,), 5), target)[0].sum().backward()
    dead = sum(int((p.grad == 0).sum()) for p in model.parameters() if p.grad is not None)
    unseen = sum(
        int((e.grad == 0).sum())
        for e in (model.source_embedding.weight, model.target_embedding.weight)
    )
    total = sum(p.numel() for p in model.parameters())
    assert total - paper.in_use(model) == dead - unseen


def test_caption_networks_have_nearly_as_many_parameters_in_use():
    words = paper.Captions(multi30k("train"), least=5)
    sizes, scores = {"d_model": 64}, {"attention": "additive", "no attention": "none"}
    used = [
        paper.used_of_captions(words.network(score=scores[arm], hidden_size=width, **sizes))
        for arm, width in paper.CAPTION_WIDTHS.items()
    ]
    assert abs(used[0] / used[1] - 1) < 0.02


class _Told:
    """Stands for a run and a paper: keeps what is judged."""

    seed = 0

    def __init__(self):
        self.judged, self.metrics, self.rng = {}, {}, np.random.default_rng(0)

    def budget(self, *, quick, default):
        return quick

    def progress(self, rows, _):
        return rows

    def generator(self):
        return torch.Generator()

    def say(self, _):
        pass

    def metric(self, name, value, *_, **__):
        self.metrics[name] = value

    def judge(self, _, name, values, **__):
        self.judged[name] = values

    def falsifier(self, name, values, **__):
        self.judged[name] = values


def test_captions_are_judged_by_the_length_of_what_is_read(monkeypatch):
    def by_length(written, references):
        """The first network is always right, the second where the English is short."""
        told.calls += 1
        right = [told.calls == 1 or len(text.split()) <= 12 for text in references]
        return counts(
            [r if ok else "x" for r, ok in zip(references, right, strict=True)], references
        )

    told = _Told()
    told.calls = 0
    monkeypatch.setattr(paper, "train_on_captions", lambda *_, **__: [1.0])
    monkeypatch.setattr(paper, "write", lambda _, sources: [[2] for _ in sources])
    monkeypatch.setattr(paper, "counts", by_length)
    monkeypatch.setattr(paper, "draw_captions", lambda *_: None)
    paper.captions(told, told)
    sizes = [value for name, value in told.metrics.items() if name.startswith("captions of ")]
    assert sum(sizes) == 247  # each tenth caption is in one bin
    grows = told.judged["on captions the gap grows with length"]
    assert grows.low > 50
    assert grows.n == sizes[0] + sum(sizes[3:])
    assert abs(told.judged["lengths of other captions"].mean) < grows.low


def test_equal_weights_are_equal_and_know_padding():
    model = paper.network("equal weights", 0)
    memory, keep = torch.randn(2, 3, 128), torch.tensor([[True, True, True], [True, False, False]])
    context, weights = model.attention(torch.randn(2, 64), memory[..., :64], memory, keep)
    torch.testing.assert_close(weights, torch.tensor([[1 / 3] * 3, [1.0, 0.0, 0.0]]))
    torch.testing.assert_close(context[1], memory[1, 0])


def test_alignment_of_a_map_that_reads_backwards(monkeypatch):
    model = paper.network("attention", 0).eval()
    backwards = torch.eye(4).flip(0)[None].expand(3, -1, -1)
    monkeypatch.setattr(model, "forward", lambda *_: (None, backwards))
    share, near, entropy, weights = paper.alignment(model, 4, 3)
    assert (share, near, entropy) == (100.0, 100.0, 0.0)
    assert torch.equal(weights, backwards[0])
    monkeypatch.setattr(model, "forward", lambda *_: (None, torch.eye(4).expand(3, -1, -1)))
    assert paper.alignment(model, 4, 3)[:2] == (0.0, 50.0)  # off by 3, 1, 1 and 3


def test_accuracy_counts_what_the_network_writes(monkeypatch):
    _, target = paper.strings(4, 6, torch.Generator().manual_seed(10**6 + 6))
    half = target.clone()
    half[:, :3] = 0
    monkeypatch.setattr(paper, "greedy_decode", lambda *_, **__: half)
    assert paper.accuracy(None, (6,), 4).tolist() == [50.0]


def test_wrong_input():
    with pytest.raises(ValueError, match="arm must be one of attention, no attention"):
        paper.network("lstm", 0)
