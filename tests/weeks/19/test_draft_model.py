"""A draft speaks the target's tokens, forgets what was rejected, and learns what it is shown."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from week19.draft_model import (
    Draft,
    Guesser,
    agreement,
    draft_generate,
    frequent,
    imitate,
    new_draft,
    principal_rows,
    write,
)
from week19.evidence.draft_model import passes
from week19.fused_llama import FusedLlama
from week19.kv_cache import generate
from week19.sampling import greedy
from week19.twins import small_llama

TARGETS = [small_llama(seed, vocab_size=13) for seed in range(3)]


def draft_of(seed: int, known: int = 9) -> Draft:
    some = torch.randperm(13, generator=torch.Generator().manual_seed(seed))[:known]
    return Draft(small_llama(seed, vocab_size=known + 1), some)


def alone(model, prompt: list[int], n: int) -> list[int]:
    return prompt + [int(t) for t in generate(model, [prompt], n, choose=greedy)]


@settings(max_examples=15)
@given(
    seed=st.integers(0, 2),
    prompt=st.lists(st.integers(0, 12), min_size=1, max_size=8),
    n=st.integers(1, 30),
    gamma=st.integers(1, 6),
    fused=st.booleans(),
)
def test_tokens_are_the_targets_and_passes_where_both_agree(seed, prompt, n, gamma, fused):
    target, draft = TARGETS[seed], draft_of(seed)
    reader = FusedLlama(target, last=gamma + 1) if fused else target
    found = draft_generate(reader, draft, torch.tensor(prompt), n, gamma=gamma)
    assert found.tokens.tolist() == alone(target, prompt, n)
    assert found.target_passes + sum(found.kept) == n
    right = agreement(draft, found.tokens, len(prompt), 13)
    assert passes(right, gamma) == found.target_passes


def test_a_draft_that_is_the_target_is_always_right():
    target = TARGETS[0]
    known = torch.randperm(13)
    twin = small_llama(0, vocab_size=14)
    with torch.no_grad():
        for name, p in target.named_parameters():
            if name not in ("embed.weight", "head.weight"):
                twin.get_parameter(name).copy_(p)
        twin.embed.weight[:-1] = target.embed.weight[known]
        twin.head.weight[:-1] = target.head.weight[known]
        twin.head.weight[-1] = 0  # others: likelier than all tokens only where these are below 0
    text = draft_generate(target, Draft(twin, known), torch.tensor([1, 2, 3]), 31, gamma=4)
    assert text.target_passes == 7  # 31 = 6 · 5 + 1


def test_passes_by_hand():
    right = torch.tensor([1.0, 1, 0, 1, 0, 0, 1, 1])
    # 1 1 and the target's own | 1, own | own | 1 and the end
    assert passes(right, 2) == 4
    assert passes(right, 1) == 5  # 1 own | 0 own … : 1 1 | 0 | 1 0 | 0 | 1 1
    assert passes(torch.zeros(5), 3) == 5
    assert passes(torch.ones(10), 4) == 2


@given(texts=st.lists(st.lists(st.integers(0, 9), min_size=1), min_size=1), most=st.integers(1, 12))
def test_frequent_by_counting(texts, most):
    flat = [token for text in texts for token in text]
    ranked = sorted(set(flat), key=lambda token: (-flat.count(token), token))
    assert frequent([torch.tensor(text) for text in texts], most).tolist() == ranked[:most]


def test_numbers_go_there_and_back():
    draft = draft_of(0)
    ids = draft.read(torch.arange(13), 13)
    known = ids < 9
    assert known.sum() == 9
    assert torch.equal(draft.known[ids[known]], torch.arange(13)[known])
    assert (ids[~known] == 9).all()


def test_principal_rows_keep_what_lies_in_few_directions():
    """Rows of rank 3 keep all their distances, up to one scale; PCA by singular values agrees."""
    rows = torch.randn(40, 3) @ torch.randn(3, 20) + 5
    found = principal_rows(rows, 3)
    ratio = torch.pdist(found) / torch.pdist(rows)
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio), rtol=1e-2, atol=0)
    assert found.std().item() == pytest.approx(0.02)
    u, s, _ = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
    first = principal_rows(rows, 1)[:, 0]
    assert abs(torch.corrcoef(torch.stack([first, u[:, 0] * s[0]]))[0, 1]) > 0.999


def test_a_guesser_forgets_what_was_rejected():
    """The same guesses as one that reads the text for the first time."""
    draft = draft_of(1, 13)
    guesser = Guesser(draft, 13, 60)
    generator, text = torch.Generator().manual_seed(0), torch.tensor([1, 2])
    for _ in range(12):
        found = guesser(text, gamma=3)
        assert torch.equal(found, Guesser(draft, 13, 60)(text, gamma=3))
        keep = int(torch.randint(0, 4, (), generator=generator))
        text = torch.cat([text, found[:keep], torch.randint(13, (1,), generator=generator)])


def test_no_guess_of_an_unknown_token():
    model = small_llama(2, vocab_size=4)
    with torch.no_grad():  # logits of known tokens turn negative, others stay at 0
        model.head.weight.zero_()
        model.head.weight[:-1] = -model.norm.weight
    draft = Draft(model, torch.tensor([5, 6, 7]))
    text = torch.tensor([5, 6, 2])
    guesses = Guesser(draft, 13, 20)(text, gamma=3)
    said = model(draft.read(text, 13)[None])[0, -1].argmax()
    assert len(guesses) == (0 if said == 3 else 3)
    assert len(guesses) < 3 or (guesses >= 5).all()


def test_texts_are_each_prompts_own_and_end():
    target, prompts = TARGETS[1], [[1, 2, 3], [4], [5, 6]]
    expected = [alone(target, prompt, 12) for prompt in prompts]
    end = expected[0][6]  # the first text's fourth token
    for text, whole, prompt in zip(
        write(target, prompts, 12, end=end, batch_size=2), expected, prompts, strict=True
    ):
        new = whole[len(prompt) :]
        n = new.index(end) + 1 if end in new else 12
        assert text.tolist() == prompt + new[:n]


def test_imitation_learns_the_targets_text():
    target = TARGETS[2]
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(13, (48, 4), generator=generator).tolist()
    texts = write(target, prompts, 16, end=-1)
    sizes = {"d_model": 16, "n_layers": 1}
    options = {"known": 13, "steps": 150, "batch_size": 16, "context": 19}
    draft = imitate(target.embed.weight, texts, **sizes, **options, generator=generator)
    first = new_draft(target.embed.weight, draft.known, **sizes, generator=generator)
    assert not any(p.requires_grad for p in draft.model.parameters())
    rates = [
        torch.cat([agreement(d, t, 4, 13) for t in texts]).mean().item() for d in (draft, first)
    ]
    assert rates[0] > rates[1] + 0.15


def test_a_draft_is_not_wider_than_its_target():
    embedding, known = TARGETS[0].embed.weight, torch.arange(5)
    options = {"n_layers": 1, "generator": torch.Generator()}
    with pytest.raises(ValueError, match="d_model must be between 1 and the target's 32, got 64"):
        new_draft(embedding, known, d_model=64, **options)


def test_no_guess_at_all_is_refused():
    with pytest.raises(ValueError, match="gamma must be at least 1, got 0"):
        draft_generate(TARGETS[0], draft_of(0), torch.tensor([1]), 3, gamma=0)
