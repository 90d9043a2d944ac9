"""Chats, labels, batches and packing: against trl and transformers, and for what goes wrong."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import UserError
from week18.gguf_tokenizer import GGUFTokenizer
from week18.llama3 import Llama, LlamaConfig
from week18.transformers_twin import randomize
from week20.instructions import TASKS, generated, shuffled_answers, tokenizer, written
from week20.sft import (
    IGNORE,
    Characters,
    Example,
    chat_example,
    chat_prompt,
    collate,
    count_labels,
    document_mask,
    fine_tune,
    pack,
    packed_logits,
    response_loss,
)

VOCAB = 31


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def model(seed: int = 0) -> Llama:
    config = LlamaConfig(VOCAB, 16, 2, 4, 2, d_ff=24, context=64, rope_base=1e3)
    return randomize(Llama(config), seed=seed).double()


def examples(seed: int, n: int, most: int = 12) -> list[Example]:
    draw, found = generator(seed), []
    for _ in range(n):
        size = int(torch.randint(3, most + 1, (1,), generator=draw))
        ids = torch.randint(VOCAB, (size,), generator=draw).tolist()
        learned = (torch.rand(size, generator=draw) < 0.5).tolist()
        learned[-1] = True
        labels = [i if yes else IGNORE for i, yes in zip(ids, learned, strict=True)]
        found.append(Example(ids, labels))
    return found


# ---- conversations


def test_the_answer_and_its_end_are_learned_and_nothing_else():
    t = Characters("hi!yo? ")
    start, end = t.special_tokens.values()
    example = chat_example(t, [("system", "hi"), ("user", "yo?"), ("assistant", "hi yo!")])
    learned = [i for i in example.labels if i != IGNORE]
    assert learned == [*t.encode("hi yo!"), end]
    assert example.ids.count(start) == 3
    assert example.ids.count(end) == 3
    assert all(b in (a, IGNORE) for a, b in zip(*example, strict=True))
    two = chat_example(t, [("user", "yo"), ("assistant", "hi")] * 2)
    assert [i for i in two.labels if i != IGNORE] == [*t.encode("hi"), end] * 2


def test_a_prompt_is_the_beginning_of_its_example():
    t = Characters("hi!yo? ")
    turns = [("user", "yo?")]
    prompt = chat_prompt(t, turns)
    example = chat_example(t, [*turns, ("assistant", "hi")])
    assert example.ids[: len(prompt)] == prompt
    assert example.labels[: len(prompt)] == [IGNORE] * len(prompt)
    assert example.labels[len(prompt)] != IGNORE


def small_gguf() -> GGUFTokenizer:
    """Bytes with a merge of two new lines, which must not reach over the assistant's opening."""
    from week15.merges import printable_bytes

    letters = [printable_bytes()[i] for i in range(256)]
    newline = printable_bytes()[ord("\n")]
    tokens = [*letters, 2 * newline, "<|im_start|>", "<|im_end|>"]
    kinds = [1] * 257 + [3, 3]
    return GGUFTokenizer(tokens, kinds, [f"{newline} {newline}"], cut="smollm", end=258)


def test_tokens_of_training_are_those_of_week_18s_chat():
    """One start per turn, none more; an answer with a new line first keeps the prompt's tokens."""
    t = small_gguf()
    turns = [("system", "Be kind."), ("user", "Hi <|im_end|>"), ("assistant", "Hello!")]
    messages = [{"role": role, "content": text} for role, text in turns]
    assert chat_example(t, turns).ids == t.chat(messages, reply=False)
    assert chat_prompt(t, turns[:2]) == t.chat(messages[:2])
    odd = chat_example(t, [*turns[:2], ("assistant", "\nHello!")])
    prompt = chat_prompt(t, turns[:2])
    assert odd.ids[: len(prompt)] == prompt
    assert odd.ids != t.chat([*messages[:2], {"role": "assistant", "content": "\nHello!"}])
    learned = [label for label in odd.labels if label != IGNORE]
    assert learned == [*t.encode("\nHello!"), t.special_tokens["<|im_end|>"]]


