"""Facts, search, marginals and the judging of papers/2020-rag."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_scripts import load

from shared import papers, records
from shared.run import Run

SCRIPT = records.ROOT / "papers/2020-rag/reproduce.py"
paper = load(SCRIPT)


@pytest.fixture(scope="module")
def corpus():
    return paper.Corpus(0, dim=16, entities=12, sentences=4)


def test_a_question_across_the_gap_shares_no_word_with_a_passage():
    world = paper.world(0, entities=5)
    told = {word for passage in world.passages() for word in passage}
    asked = {word for question in world.questions(paper.GAP) for word in question}
    assert not told & asked
    for passage, question, answer in zip(
        world.passages(), world.questions(paper.VERBATIM), world.answers(), strict=True
    ):
        assert set(question[3:]) <= set(passage)
        assert [word for word in passage if word.startswith("v")] == answer


def test_synonyms_stand_beside_the_same_words():
    near = {}
    for word, *beside in paper.world(0, entities=5, sentences=60).text:
        near.setdefault(word, []).extend(beside)
    often = {word: set(sorted(set(x), key=x.count)[-3:]) for word, x in near.items()}
    assert sum(often[f"e{i}"] == often[f"f{i}"] for i in range(5)) >= 4


def test_changed_facts_have_no_word_in_common_with_the_old():
    world = paper.world(0, entities=30)
    other = world.changed(np.random.default_rng(0))
    assert (world.values != other.values).all()
    assert other.values.max() < 60
    assert (other.facts, other.turned) == (world.facts, world.turned)


def test_training_and_test_ask_about_other_facts(corpus):
    asked = set(corpus.train.tolist()), set(corpus.test.tolist())
    assert not asked[0] & asked[1]
    assert len(asked[0] | asked[1]) == len(corpus.world.facts)


@given(st.integers(0, 1000))
def test_the_gradient_is_posterior_minus_prior(seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(2, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    words = torch.rand(2, 5, 2, generator=generator, dtype=torch.float64)
    prior = scores.softmax(dim=1)
    paper.sequence_marginal(prior, words).sum().backward()
    joint = prior.detach() * words.prod(dim=-1)
    posterior = joint / joint.sum(dim=1, keepdim=True)
    torch.testing.assert_close(scores.grad, posterior - prior.detach())


def test_both_marginals_agree_where_one_passage_is_certain():
    prior, words = torch.tensor([[1.0, 0.0]]), torch.tensor([[[0.5, 0.2], [0.1, 0.9]]])
    for marginal in (paper.sequence_marginal, paper.token_marginal):
        assert marginal(prior, words).exp().item() == pytest.approx(0.1)


def test_the_reader_gives_probabilities_and_copies_in_order(corpus):
    reader = paper.copying_reader(corpus, 0, 40)
    questions = corpus.questions[paper.GAP]
    read, answers = corpus.passages[:, None], corpus.answers[:, None]
    p = reader(questions, read, answers)
    torch.testing.assert_close(p.sum(dim=-1), torch.ones(p.shape[:-1]))
    written = paper.write(reader, torch.ones(len(read), 1), questions, read)
    assert (written == corpus.answers).all(dim=1).float().mean() > 0.9


def test_an_answer_is_judged_by_all_passages():
    class Sure(torch.nn.Module):
        """Reads the first word of a passage, twice."""

        def forward(self, questions, passages, answers):
            p = torch.nn.functional.one_hot(passages[..., :1].expand(*answers.shape), 4)
            return 0.9 * p + 0.025

    read = torch.tensor([[[1], [2], [2]]])
    prior = torch.tensor([[0.4, 0.3, 0.3]])
    assert paper.write(Sure(), prior, torch.zeros(1, 1, dtype=torch.int64), read).tolist() == [
        [2, 2]
    ]


def test_only_learned_search_learns(corpus):
    reader = paper.copying_reader(corpus, 0, 5)
    for name in (paper.FROZEN, paper.LEARNED):
        arm = paper.Arm(name, corpus, reader)
        before = arm.encoder.weight.clone()
        arm.fit(2, 0.01, 0)
        assert torch.equal(before, arm.encoder.weight) == (name == paper.FROZEN)
        assert not torch.equal(arm.reader.own.weight, reader.own.weight)


def test_bm25_finds_what_shares_words(corpus):
    reader = paper.copying_reader(corpus, 0, 1)
    assert paper.Arm(paper.LEXICAL, corpus, reader).found(paper.VERBATIM) == 100


def test_verdicts_have_the_right_sign(tmp_path):
    matter = papers.load(SCRIPT)
    scores = {paper.CLOSED: (80, 80), paper.LEXICAL: (0, 95), paper.FROZEN: (10, 90)}
    scores |= {paper.LEARNED: (90, 92), paper.AGAIN: (11, 90)}
    found = {
        f"{arm}, {form}": np.full(3, float(value))
        for arm, of in scores.items()
        for form, value in zip(paper.FORMS, of, strict=True)
    }
    for name, index, right in (
        (paper.LEARNED, "new", 88),
        (paper.LEARNED, "old", 1),
        (paper.CLOSED, "new", 2),
    ):
        found[f"{name}, new facts, {index} passages"] = np.full(3, float(right))
    run = Run(SCRIPT, out=tmp_path, quiet=True)
    paper.judge(run, matter, found)
    assert [claim["verdict"] for claim in run.claims] == ["reproduced"] * 4
    assert [claim["mean"] for claim in run.claims] == pytest.approx([80, 3, 100 * 88 / 91, 2])
    assert all(row["broken"] for row in run.falsifiers)


def test_wrong_input(corpus):
    with pytest.raises(ValueError, match="form must be other words or the same words"):
        corpus.world.questions("French")
    with pytest.raises(ValueError, match="name must be one of closed book, BM25"):
        paper.Arm("open book", corpus, None)
