"""Encoder, decoder and the whole of PaliGemma 2 beside transformers', and answers with a cache."""

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from shared.study import Run
from week25.evidence.same_steps import side_by_side
from week25.gemma2 import Gemma2, Gemma2Config
from week25.paligemma2 import IGNORED, PaliGemma2, prefix_mask
from week25.siglip import VisionTower
from week25.vision_twins import gemma_twin, paligemma_twin, randomize, vision_twin

# Caps and windows so small that they matter, and a scale of queries that is no head's size.
TIGHT = {"attention_cap": 3.0, "final_cap": 4.0, "query_scalar": 10, "head_dim": 6}


def check_vision(run: Run) -> None:
    """A token for each patch, as `SiglipVisionModel` gives."""
    ours = randomize(
        VisionTower(side=12, patch=4, d_model=24, n_heads=3, n_layers=2, d_ff=40), seed=run.seed
    )
    images = torch.randn(5, 3, 12, 12, generator=run.generator())

    def way(model):
        out = model(images)
        out = getattr(out, "last_hidden_state", out)
        return out, out.square().mean()

    side_by_side(run, "SiglipVisionModel", ours, vision_twin(ours), way, way)


def check_gemma(run: Run) -> None:
    """A text longer than the window; id 0, whose row transformers never trains, is left out."""
    config = Gemma2Config(31, 24, n_layers=3, n_kv_heads=2, d_ff=40, window=5, **TIGHT)
    ours = randomize(Gemma2(config, run.generator()), seed=run.seed)
    tokens = torch.randint(1, 31, (3, 20), generator=run.generator())

    def loss(logits):
        return logits, F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())

    side_by_side(
        run,
        "Gemma2ForCausalLM",
        ours,
        gemma_twin(ours),
        lambda model: loss(model(model.embed(tokens))),
        lambda model: loss(model(tokens).logits),
    )


def check_paligemma(run: Run) -> None:
    """Questions and answers of unequal lengths, padded; then answers word by word."""
    g = run.generator()
    sizes = {"d_vision": 24, "d_model": 32, "n_layers": 2, "window": 7} | TIGHT
    ours = randomize(PaliGemma2.small(40, g, **sizes), seed=run.seed)
    theirs = paligemma_twin(ours)
    images = torch.randn(3, 3, 16, 16, generator=g)
    tokens = torch.randint(3, 39, (3, 12), generator=g)
    prefix, real, at = torch.tensor([4, 6, 2]), torch.tensor([12, 9, 7]), torch.arange(12)
    answer, there = at >= prefix[:, None], at < real[:, None]
    given = {
        "input_ids": beside(39, tokens),
        "pixel_values": images,
        "token_type_ids": beside(0, answer.long()),
        "attention_mask": beside(1, there.long()),
        "labels": beside(IGNORED, tokens.masked_fill(~(answer & there), IGNORED)),
    }

    def our_way(model):
        logits = model(images, tokens, prefix, real)
        return logits[there], model.loss(images, tokens, prefix, real)

    def their_way(model):
        out = model(**given)
        return out.logits[:, 16:][there], out.loss

    words, n = tokens[:, :4], 6
    asked = {name: given[name][:, :20] for name in ("input_ids", "attention_mask")}
    asked |= {"pixel_values": images, "token_type_ids": torch.zeros(3, 20, dtype=torch.long)}
    options = {"max_new_tokens": n, "do_sample": False, "eos_token_id": 1, "pad_token_id": 1}
    expected = F.pad(theirs.generate(**asked, **options)[:, 20:], (0, n), value=1)[:, :n]
    found = ours.answer(images, words, n, end=1)
    name = "transformers' PaliGemmaForConditionalGeneration"
    run.check("answers word by word", found, expected, against=name, why="the same tokens")
    again = ours.answer(images, words, n, end=1, cached=False)
    same = {"against": "without a cache", "kind": "consistency", "why": "the same tokens"}
    run.check("answers with a cache", found, again, **same)
    side_by_side(run, "PaliGemma", ours, theirs, our_way, their_way)


def beside(value: int, tokens: Int[Tensor, "n seq"]) -> Tensor:
    """The tokens, with one value at each of the 16 patches before them."""
    return F.pad(tokens, (16, 0), value=value)


def check_mask(run: Run) -> None:
    """The mask of prefix, answer and padding, enumerated from its definition."""
    prefix, real = torch.tensor([3, 0, 5, 2]), torch.tensor([5, 4, 6, 2])
    expected = torch.zeros(4, 6, 6)
    for b, (p, r) in enumerate(zip(prefix.tolist(), real.tolist(), strict=True)):
        for i in range(6):
            for j in range(6):
                seen = (j <= i or (i < p and j < p)) and j < r
                expected[b, i, j] = seen or i == j
    found = prefix_mask(6, prefix, real).float()
    exact = {"against": "its definition", "kind": "theorem", "why": "true or false"}
    run.check("prefix mask", found, expected, **exact)
