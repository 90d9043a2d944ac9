"""The task, the layer and the verdict rule of papers/2017-attention-is-all-you-need."""

import pytest
import torch
from test_scripts import load

from shared import records

paper = load(records.ROOT / "papers/2017-attention-is-all-you-need/reproduce.py")


# ---- the task


def test_worked_example():
    symbols = torch.tensor([[7, 3, 9, 3]])
    places = torch.tensor([[[1, 2], [2, 0], [3, 1], [0, 3]]])
    answers = torch.tensor([[[3, 9], [9, 7], [3, 3], [7, 3]]])
    assert torch.equal(paper.look_up(symbols, places), answers)


def test_two_places_differ_and_every_offset_occurs():
    _, places, _ = paper.make_batch(400, 2, torch.Generator().manual_seed(0))
    assert (places[..., 0] != places[..., 1]).all()
    offsets = (places - torch.arange(paper.LENGTH)[:, None]) % paper.LENGTH
    for k in range(2):
        share = torch.bincount(offsets[..., k].flatten(), minlength=paper.LENGTH) / 6400
        assert (share - 1 / paper.LENGTH).abs().max() < 0.015  # five standard errors


def test_three_lookups_are_refused():
    with pytest.raises(ValueError, match="n_lookups must be 1 or 2, got 3"):
        paper.make_batch(1, 3, torch.Generator())


# ---- the layer


def test_a_seed_gives_every_number_of_heads_the_same_start():
    one, many = (paper.train(h, n_lookups=2, seed=3, lr=1e-3, steps=0) for h in (1, 64))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), many.parameters(), strict=True))


def test_two_heads_by_hand_answer_everything_in_order():
    model = paper.two_heads_by_hand()
    assert paper.accuracy(model, seed=5, n=50).mean() == 1.0
    symbols, places, targets = paper.make_batch(4, 2, torch.Generator().manual_seed(0))
    answers = model(symbols, places).argmax(-1)
    assert torch.equal(answers, targets)
    assert torch.equal(model(symbols, places.flip(-1)).argmax(-1), targets.flip(-1))


def test_accuracy_asks_for_both_symbols():
    """Swapping the halves of the read-out answers in the wrong order: right only by coincidence."""
    model = paper.two_heads_by_hand()
    with torch.no_grad():
        model.read_out[0].weight.copy_(model.read_out[0].weight.roll(paper.N_SYMBOLS, 0))
    assert paper.accuracy(model, seed=5, n=200).mean() == pytest.approx(1 / 32, abs=0.02)
    half = paper.two_heads_by_hand()
    with torch.no_grad():
        half.read_out[0].weight[paper.N_SYMBOLS :] = 0
    assert paper.accuracy(half, seed=5, n=200).mean() == pytest.approx(1 / 32, abs=0.02)


def test_a_caption_s_loss_is_of_its_tokens_and_its_end_and_padding_is_not_counted():
    torch.manual_seed(0)
    learn, judge, n_words = paper.captions(120, 40)  # two batches of unequal sizes
    assert len(learn) == len(judge) == 120
    assert n_words > max(i for pair in learn for ids in pair for i in ids)
    model = paper.translator(n_words, d_model=32, n_heads=32, n_layers=1).eval()
    total, n = 0.0, 0
    for x, y in judge:
        source, target = paper.as_batch([(x, y)])  # alone, so nothing is padded
        log_p = model(source, target[:, :-1]).log_softmax(-1)[0]
        total -= log_p[range(len(y) + 1), target[0, 1:]].sum().item()
        n += len(y) + 1
    assert paper.nats_per_token(model, judge) == pytest.approx(total / n, rel=1e-5)


def test_translators_of_all_heads_have_as_many_parameters_and_the_same_start():
    def network(h):
        torch.manual_seed(3)
        return paper.translator(50, d_model=32, n_heads=h, n_layers=1)

    one, *others = (
        torch.nn.utils.parameters_to_vector(network(h).parameters()) for h in (1, 8, 32)
    )
    assert all(torch.equal(one, other) for other in others)


class _Told:
    """Stands for a run and a paper: keeps what is judged."""

    seed = 5

    def __init__(self):
        self.judged, self.seeds = {}, []

    def progress(self, rows, _):
        return rows

    def metric(self, *_, **__):
        pass

    def judge(self, _, name, values, **__):
        self.judged[name] = list(values)


def test_heads_are_compared_seed_by_seed_with_eight(monkeypatch):
    told = _Told()
    monkeypatch.setattr(paper, "captions", lambda *_: ([], [], 9))
    monkeypatch.setattr(paper, "translator", lambda _, n_heads, **__: torch.nn.Linear(n_heads, 1))
    monkeypatch.setattr(paper, "_figure_translation", lambda *_: None)

    def train(model, _, *, generator, **__):
        told.seeds.append(generator.initial_seed())

    monkeypatch.setattr(paper, "train_translator", train)
    loss = {1: 7.0, 4: 2.0, 8: 3.0, 32: 4.0}
    monkeypatch.setattr(
        paper, "nats_per_token", lambda model, _: loss[model.in_features] + 10 * told.seeds[-1]
    )
    paper.translation(told, told, networks=2, updates=1)
    assert told.seeds == [5] * 4 + [6] * 4
    assert told.judged == {
        "one head is worse in translation": [4.0, 4.0],
        "32 heads are worse in translation": [1.0, 1.0],
    }