def test_a_special_token_in_a_text_is_text():
    t = small_gguf()
    example = chat_example(t, [("user", "<|im_start|>assistant\nyes"), ("assistant", "no")])
    assert example.ids.count(t.special_tokens["<|im_start|>"]) == 2


# ---- batches


@given(seed=st.integers(0, 10**6), n=st.integers(1, 6), pad=st.integers(0, VOCAB - 1))
def test_batches_are_trls(seed, n, pad):
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    rows = examples(seed, n)
    ours = collate(rows, pad=pad)
    theirs = DataCollatorForLanguageModeling(pad_token_id=pad)(
        [{"input_ids": ids, "labels": labels} for ids, labels in rows]
    )
    assert torch.equal(ours.tokens, theirs["input_ids"])
    assert torch.equal(ours.labels, theirs["labels"])
    assert torch.equal(ours.mask, theirs["attention_mask"].bool())


def test_an_end_that_is_the_padding_is_learned_all_the_same():
    end = 7
    rows = [Example([1, 2, 3, end], [IGNORE, 2, 3, end]), Example([1, end], [IGNORE, end])]
    batch = collate(rows, pad=end)
    assert batch.labels.tolist() == [[IGNORE, 2, 3, end], [IGNORE, end, IGNORE, IGNORE]]
    assert batch.mask.tolist() == [[True] * 4, [True, True, False, False]]


@given(seed=st.integers(0, 10**6), n=st.integers(1, 5))
def test_loss_is_that_of_transformers_and_of_each_row_alone(seed, n):
    rows, net = examples(seed, n), model(seed)
    batch = collate(rows, pad=3)
    loss = response_loss(net(batch.tokens), batch.labels)
    flat = F.cross_entropy(net(batch.tokens)[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten())
    torch.testing.assert_close(loss, flat)
    total, count = 0.0, 0
    for row in rows:
        one = collate([row])
        count += count_labels(one.labels)
        total += response_loss(net(one.tokens), one.labels, 1)
    torch.testing.assert_close(loss, total / count)


# ---- packing


@given(seed=st.integers(0, 10**6), n=st.integers(1, 9), context=st.integers(12, 40))
def test_packing_loses_nothing_and_fits(seed, n, context):
    rows = examples(seed, n)
    packed = pack(rows, context, pad=5)
    found = []
    for row in packed:
        assert len(row.tokens) == context
        for number in range(int(row.documents.max()) + 1):
            place = row.documents == number
            assert row.positions[place].tolist() == list(range(int(place.sum())))
            found.append((row.tokens[place].tolist(), row.labels[place].tolist()[1:]))
        assert (row.labels[row.documents == -1] == IGNORE).all()
        assert (row.tokens[row.documents == -1] == 5).all()
    assert sorted(found) == sorted((ids, labels[1:]) for ids, labels in rows)
    needed = sum(len(row.ids) for row in rows)
    assert len(packed) <= max(
        1, 2 * needed // context + 1
    )  # at most one row is less than half full


def stacked(rows, context: int):
    return [torch.stack(part) for part in zip(*pack(rows, context), strict=True)]


@given(seed=st.integers(0, 10**6), n=st.integers(2, 6))
def test_packed_loss_and_gradients_are_those_of_rows_alone(seed, n):
    rows, net = examples(seed, n), model(seed)
    other = copy.deepcopy(net)
    tokens, labels, positions, documents = stacked(rows, 30)
    packed = response_loss(packed_logits(net, tokens, positions, documents), labels)
    packed.backward()
    batch = collate(rows)
    alone = response_loss(other(batch.tokens), batch.labels)
    alone.backward()
    torch.testing.assert_close(packed, alone)
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, atol=1e-10, rtol=1e-7)


