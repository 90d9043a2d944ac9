"""Rows of the benchmark: speed beside lm-eval and the metrics' libraries, resuming, memory.

Sides take turns, a round each, and medians are compared; what both computed must agree, else a
row is an error and not a number.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from llm_eval.benchmark.rivals import ask, lm_eval_smollm2
from llm_eval.models.opening import open_model
from llm_eval.tasks.opening import open_tasks
from llm_eval.types import Model, Request, Response
from shared.errors import UserError
from shared.measuring import seconds

Row = dict[str, Any]
ROUNDS = 3
BATCHES = (1, 8, 32)  # that lm-eval may choose from
GOALS = {
    "choices": ("documents per second at least 2 times lm-eval's", 2.0),
    "generation": ("documents per second at least 1.3 times lm-eval's", 1.3),
    "rouge": ("pairs per second at least 3 times rouge-score's", 3.0),
    "bleu": ("at least as fast as sacrebleu", 1.0),
}


def choices(quick: bool = False) -> Row:
    """Questions with four answers: documents per second, the same choices."""
    n, batches = (3, (1,)) if quick else (100, BATCHES)
    (task,) = open_tasks(["arc_easy"])
    judge = task.judge()
    asked = [judge.requests(document) for _, document in task.documents(n)]
    requests = [request for own in asked for request in own]
    ours, theirs = _duel(requests, batches, 1 if quick else ROUNDS)
    ends = np.cumsum([len(own) for own in asked])[:-1]
    picked = [
        [int(np.argmax(part)) for part in np.split([r.logprob for r in side["responses"]], ends)]
        for side in (ours, theirs)
    ]
    off = max(
        abs(a.logprob - b.logprob)
        for a, b in zip(ours["responses"], theirs["responses"], strict=True)
    )
    agree(picked[0] == picked[1], "choices of both harnesses must be the same", off)
    return _sides(len(asked), ours, theirs) | {"task": "arc_easy", "largest_difference": off}


def generation(quick: bool = False) -> Row:
    """Answers of their own length: documents per second, the same texts."""
    n, batches = (2, (1,)) if quick else (16, BATCHES[:2])
    (task,) = open_tasks(["triviaqa"])
    judge = task.judge()
    requests = [r for _, document in task.documents(n) for r in judge.requests(document)]
    ours, theirs = _duel(requests, batches, 1 if quick else ROUNDS)
    same = [
        a.text.strip() == b.text.strip()
        for a, b in zip(ours["responses"], theirs["responses"], strict=True)
    ]
    return _sides(n, ours, theirs) | {"task": "triviaqa", "same_texts": float(np.mean(same))}


def _duel(requests: Sequence[Request], batches: Sequence[int], rounds: int) -> tuple[Row, Row]:
    model = open_model("smollm2")
    answer_all(model, requests[: len(requests) // 4 or 1])  # warms up
    harness = lm_eval_smollm2()
    sizes = {size: seconds(lambda size=size: ask(harness, requests, size))[0] for size in batches}
    best = min(sizes, key=sizes.__getitem__)
    taken: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(rounds):
        took, mine = seconds(lambda: answer_all(model, requests))
        taken["ours"].append(took)
        took, other = seconds(lambda: ask(harness, requests, best))
        taken["theirs"].append(took)
    note = f"batch size {best}, the best of {', '.join(map(str, batches))}"
    ours = {"seconds": float(np.median(taken["ours"])), "responses": mine, "note": "one batch plan"}
    theirs = {"seconds": float(np.median(taken["theirs"])), "responses": other, "note": note}
    return ours, theirs


def answer_all(model: Model, requests: Sequence[Request]) -> list[Response]:
    """All answers, by the model's own plan."""
    found: dict[int, Response] = {}
    for batch in model.plan(requests):
        found |= dict(zip(batch, model.answer([requests[i] for i in batch]), strict=True))
    return [found[i] for i in range(len(requests))]


