"""The judging of Constitutional AI: scores in units of the drafts, and a falsifier that is one."""

import numpy as np
import pytest
from test_scripts import load

from shared import records

paper = load(records.ROOT / "papers/2022-constitutional-ai/reproduce.py")


def test_scores_are_in_standard_deviations_of_the_drafts():
    histories = [["a", "bb"], ["ccc", "dddd"], ["e", "ffff"]]

    def length(texts):
        return np.array([len(text) for text in texts], dtype=float)

    drafts = np.array([1.0, 3.0, 1.0])
    want = (10 / 3 - drafts.mean()) / drafts.std()
    np.testing.assert_allclose(paper.scores(length, histories), [0, want])


def test_random_rewriting_leaves_as_many_words_and_mends_nothing():
    rng = np.random.default_rng(0)
    first, last = [], []
    for _ in range(150):
        history = paper.rewritten_at_random(paper.write_draft(paper.CONSTITUTION, rng), 4, rng)
        assert len({len(text.split()) for text in history}) == 1
        first.append(paper.Scorer.truth(history[0]))
        last.append(paper.Scorer.truth(history[-1]))
    assert np.mean(last) > np.mean(first) + 0.2  # some of the new words offend


def test_the_scorer_prefers_what_offends_less():
    scorer = paper.Scorer(600, np.random.default_rng(0))
    bad, mended = scorer(["a stupid word to destroy", "an understandable word to repair"])
    assert mended > bad
    assert scorer.differences.shape[0] == 600
    assert pytest.approx(0.8) == paper.SKILL
