"""Scores do not depend on what is read together; plans tear no question; stops are texts."""

import dataclasses
import doctest
import importlib
from functools import cache

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llm_eval.models.dummy import Dummy
from llm_eval.models.identity import files_digest, tensors_digest
from llm_eval.models.local import LocalModel
from llm_eval.models.networks import LlamaNetwork
from llm_eval.models.opening import open_model
from llm_eval.models.planning import Group, cost, pack
from llm_eval.models.scoring import Row, Tree, common, score_plainly
from llm_eval.models.until import cut, stops
from llm_eval.types import Request
from shared.errors import UserError
from week18.llama3 import Llama, LlamaConfig

VOCAB = 13


def llama(**changes):
    config = {"n_layers": 2, "d_model": 16, "n_heads": 4, "n_kv_heads": 2, "context": 96} | changes
    model = Llama(LlamaConfig(vocab_size=VOCAB, **config), torch.Generator().manual_seed(0))
    with torch.no_grad():
        for p in model.parameters():  # answers must differ from each other
            p.add_(0.4 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    return model.eval().requires_grad_(False)


MODEL = llama()


class Digits:
    """Characters 0 to 9 and a to c as tokens; a is the prefix, b ends, c decodes to two."""

    prefix, ends = 10, frozenset([11])

    def encode(self, text, *, special=True):
        return [int(character, 16) for character in text if character in "0123456789abc"]

    def decode(self, ids):
        return "".join("00" if i == 12 else "0123456789ab"[i] for i in ids if i != 11)

    def chat(self, turns):
        return "a".join(content for _, content in turns)


@cache
def local(batch_tokens=4096, model=MODEL):
    network = LlamaNetwork(model, batch_tokens=batch_tokens)
    return LocalModel("tiny", network, Digits(), {}, batch_tokens=batch_tokens)


def one_by_one(row, model=MODEL):
    """Each token from all that is before it, nothing kept."""
    found, right = [], []
    for i, token in enumerate(row.continuation):
        given = torch.tensor([[*row.context, *row.continuation[:i]]])
        logprobs = model(given)[0, -1].log_softmax(-1)
        found.append(float(logprobs[token]))
        right.append(int(logprobs.argmax()) == token)
    return found, all(right)


TOKENS = st.integers(0, VOCAB - 1)
BEGINNING = st.lists(TOKENS, max_size=36)


@st.composite
def rows(draw):
    """Questions with several continuations, some of which begin alike."""
    beginning = draw(BEGINNING)
    found = []
    for _ in range(draw(st.integers(1, 4))):
        own = draw(st.lists(TOKENS, min_size=1, max_size=8))
        context = tuple(beginning + own) if draw(st.booleans()) else tuple(own)
        for continuation in draw(
            st.lists(st.lists(TOKENS, min_size=1, max_size=6), min_size=1, max_size=3)
        ):
            found.append(Row(context, tuple(continuation)))
    return draw(st.permutations(found))


@given(rows(), st.sampled_from([1, 7, 4096]))
@settings(max_examples=60)
def test_shared_reading_gives_what_each_row_gives_alone(asked, batch_tokens):
    tree = Tree(MODEL, batch_tokens=batch_tokens)
    for row, found in zip(asked, tree(asked), strict=True):
        expected, greedy = one_by_one(row)
        assert list(found.logprobs) == pytest.approx(expected, abs=2e-5)
        assert found.greedy == greedy


@given(rows())
@settings(max_examples=20)
def test_the_plain_way_gives_the_same(asked):
    plain = score_plainly(lambda tokens, columns: MODEL(tokens)[:, columns], asked)
    for found, expected in zip(plain, Tree(MODEL)(asked), strict=True):
        assert list(found.logprobs) == pytest.approx(list(expected.logprobs), abs=2e-5)
        assert found.greedy == expected.greedy


def test_a_beginning_is_kept_for_its_own_batch_only():
    tree, n = Tree(MODEL), 32
    generator = torch.Generator().manual_seed(2)
    for _ in range(3):
        start = torch.randint(VOCAB, (n,), generator=generator).tolist()
        asked = [Row((*start, 1, 2), (3, 4)), Row((*start, 5), (6, 7, 8))]
        for _ in range(2):
            for row, found in zip(asked, tree(asked), strict=True):
                assert list(found.logprobs) == pytest.approx(one_by_one(row)[0], abs=2e-5)
    assert tree._kept[0] == tuple(start)


def test_beginnings_are_read_once_and_the_head_sees_scored_positions_only(monkeypatch):
    tree, read, headed = Tree(MODEL), [], []
    body, head = tree.body, tree.head
    tree.body = lambda tokens, **options: read.append(tokens.numel()) or body(tokens, **options)
    weight = head.weight

    class Head:
        def __call__(self, hidden):
            headed.append(len(hidden))
            return head(hidden)

    Head.weight, tree.head = weight, Head()
    start = [1] * 32
    tree([Row((*start, 5, i), (i, 2, 3)) for i in range(8) for _ in range(4)])
    assert read == [32, 8 * 2, 32 * 2]
    assert headed == [8, 32 * 2]
    tree([Row((*start, 6, i), (i,)) for i in range(8)])
    assert read[3:] == [8 * 2]  # the beginning was at hand, and one token needs no second pass


@given(st.lists(st.lists(TOKENS, min_size=1, max_size=9), min_size=1, max_size=5))
def test_common_beginning(sequences):
    n = common(sequences)
    assert len({tuple(tokens[:n]) for tokens in sequences}) == 1
    assert n == min(map(len, sequences)) or len({tokens[n] for tokens in sequences}) > 1


# ---- requests

TEXTS = st.text("0123456789abc ", max_size=12)
CONTEXTS = st.sampled_from(["", "12", "345 ", "9" * 40, "9" * 40 + "1", "9" * 120])
KINDS = st.sampled_from(["loglikelihood", "rolling", "generate"])
ASKED = st.lists(st.tuples(KINDS, CONTEXTS, TEXTS, st.sampled_from([1, 5])), max_size=12)


def requests(drawn):
    return [
        Request("rolling", "", text * 20)
        if kind == "rolling"
        else Request(kind, context, text, max_new_tokens=new)
        for kind, context, text, new in drawn
    ]


def close(found, expected):
    assert (found.greedy, found.text, found.error) == (
        expected.greedy,
        expected.text,
        expected.error,
    )
    assert found.logprobs == pytest.approx(expected.logprobs, abs=1e-4)
    assert found.ids == expected.ids


@given(ASKED, st.sampled_from([1, 50, 400]))
@settings(max_examples=25)
def test_answers_do_not_depend_on_the_batch(drawn, batch_tokens):
    asked = requests(drawn)
    alone = [local().answer([request])[0] for request in asked]
    model = local(batch_tokens)
    for batch in model.plan(asked):
        answers = model.answer([asked[i] for i in batch])
        for i, found in zip(batch, answers, strict=True):
            close(found, alone[i])


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_answers_do_not_depend_on_threads(threads):
    wide = llama(d_model=128, n_layers=3)
    asked = [Request("loglikelihood", f"{i:040b}", f"{i}{7 * i}") for i in range(40)]
    expected = local(model=wide).answer(asked)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for batch_tokens in (64, 4096):
            for found, one in zip(local(batch_tokens, wide).answer(asked), expected, strict=True):
                close(found, one)
    finally:
        torch.set_num_threads(before)


@given(ASKED, st.sampled_from([1, 50, 400]))
@settings(max_examples=40)
def test_a_plan_holds_each_request_once_and_tears_no_question(drawn, batch_tokens):
    asked = requests(drawn)
    model = local(batch_tokens)
    plan = model.plan(asked)
    assert plan == local(batch_tokens).plan(asked)
    assert sorted(i for batch in plan for i in batch) == list(range(len(asked)))
    for i, one in enumerate(asked):
        for j, other in enumerate(asked):
            if one.kind == other.kind != "rolling" and one.context == other.context:
                assert [i in batch for batch in plan] == [j in batch for batch in plan]


def test_the_largest_batch_is_first_and_all_but_single_questions_fit():
    generator = torch.Generator().manual_seed(0)
    groups = []
    for i in range(300):
        n = int(torch.randint(1, 90, (), generator=generator))
        context = (*([7] * 64 if i % 3 else []), *range(n))
        groups.append(Group(context, i % 9 + 1, (i, i + 1000)))
    batches = pack(groups, 500)
    costs = [cost(batch) for batch in batches]
    assert costs == sorted(costs, reverse=True)
    assert all(size <= 500 or len(batch) == 1 for size, batch in zip(costs, batches, strict=True))
    assert len(batches) < 60  # 300 questions of about 100 tokens, two thirds of them 64 in common
    for batch in batches:
        sizes = [group.size for group in batch]
        assert sizes == sorted(sizes, reverse=True)


def test_too_long_a_context_loses_its_beginning_and_says_so():
    text = "0123456789" * 20
    long, short, same = local().answer(
        [
            Request("loglikelihood", text, "123"),
            Request("loglikelihood", text[-94:], "123"),  # 97 with the answer, of which 96 are read
            Request("loglikelihood", text[-95:], "123"),
        ]
    )
    assert (long.truncated, short.truncated, same.truncated) == (True, False, True)
    for other in (short, same):
        assert long.logprobs == pytest.approx(other.logprobs, abs=1e-5)
    cut_text, whole = local().answer(
        [Request("generate", t, max_new_tokens=9) for t in (text, text[-87:])]
    )
    assert (cut_text.truncated, whole.truncated) == (True, False)
    assert cut_text.text == whole.text
    texts = [Request("loglikelihood", "1", "2" * n) for n in (96, 97)]
    fits, not_ = local().answer(texts)
    assert (fits.n_tokens, fits.error) == (96, "")
    assert not_.error == "continuation must have at most 96 tokens, got 97"
    assert not_.logprob is None


def test_what_cannot_be_answered_is_an_error_of_its_own():
    asked = [
        Request("loglikelihood", "12", ""),
        Request("loglikelihood", "12", "3"),
        Request("generate", "1", max_new_tokens=96),
        Request("rolling", "", ""),
    ]
    nothing, something, long, empty = local().answer(asked)
    assert "continuation must make a token of its own" in nothing.error
    assert something.error == ""
    assert long.error == "max_new_tokens must be from 1 to 95, got 96"
    assert (empty.logprob, empty.greedy, empty.error) == (0.0, True, "")
    assert sorted(i for batch in local().plan(asked) for i in batch) == [0, 1, 2, 3]


def test_rolling_scores_each_token_once():
    text = "0123456789" * 30
    (found,) = local().answer([Request("rolling", "", text)])
    assert (found.n_tokens, list(found.ids)) == (300, Digits().encode(text))
    tokens = [10, *found.ids]
    expected = []
    for end in (96, 192, 288, 300):  # windows of 96; the last one reaches back
        given = torch.tensor([tokens[max(0, end - 96) : end]])
        new = end - len(expected)
        logprobs = MODEL(given)[0].log_softmax(-1)[-new:]
        expected += [
            float(p[token]) for p, token in zip(logprobs, tokens[end - new + 1 :], strict=False)
        ]
    assert list(found.logprobs) == pytest.approx(expected, abs=2e-5)


# ---- text


@example("ab", ["b", "a"])
@given(st.text("ab\n", max_size=12), st.lists(st.text("ab\n", max_size=3), max_size=3))
def test_a_text_ends_before_its_first_stop(text, until):
    found, stopped = cut(text, until)
    expected = text
    for stop in until:  # as lm-eval does it
        expected = expected.split(stop)[0] if stop else expected
    assert found == expected
    assert stopped == (found != text)


def test_one_text_is_not_several_stops():
    with pytest.raises(ValueError, match="until must be several texts, got one"):
        stops("\n\n")


@given(TEXTS, st.integers(1, 20), st.integers(0, 20), st.integers(1, 4))
def test_stops_are_found_in_the_text_wherever_tokens_end(context, new, start, size):
    (whole,) = local().answer([Request("generate", context, max_new_tokens=new)])
    stop = whole.text[start : start + size]
    asked = Request("generate", context, until=(stop, "zz"), max_new_tokens=new)
    (found,) = local().answer([asked])
    if stop:
        assert found.text == whole.text[: whole.text.index(stop)]
        assert found.ended == "stop"
        assert found.n_tokens <= whole.n_tokens
    else:
        assert found == whole


def test_text_is_drawn_from_the_seed_in_any_company():
    asked = [
        Request("generate", context, max_new_tokens=20, temperature=1.0, seed=seed)
        for context in ("1", "22")
        for seed in range(4)
    ]
    together = local().answer(asked)
    alone = [local().answer([request])[0] for request in asked]
    assert [one.text for one in together] == [one.text for one in alone]
    assert len({one.text for one in together}) > 4


def test_a_conversation_is_the_codecs():
    turns = (("user", "12"), ("assistant", "3"), ("user", "4"))
    flat = [Request("loglikelihood", "12a3a4", "56"), Request("generate", "12a3a4", "", (), 9)]
    found = local().answer([dataclasses.replace(request, context=turns) for request in flat])
    assert found == local().answer(flat)
    assert found[0].n_tokens == 2
    assert found[1].text


# ---- names


def test_equal_weights_are_equal_whatever_their_name(tmp_path):
    for name in ("a.bin", "b.bin"):
        (tmp_path / name).write_bytes(b"weights")
    first, second = (files_digest([tmp_path / name]) for name in ("a.bin", "b.bin"))
    assert first == second
    (tmp_path / "b.bin").write_bytes(b"Weights, another")
    assert files_digest([tmp_path / "b.bin"]) != first
    state = {name: p.clone() for name, p in MODEL.state_dict().items()}
    assert tensors_digest(state) == tensors_digest(MODEL.state_dict())
    state["norm.weight"][3] += 1e-7
    assert tensors_digest(state) != tensors_digest(MODEL.state_dict())
    assert tensors_digest({"x": torch.zeros(2)}) != tensors_digest({"y": torch.zeros(2)})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gpt-9", {}, "model must be smollm2, hf:FOLDER"),
        ("hf:", {}, "model must be smollm2"),
        ("hf:no-such", {}, "hf:FOLDER must be a folder"),
        ("gguf:no-such.gguf", {}, "gguf:FILE must be a file on this machine"),
        ("gguf:model.bin", {}, "must end in .gguf"),
        ("onnx:no-such", {}, "no-such"),
        ("tiny_gpt:no-such", {}, "no-such"),
        ("openai:ftp://x", {}, "openai:http://"),
        ("openai:http://me:secret@x", {}, "or a password, got another"),
        ("smollm2", {"dtype": "int8"}, "dtype must be one of"),
        ("smollm2", {"device": "toaster"}, "device 'toaster' cannot be used"),
        ("smollm2", {"batch_tokens": 0}, "batch_tokens must be at least 1"),
    ],
)
def test_wrong_names_are_one_line(name, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        open_model(name, **options)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


@given(st.integers(0, 3), ASKED)
def test_the_dummy_answers_anything_the_same(seed, drawn):
    asked = requests(drawn)
    model = Dummy(seed)
    answers = model.answer(asked)
    assert answers == [Dummy(seed).answer([request])[0] for request in asked]
    assert sorted(i for batch in model.plan(asked) for i in batch) == list(range(len(asked)))
    for request, found in zip(asked, answers, strict=True):
        if request.kind == "generate":
            assert found.text is not None
            assert found.n_tokens <= request.max_new_tokens
        else:
            assert found.logprob <= 0
            assert len(found.logprobs) == found.n_tokens


LOCAL = ["identity", "local", "networks", "planning", "scoring", "tokens", "until"]


@pytest.mark.parametrize("name", [*LOCAL, "dummy", "opening", "remote"])
def test_examples_of_models(name):
    module = importlib.import_module(f"llm_eval.models.{name}")
    found = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted > 0
    assert found.failed == 0