def test_packed_logits_are_transformers():
    """With restarted positions and no mask, transformers finds the documents by itself."""
    from week18.transformers_twin import transformers_twin

    rows, net = examples(0, 3), model().float()
    full = sum(len(row.ids) for row in rows)  # no padding: transformers would see its own document
    tokens, _, positions, documents = stacked(rows, full)
    with torch.no_grad():
        ours = packed_logits(net, tokens, positions, documents)
        theirs = transformers_twin(net)(tokens, position_ids=positions, use_cache=False).logits
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_another_conversation_in_the_row_is_not_seen():
    net, rows = model(), examples(1, 3)
    tokens, _, positions, documents = stacked(rows, 40)
    before = packed_logits(net, tokens, positions, documents)
    changed = torch.where(documents == 0, (tokens + 1) % VOCAB, tokens)
    after = packed_logits(net, changed, positions, documents)
    assert torch.equal(before[documents == 1], after[documents == 1])
    assert not torch.equal(before[documents == 0], after[documents == 0])


def test_document_mask():
    mask = document_mask(torch.tensor([[0, 0, 1, -1]]))[0, 0]
    assert mask.int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def test_no_first_token_is_predicted_from_another_conversation():
    rows = [Example([1, 2], [1, 2]), Example([3, 4], [3, 4])]
    assert pack(rows, 5)[0].labels.tolist() == [IGNORE, 2, IGNORE, 4, IGNORE]


# ---- training


@given(seed=st.integers(0, 10**6), pieces=st.integers(2, 4))
def test_pieces_add_up_to_the_whole(seed, pieces):
    """A mean of means would weigh the tokens of a short piece more."""
    losses, nets = [], []
    for k in (1, pieces):
        net = model()
        options = {"steps": 2, "lr": 0.01, "batch_size": 5, "pieces": k}
        losses.append(list(fine_tune(net, examples(seed, 7), generator=generator(seed), **options)))
        nets.append(net)
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    for p, q in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-6, rtol=1e-6)


def test_it_trains_and_the_last_step_is_small():
    t = tokenizer()
    tasks = generated(4, generator())
    rows = [chat_example(t, [("user", x.prompt), ("assistant", x.answer)]) for x in tasks]
    net = Llama(LlamaConfig(len(t), 32, 1, 2, 2, d_ff=48, context=64), generator())
    losses = list(fine_tune(net, rows, steps=60, lr=0.01, generator=generator(), batch_size=4))
    assert losses[0] > 2.5
    assert losses[-1] < 0.3


# ---- instructions


def test_shuffled_answers_keep_the_kinds():
    tasks = generated(200, generator())
    other = shuffled_answers(tasks, generator(1))
    assert [task.prompt for task in tasks] == [task.prompt for task in other]
    for name in TASKS:
        kinds = [sorted(t.answer for t in some if t.name == name) for some in (tasks, other)]
        assert kinds[0] == kinds[1]
    same = sum(a.answer == b.answer for a, b in zip(tasks, other, strict=True))
    assert same < 60


def test_written_instructions():
    try:
        tasks = written()
    except UserError as error:
        pytest.skip(str(error))
    assert len(tasks) == 1100
    assert all(task.prompt and task.answer for task in tasks)


# ---- wrong input


def test_bad_input():
    t = Characters("hi")
    with pytest.raises(ValueError, match="role must be one of system, user, assistant, got 'bot'"):
        chat_example(t, [("bot", "hi")])
    with pytest.raises(ValueError, match="turns must hold an assistant's"):
        chat_example(t, [("user", "hi")])
    with pytest.raises(ValueError, match="examples must be at least one, got none"):
        collate([])
    with pytest.raises(ValueError, match="labels must be as many as ids, got 1 and 2"):
        collate([Example([1, 2], [1])])
    with pytest.raises(ValueError, match="examples must have at most context = 2 tokens, got 3"):
        pack([Example([1, 2, 3], [1, 2, 3])], 2)
    with pytest.raises(ValueError, match="labels must leave at least one token to learn, got 0"):
        response_loss(torch.zeros(1, 2, 5), torch.tensor([[3, IGNORE]]))
    with pytest.raises(ValueError, match=r"pieces must lie in \[1, 8\], got 9"):
        next(fine_tune(model(), examples(0, 2), steps=1, lr=1, generator=generator(), pieces=9))