def _sides(n: int, ours: Row, theirs: Row) -> Row:
    lines = [
        {"side": side, "per_second": n / row["seconds"], "note": row["note"]}
        for side, row in (("llm-eval", ours), ("lm-eval", theirs))
    ]
    return {"n": n, "lines": lines, "times": theirs["seconds"] / ours["seconds"]}


# ---- metrics


def pairs(n: int) -> tuple[list[str], list[str]]:
    """Hypotheses and references: HaluEval's responses, words of which were dropped and swapped."""
    rng = np.random.default_rng(0)
    (task,) = open_tasks(["halueval"])
    references = [str(document["chatgpt_response"]) for _, document in task.documents(n)]
    hypotheses = []
    for text in references:
        words = [word for word in text.split() if rng.random() > 0.15]
        for i in range(len(words) - 1):
            if rng.random() < 0.1:
                words[i], words[i + 1] = words[i + 1], words[i]
        hypotheses.append(" ".join(words))
    return hypotheses, references


def rouge(quick: bool = False) -> Row:
    """ROUGE-1, -2 and -L of pairs of texts, with stems."""
    from rouge_score.rouge_scorer import RougeScorer

    from llm_eval.metrics.rouge import rouge as ours

    kinds = ("rouge1", "rouge2", "rougeL")
    scorer = RougeScorer(list(kinds), use_stemmer=True)
    hypotheses, references = pairs(20 if quick else 1000)
    both = list(zip(hypotheses, references, strict=True))

    def mine():
        return [[s.f1 for s in ours(h, r, kinds, stem=True).values()] for h, r in both]

    def theirs():
        return [[s.fmeasure for s in scorer.score(r, h).values()] for h, r in both]

    return _metric(mine, theirs, len(both), "rouge-score", quick)


def bleu(quick: bool = False) -> Row:
    """Corpus BLEU of pairs of texts."""
    import sacrebleu

    from llm_eval.metrics.bleu import corpus_bleu

    hypotheses, references = pairs(20 if quick else 1000)
    lists = [[reference] for reference in references]
    return _metric(
        lambda: corpus_bleu(hypotheses, lists).score,
        lambda: sacrebleu.corpus_bleu(hypotheses, [references], use_effective_order=False).score,
        len(hypotheses),
        "sacrebleu",
        quick,
    )


def chrf(quick: bool = False) -> Row:
    """Corpus chrF of pairs of texts."""
    import sacrebleu

    from llm_eval.metrics.chrf import corpus_chrf

    hypotheses, references = pairs(20 if quick else 1000)
    lists = [[reference] for reference in references]
    return _metric(
        lambda: corpus_chrf(hypotheses, lists).score,
        lambda: sacrebleu.corpus_chrf(hypotheses, [references]).score,
        len(hypotheses),
        "sacrebleu",
        quick,
    )


def ter(quick: bool = False) -> Row:
    """Corpus TER of pairs of texts."""
    import sacrebleu

    from llm_eval.metrics.ter import corpus_ter

    hypotheses, references = pairs(5 if quick else 100)
    lists = [[reference] for reference in references]
    return _metric(
        lambda: corpus_ter(hypotheses, lists).score,
        lambda: sacrebleu.corpus_ter(hypotheses, [references]).score,
        len(hypotheses),
        "sacrebleu",
        quick,
    )


def _metric(
    mine: Callable[[], Any], theirs: Callable[[], Any], n: int, rival: str, quick: bool
) -> Row:
    a, b = mine(), theirs()  # also to warm up
    off = float(np.max(np.abs(np.asarray(a) - np.asarray(b))))
    agree(off <= 1e-10, f"{rival} must agree to 1e-10", off)
    taken = np.median([[seconds(mine)[0], seconds(theirs)[0]] for _ in range(1 if quick else 5)], 0)
    lines = [
        {"side": side, "per_second": n / took}
        for side, took in zip(("llm-eval", rival), taken.tolist(), strict=True)
    ]
    times = float(taken[1] / taken[0])
    return {"n": n, "lines": lines, "times": times, "largest_difference": off}


def agree(holds: bool, must: str, got: float) -> None:
    """Raise if sides that must agree do not."""
    if not holds:
        raise UserError(f"{must}, got a difference of {got:g}")
