"""Critique finds what offends, revision mends that alone, and places of answers cancel."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from week21.constitutional_ai import (
    CONSTITUTION,
    HARMLESS,
    Comparison,
    ai_preferences,
    count_offenses,
    critique,
    in_both_orders,
    judge_by_model,
    offenses,
    prefer,
    revise,
    revisions,
    survival,
    write_draft,
)

WORDS = [w for p in CONSTITUTION for pair in p.gentler.items() for w in pair if w]
TEXTS = st.lists(st.sampled_from([*WORDS, *HARMLESS]), max_size=12).map(" ".join)
PRINCIPLES = st.sampled_from(CONSTITUTION)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# ---- revision


@given(TEXTS, PRINCIPLES)
def test_a_revision_mends_its_principle_and_no_other(text, principle):
    mended = revise(principle, text)
    assert not offenses(principle, mended)
    for other in CONSTITUTION:
        if other is not principle:
            assert offenses(other, mended) == offenses(other, text)
    assert revise(principle, mended) == mended
    kept = [w for w in text.split() if w not in principle.gentler]
    new = [w for w in mended.split() if w not in principle.gentler.values()]
    assert new == [w for w in kept if w not in principle.gentler.values()]


@given(TEXTS, PRINCIPLES)
def test_a_reviser_without_skill_changes_nothing(text, principle):
    assert revise(principle, text, skill=0.0, rng=rng()) == text


def test_words_are_whole_words_in_any_case():
    insults = CONSTITUTION[0]
    assert offenses(insults, "Stupid idiots, an IDIOT!") == ["stupid", "idiot"]
    assert revise(insults, "an IDIOT!") == "an friend!"
    assert revise(CONSTITUTION[3], "A damn good day, damn.") == "A good day,."


def test_critique_names_what_it_found():
    assert "offended by: always, never" in critique(CONSTITUTION[1], "always and never")
    assert critique(CONSTITUTION[1], "often").startswith("Nothing offends")


@given(st.integers(1, 8), st.integers(0, 10), st.integers(0, 10**6))
def test_rounds_only_ever_mend(n_principles, rounds, seed):
    part, draws = CONSTITUTION[:n_principles], rng(seed)
    history = revisions(write_draft(part, draws), part, rounds=rounds, rng=draws, skill=0.5)
    counts = [count_offenses(part, text) for text in history]
    assert len(history) == rounds + 1
    assert counts == sorted(counts, reverse=True)


@pytest.mark.parametrize(("n_principles", "skill"), [(1, 0.6), (2, 1.0), (3, 0.5)])
def test_survival_by_counting(n_principles, skill):
    part, draws, rounds = CONSTITUTION[:n_principles], rng(1), 3
    text = " ".join(next(iter(p.gentler)) for p in part)
    left = [
        count_offenses(part, revisions(text, part, rounds=rounds, rng=draws, skill=skill)[-1])
        for _ in range(3000)
    ]
    want = n_principles * survival(rounds, n_principles, skill)
    assert np.mean(left) == pytest.approx(want, abs=5 * np.std(left) / 3000**0.5)
    assert survival(0, n_principles, skill) == 1


# ---- preference


@given(TEXTS, TEXTS, PRINCIPLES)
def test_preference_is_fair_and_follows_the_count(a, b, principle):
    share = prefer(principle, a, b)
    assert share + prefer(principle, b, a) == 1
    fewer = len(offenses(principle, a)) < len(offenses(principle, b))
    assert (share > 0.5) == fewer
    assert prefer(principle, a, a) == 0.5


@given(st.floats(0, 1), TEXTS, TEXTS, PRINCIPLES)
def test_a_liking_for_a_place_cancels(place, a, b, principle):
    always = in_both_orders(lambda *_: place)
    assert always(principle, a, b) == pytest.approx(0.5)
    fair = in_both_orders(prefer)
    assert fair(principle, a, b) == prefer(principle, a, b)


def test_a_model_is_asked_with_the_principle_and_both_texts():
    asked = []

    def letters(question):
        asked.append(question)
        return np.log(0.3), np.log(0.1)

    judge = judge_by_model(letters)
    assert judge(CONSTITUTION[0], "one", "two") == pytest.approx(0.75)
    question = asked[0]
    assert question.startswith(CONSTITUTION[0].question)
    assert question.index("A: one") < question.index("B: two")


def test_pairs_are_judged_by_principles_that_are_drawn():
    pairs = [("you idiot", "always")] * 300
    found = ai_preferences(pairs, CONSTITUTION[:2], prefer, rng())
    assert {c.principle.name for c in found} == {"insults", "certainty"}
    for c in found:
        assert c == Comparison(c.principle, *pairs[0], float(c.principle.name == "certainty"))


# ---- the constitution and its drafts


def test_no_replacement_offends_and_no_word_is_forbidden_twice():
    words = [word for p in CONSTITUTION for word in p.gentler]
    assert len(words) == len(set(words))
    assert not set(words) & {new for p in CONSTITUTION for new in p.gentler.values()}
    assert not set(words) & set(HARMLESS)


def test_drafts_offend_about_three_times():
    drafts = [write_draft(CONSTITUTION, rng(i)) for i in range(300)]
    mean = np.mean([count_offenses(CONSTITUTION, text) for text in drafts])
    assert 2 < mean < 3.2


# ---- errors


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: revise(CONSTITUTION[0], "a", skill=2), r"skill must lie in \[0, 1\], got 2"),
        (lambda: revise(CONSTITUTION[0], "a", skill=0.5), "rng must be given where skill"),
        (lambda: revisions("a", (), rounds=1, rng=rng()), "constitution must hold at least one"),
        (lambda: revisions("a", CONSTITUTION, rounds=-1, rng=rng()), "rounds must be at least 0"),
        (lambda: ai_preferences([], (), prefer, rng()), "constitution must hold at least one"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()
