"""SelfCheckGPT's n-grams are the authors', transcribed here token by token.

The package selfcheckgpt is not installed (it brings spaCy and its models), so the reference is an
independent transcription of its rules, with tokens given: what it does with sentence borders, the
unknown n-gram and k.
"""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_eval.safety.selfcheck import check, selfcheck, sentences
from llm_eval.types import Request, Response, Sample

TOKENS = st.lists(st.sampled_from(["a", "b", "c", ".", "é", "<unk>"]), min_size=1, max_size=6)
PASSAGES = st.lists(TOKENS, min_size=1, max_size=4)


def as_published(response, others, n, k):
    table, total = {"(unknown)": 0}, 0
    for passage in [response, *others]:
        for tokens in passage:
            for j in range(len(tokens)):
                gram = tuple(tokens[i] if i >= 0 else "<s>" for i in range(j - n + 1, j + 1))
                table[gram] = table.get(gram, 0) + 1
                total += 1
    probability = {gram: (count + k) / (total + k * len(table)) for gram, count in table.items()}
    average, maximum, flat = [], [], []
    for tokens in response:
        logs = []
        for j in range(len(tokens)):
            gram = tuple(tokens[i] if i >= 0 else "<s>" for i in range(j - n + 1, j + 1))
            logs.append(math.log(probability[gram]))
        average.append(-sum(logs) / len(logs))
        maximum.append(-min(logs))
        flat += logs
    return average, maximum, -sum(flat) / len(flat), sum(maximum) / len(maximum)


@given(PASSAGES, st.lists(PASSAGES, max_size=4), st.integers(1, 4), st.sampled_from([0, 0.5, 1, 3]))
def test_scores_are_the_authors(response, others, n, k):
    ours = check(response, others, n=n, smoothing=k)
    average, maximum, of_tokens, of_sentences = as_published(response, others, n, k)
    assert ours.averages == pytest.approx(average, abs=1e-12)
    assert ours.maxima == pytest.approx(maximum, abs=1e-12)
    assert ours.average == pytest.approx(of_tokens, abs=1e-12)
    assert ours.maximum == pytest.approx(of_sentences, abs=1e-12)


def test_the_order_of_the_others_and_empty_ones_do_not_matter():
    response, others = [["a", "b"], []], [[["a"]], [["b", "b"]], [[]], []]
    assert check(response, others) == check([["a", "b"]], others[::-1])


def test_arguments_are_named():
    with pytest.raises(ValueError, match="response must have at least one token"):
        check([[]], [])
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        check([["a"]], [], n=0)
    with pytest.raises(ValueError, match="smoothing must be at least 0, got -1"):
        check([["a"]], [], smoothing=-1)


def test_sentences_of_text():
    assert sentences("Dr. Who? It's 3.5!\n\n ok") == [
        ["dr", "."],
        ["who", "?"],
        ["it's", "3", ".", "5", "!"],
        ["ok"],
    ]
    assert sentences(" \n ") == []


def sample(name, *texts, document=None, error=""):
    responses = tuple(Response(text=text) for text in texts)
    requests = (Request("generate", "Q"),) * len(texts)
    return Sample("t", name, document or {}, requests, responses, error=error)


def by_name(numbers):
    return {number.metric: number for number in numbers}


def test_a_response_is_counted_once_beside_the_others():
    numbers = by_name(selfcheck([sample("1", "It is Paris.", "Rome")], task="t", signature="s"))
    # It holds 4 of 5 tokens, each of which occurs once.
    assert numbers["selfcheck_average"].value == pytest.approx(math.log(5), abs=1e-12)
    assert numbers["selfcheck_average"].signature == "s|selfcheck:n=1,others=1,v1"


def test_invented_answers_score_higher_and_find_mistakes():
    known = {"answers": ["Paris"], "answerable": True}
    steady = [sample(f"k{i}", *["It is Paris."] * 4, document=known) for i in range(6)]
    wild = [
        sample(f"w{i}", "It was Rome, or Oslo.", "Bern", "Ulm it is", "Lima!", document=known)
        for i in range(4)
    ]
    numbers = by_name(selfcheck(steady + wild, task="t", signature="s"))
    assert numbers["selfcheck_auc"].value == 1
    assert numbers["selfcheck_auc"].n == 10
    for i in ("average", "maximum"):
        of = f"selfcheck_{i}"
        low = by_name(selfcheck(steady, task="t", signature="s"))[of].value
        high = by_name(selfcheck(wild, task="t", signature="s"))[of].value
        assert low < numbers[of].value < high
        assert numbers[of].low < numbers[of].value < numbers[of].high


def test_failures_and_silence_are_in_no_average():
    good = sample("1", "a b", "a c")
    failed = Sample("t", "2", {}, (), (Response(error="late"),), error="late")
    alone = by_name(selfcheck([good], task="t", signature="s"))
    both = by_name(selfcheck([good, failed, sample("3", " ", "a")], task="t", signature="s"))
    average = both["selfcheck_average"]
    assert (average.value, average.n, average.failed) == (alone["selfcheck_average"].value, 1, 1)
    assert "1 without a word are left out" in average.note
    none = by_name(selfcheck([failed], task="t", signature="s"))["selfcheck_average"]
    assert (none.value, none.n, none.failed) == (None, 0, 1)
    with pytest.raises(ValueError, match="sample 4 must have at least 2 responses"):
        selfcheck([sample("4", "a")], task="t", signature="s")
