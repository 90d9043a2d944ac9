"""CLIP's and SigLIP's losses and towers: transformers', closed forms, and what must not matter."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, top_k_accuracy_score

from week25 import siglip
from week25.clip import (
    Clip,
    ImageTower,
    TextTower,
    class_vectors,
    contrastive_loss,
    first_end,
    recall,
    sigmoid_loss,
    train_step,
    zero_shot,
)
from week25.vision_twins import clip_twin, matched, randomize, siglip_twin, vision_twin

SEEDS = st.integers(0, 10_000)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def new_clip(seed=0, **options):
    model = Clip(ImageTower(8, 4, 12, 2, 1, 6), TextTower(20, 8, 16, 2, 1, 6), gen(seed), **options)
    randomize(model, seed=seed).log_scale.data.fill_(1.0)
    return model


def texts(n, seq, seed=0):
    tokens = torch.randint(3, 20, (n, seq), generator=gen(seed))
    tokens[:, -1] = 1
    return tokens


# ---- losses


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 9), SEEDS)
def test_contrastive_loss_is_the_mean_of_two_log_losses(n, seed):
    logits = torch.randn(n, n, generator=gen(seed), dtype=torch.double)
    labels = np.arange(n)
    if n == 1:
        assert contrastive_loss(logits) == 0
        return
    rows, columns = (part.softmax(-1).numpy() for part in (logits, logits.T))
    expected = (
        log_loss(labels, rows, labels=labels) + log_loss(labels, columns, labels=labels)
    ) / 2
    assert contrastive_loss(logits).item() == pytest.approx(expected, rel=1e-9)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 9), SEEDS)
def test_sigmoid_loss_is_that_of_each_pair_alone(n, seed):
    logits = torch.randn(n, n, generator=gen(seed), dtype=torch.double)
    expected = (
        F.binary_cross_entropy_with_logits(logits, torch.eye(n).double(), reduction="sum") / n
    )
    assert sigmoid_loss(logits).item() == pytest.approx(expected.item(), rel=1e-9)


def test_another_order_of_the_pairs_changes_nothing_but_of_captions_alone_it_does():
    logits, order = torch.randn(6, 6, generator=gen()), torch.randperm(6, generator=gen(1))
    for loss in (contrastive_loss, sigmoid_loss):
        assert torch.allclose(loss(logits), loss(logits[order][:, order]))
        assert not torch.allclose(loss(logits), loss(logits[:, order]))
        assert torch.allclose(loss(logits), loss(logits.T.contiguous()))


def test_losses_want_a_square():
    for loss in (contrastive_loss, sigmoid_loss):
        with pytest.raises(ValueError, match="logits must be floats of shape"):
            loss(torch.zeros(3, 4))


# ---- towers


@settings(deadline=None, max_examples=4)
@given(st.integers(1, 5), st.integers(2, 8), SEEDS)
def test_clip_is_that_of_transformers(n, seq, seed):
    ours = new_clip(seed)
    theirs = clip_twin(ours, 8)
    images, tokens = torch.randn(n, 3, 8, 8, generator=gen(seed)), texts(n, seq, seed)
    tokens[0, seq // 2] = 1  # an end before the end
    out = theirs(input_ids=tokens, pixel_values=images, return_loss=True)
    logits = ours(images, tokens)
    loss = contrastive_loss(logits)
    assert torch.allclose(logits, out.logits_per_image, atol=1e-5)
    assert torch.allclose(loss, out.loss, atol=1e-5)
    (loss + logits.sum()).backward()
    (out.loss + out.logits_per_image.sum()).backward()
    for parts, p in matched(ours, theirs):
        grad = torch.cat([q.grad.flatten() for q in parts]).view_as(p)
        assert torch.allclose(grad, p.grad, atol=1e-4)


def test_siglip_is_that_of_transformers():
    sizes = {"d_model": 12, "n_heads": 2, "n_layers": 1, "d_ff": 20}
    image = siglip.ImageHead(siglip.VisionTower(side=8, patch=4, **sizes), 2, 20)
    text = siglip.TextTower(vocab_size=20, context=7, **sizes)
    ours = randomize(Clip(image, text, gen(), bias=-10.0)).double()
    theirs = siglip_twin(ours).double()
    images, tokens = torch.randn(4, 3, 8, 8, generator=gen()).double(), texts(4, 7)
    out = theirs(input_ids=tokens, pixel_values=images, return_loss=True)
    logits = ours(images, tokens)
    assert torch.allclose(logits, out.logits_per_image, rtol=0, atol=1e-8)
    assert torch.allclose(sigmoid_loss(logits), out.loss, rtol=0, atol=1e-8)
    tower, twin = image[0], vision_twin(image[0]).double()
    assert torch.allclose(tower(images), twin(images).last_hidden_state, rtol=0, atol=1e-8)


def test_a_model_that_is_not_theirs_has_no_twin():
    ours, theirs = new_clip(), clip_twin(new_clip(), 8)
    ours.extra = torch.nn.Parameter(torch.zeros(1))
    with pytest.raises(ValueError, match="names differ"):
        matched(ours, theirs)


def test_siglip_texts_are_padded_to_the_length_of_training():
    tower = siglip.TextTower(vocab_size=20, context=7, d_model=12, n_heads=2, n_layers=1, d_ff=20)
    with pytest.raises(ValueError, match="tokens must be padded to context = 7"):
        tower(texts(2, 6))


def test_what_follows_the_first_end_does_not_matter_and_one_must_be_there():
    tower = randomize(TextTower(20, 8, 16, 2, 2, 6))
    tokens = torch.tensor([[5, 6, 1, 0, 0, 0], [5, 6, 1, 1, 9, 1], [5, 6, 1, 19, 2, 3]])
    found = tower(tokens)
    assert torch.allclose(found, found[:1].expand(3, 6), atol=1e-6)
    assert torch.allclose(tower(tokens[:1, :3]), found[:1], atol=1e-6)
    assert first_end(tokens, 1).tolist() == [2, 2, 2]
    must = r"tokens must contain the end 1 in each row, got none in rows \[1, 2\]"
    with pytest.raises(ValueError, match=must):
        tower(torch.tensor([[5, 1], [5, 5], [7, 7]]))
    with pytest.raises(ValueError, match="tokens must be at most context = 8 long, got 9"):
        tower(texts(2, 9))


def test_pictures_and_texts_do_not_know_the_rest_of_their_batch():
    model = new_clip(3)
    images, tokens = torch.randn(5, 3, 8, 8, generator=gen()), texts(5, 6)
    whole = model(images, tokens)
    alone = torch.cat([model(images[i : i + 1], tokens) for i in range(5)])
    assert torch.allclose(whole, alone, atol=1e-5)


def test_logits_are_scaled_cosines_and_lengths_do_not_matter():
    model = new_clip()
    u, v = torch.randn(3, 6, generator=gen()), torch.randn(4, 6, generator=gen(1))
    logits = model.logits(u, v)
    assert torch.allclose(logits, model.logits(5 * u, 0.1 * v), atol=1e-5)
    assert logits.abs().max() <= math.e + 1e-5
    assert torch.allclose(model.logits(u, u).diagonal(), torch.tensor(math.e).expand(3))


def test_the_scale_is_clipped_after_the_step_and_it_is_learned():
    model = new_clip()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model.log_scale.item()
    images, tokens = torch.randn(5, 3, 8, 8, generator=gen()), texts(5, 6)
    train_step(model, optimizer, images, tokens)
    assert model.log_scale.item() != before
    model.log_scale.data.fill_(9.0)
    train_step(model, torch.optim.SGD(model.parameters(), lr=1e-9), images, tokens)
    assert model.log_scale.item() == pytest.approx(math.log(100))


# ---- use


class Looked(torch.nn.Module):
    """An image tower that knows its answer."""

    def __init__(self, vectors):
        super().__init__()
        self.vectors = vectors

    def forward(self, _):
        return self.vectors


@settings(deadline=None, max_examples=20)
@given(st.integers(3, 8), SEEDS)
def test_recall_is_top_k_accuracy(n, seed):
    similarity = torch.randn(n, n, generator=gen(seed))
    for k in range(1, n):
        expected = top_k_accuracy_score(np.arange(n), similarity.numpy(), k=k, labels=np.arange(n))
        assert recall(similarity, k) == pytest.approx(expected)
    assert recall(similarity, n) == 1


def test_recall_gives_ties_no_credit_and_wants_a_k_that_there_is():
    assert recall(torch.zeros(4, 4), 1) == 0
    with pytest.raises(ValueError, match="k must be between 1 and n = 4, got 5"):
        recall(torch.zeros(4, 4), 5)


def test_an_ensemble_is_the_mean_of_directions():
    model = new_clip()
    prompts = [texts(3, 5, seed) for seed in (1, 2)]
    vectors = class_vectors(model, prompts)
    assert torch.allclose(vectors.norm(dim=-1), torch.ones(3))
    directions = torch.stack([F.normalize(model.text(p), dim=-1) for p in prompts])
    assert torch.allclose(F.cosine_similarity(vectors, directions.mean(0)), torch.ones(3))
    model.image = Looked(3 * vectors[[2, 0, 1]])
    assert zero_shot(model, torch.zeros(3, 3, 8, 8), prompts).tolist() == [2, 0, 1]


def test_towers_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="patch must divide side = 8, got 3"):
        ImageTower(8, 3, 12, 2, 1, 6)
    tower = siglip.VisionTower(side=8, patch=4, d_model=12, n_heads=2, n_layers=1, d_ff=20)
    with pytest.raises(ValueError, match=r"images must have sides of 8, got \(12, 12\)"):
        tower(torch.zeros(1, 3, 12, 12))
