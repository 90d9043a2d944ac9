"""The classifier: padding, frozen bodies, a step against torch, what is learned and forgotten."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from week11.batches import pad
from week14.bert import Bert, BertConfig
from week14.evidence.finetune_classifier import shuffled
from week14.finetune_classifier import (
    GPT,
    GPTConfig,
    SentenceClassifier,
    features,
    predict,
    train,
)


def body_of(kind, seed=0):
    generator = torch.Generator().manual_seed(seed)
    if kind == "gpt":
        return GPT(GPTConfig(30, context=12, n_layers=1, n_heads=2, d_model=16), generator)
    return Bert(BertConfig(30, n_layers=1, n_heads=2, d_model=16, context=12), generator)


ROWS = [[5, 6, 7], [8, 9], [5, 7], [9, 8, 8, 9], [6, 5], [9, 9]]
G = torch.Generator()
LABELS = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0, 0.0])
sentences = st.lists(st.lists(st.integers(1, 29), min_size=1, max_size=12), min_size=1, max_size=5)


@pytest.mark.parametrize("kind", ["gpt", "bert"])
@settings(max_examples=10)
@given(rows=sentences)
def test_padding_and_company_change_nothing(kind, rows):
    model = SentenceClassifier(body_of(kind)).double()
    model.out_proj.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    together = model(*pad(rows, 0))
    alone = torch.cat([model(*pad([row], 0)) for row in rows])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("kind", ["gpt", "bert"])
def test_features_keep_the_order_of_the_rows(kind):
    model = SentenceClassifier(body_of(kind))
    found = features(model, ROWS)
    for row, feature in zip(ROWS, found, strict=True):
        torch.testing.assert_close(feature, features(model, [row])[0])


@pytest.mark.parametrize("kind", ["gpt", "bert"])
def test_it_learns_and_a_frozen_body_stays(kind):
    for lr in (0.0, 1e-3):
        body = body_of(kind)
        before = copy.deepcopy(body.state_dict())
        model = SentenceClassifier(body)
        options = {"generator": torch.Generator().manual_seed(0), "lr": lr, "head_lr": 0.05}
        losses = train(model, ROWS, LABELS, epochs=60, **options)
        assert losses[0] == pytest.approx(0.6931, abs=1e-3)  # the head starts at zero: ln 2
        assert losses[-1] < 0.6 * losses[0]
        assert ((predict(model, ROWS) > 0).float() == LABELS).all()
        same = all(torch.equal(p, before[name]) for name, p in body.state_dict().items())
        assert same == (lr == 0.0)


def test_the_first_step_is_torchs_adamw():
    """Steps of one batch: warm-up over by then, rates of body and head apart, no decay on gains."""
    ours = SentenceClassifier(body_of("bert")).double()
    theirs = copy.deepcopy(ours)
    generator = torch.Generator().manual_seed(0)
    train(ours, ROWS, LABELS.double(), epochs=3, lr=1e-3, generator=generator, weight_decay=0.1)
    body = [*theirs.body.parameters()]
    groups = [
        {"params": [p for p in body if p.ndim == 2], "lr": 1e-3, "weight_decay": 0.1},
        {"params": [p for p in body if p.ndim == 1], "lr": 1e-3, "weight_decay": 0.0},
        {"params": [*theirs.out_proj.parameters()], "lr": 1e-2, "weight_decay": 0.0},
    ]
    library = torch.optim.AdamW(groups)
    peaks = [group["lr"] for group in groups]
    for step in range(3):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            theirs(*pad(ROWS, 0)), LABELS.double()
        )
        library.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        for group, peak in zip(library.param_groups, peaks, strict=True):
            group["lr"] = peak * (3 - step) / 3
        library.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-8, rtol=1e-6)


def test_the_control_keeps_the_labels_and_loses_their_order():
    label = {"train": np.arange(40) % 2, "dev": np.arange(3)}
    found = shuffled(label, seed=0)
    assert sorted(found["train"]) == sorted(label["train"])
    assert (found["train"] != label["train"]).sum() > 8
    assert found["dev"] is label["dev"]


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda m: train(m, ROWS, LABELS[:2], epochs=1, lr=0.1, generator=G), "labels must be"),
        (lambda m: train(m, [], LABELS[:0], epochs=1, lr=0.1, generator=G), "labels must be"),
        (lambda m: train(m, ROWS, LABELS, epochs=0, lr=0.1, generator=G), "epochs must be at"),
        (lambda m: train(m, ROWS, LABELS, epochs=1, lr=-1, generator=G), "lr must be at least"),
        (lambda m: predict(m, [[1] * 13]), "tokens must be at most context = 12 long, got 13"),
    ],
)
def test_bad_input_is_named(call, match):
    with pytest.raises(ValueError, match=match):
        call(SentenceClassifier(body_of("bert")))
