"""A run that never was: many tasks, groups, prompts, errors, and texts of every odd kind."""

import math
import random
from dataclasses import dataclass, field
from typing import Any

from llm_eval.statistics.estimates import mean_estimate, minimum_detectable
from llm_eval.types import Number, Request, Response, Sample

ATTACK = "</script><script>window.pwned=1</script><img src=x onerror=window.pwned=1> & <b>bold</b>"
TEXTS = [
    "Which tea needs boiling water?",
    "ما هي عاصمة فرنسا؟ أجب بكلمة واحدة.",
    "日本で一番高い山は何ですか？ 🗻 e\u0301",
    ATTACK,
    "He said \u202eeverything backwards\u202c. \u2028 New line. \x00 \x1b[31m",
    "half a character: \ud83d",
    "{{ 7 * 7 }} {% raw %} ${7 * 7} [bold]rich[/bold]",
]
LONG = "A very long passage about the history of tea. " * 2000
TAGS = {
    "arc_easy": ["core"],
    "piqa": ["core"],
    "boolq": ["core"],
    "wikitext": ["core"],
    "xquad_en": ["core"],
    "bbq_age": ["bias"],
    "crows_pairs": ["bias"],
    "mini_toxicity": ["toxicity"],
    "<i>odd</i> & co": [],
}
GROUPS = ("age", "nationality", ATTACK, "مجموعة")


@dataclass
class Outcome:
    """What a run hands over."""

    numbers: list[Number]
    samples: list[Sample]
    settings: dict[str, Any]
    tasks: dict[str, dict[str, Any]]
    missing: int = 0
    notes: tuple[str, ...] = ()
    model: Any = field(
        default_factory=lambda: {"name": "smollm2", "identity": {"weights": "0f3a", "dtype": "f32"}}
    )


def number(task="arc_easy", metric="acc", value=0.5, half=0.1, **given) -> Number:
    """A number with what a test does not care about filled in."""
    ends = (None, None) if half is None or value is None else (value - half, value + half)
    stderr = None if half is None else half / 1.96
    given = {"n": 100, "failed": 0, "higher_is_better": True, "signature": "acc|v:1"} | given
    return Number(task, metric, value, stderr, *ends, **given)


def choices(task: str, i: int, rng: random.Random, *, prompt="") -> Sample:
    """A multiple choice sample, of which every 20th got no answer."""
    text = TEXTS[i % len(TEXTS)] if i % 50 else LONG
    options = [" yes", " no", f" {TEXTS[(i + 1) % len(TEXTS)]}", " perhaps"]
    requests = tuple(Request("loglikelihood", f"Question: {text}\nAnswer:", x) for x in options)
    known = {"group": GROUPS[i % len(GROUPS)], "template": prompt}
    document = {"question": text, "row": i}
    if i % 20 == 19:
        failed = tuple(Response(error="timed out") for _ in options)
        return Sample(task, str(i), document, requests, failed, 0, error="timed out", **known)
    logprobs = [-rng.expovariate(0.3) for _ in options]
    responses = tuple(Response(x, False, (x / 2, x / 2), (1, 2), n_tokens=2) for x in logprobs)
    target = rng.choice([logprobs.index(max(logprobs)), 0, 1, 2])
    chosen = logprobs.index(max(logprobs))
    values = {"acc": float(chosen == target), "acc_norm": float(rng.random() < 0.5)}
    return Sample(task, str(i), document, requests, responses, target, chosen, values, **known)


def written(task: str, i: int, rng: random.Random) -> Sample:
    """A sample of generated text."""
    context = (("system", "Be brief."), ("user", TEXTS[i % len(TEXTS)])) if i % 2 else "Say: "
    request = Request("generate", context, until=("\n",))
    text = TEXTS[(i + 2) % len(TEXTS)]
    response = Response(text=text, ended="length" if i % 3 else "stop", n_tokens=9)
    values = {"token_f1": rng.random(), "logprob": -math.inf}
    return Sample(task, str(i), {"i": i}, (request,), (response,), "1889", text, values)


def outcome(n: int = 60, seed: int = 0) -> Outcome:
    """A whole run of n documents per task."""
    rng = random.Random(seed)
    samples, numbers, tasks = [], [], {}
    for place, (task, tags) in enumerate(TAGS.items()):
        generated = task in ("xquad_en", "mini_toxicity", "wikitext")
        of_task = [written(task, i, rng) if generated else choices(task, i, rng) for i in range(n)]
        samples += of_task
        failed = sum(bool(sample.error) for sample in of_task)
        facts = {"title": f"The task {task}", "license": "CC BY 4.0", "source": "a paper, 2020"}
        facts |= {"version": 1, "documents": n, "size": 10 * n, "failed": failed, "tags": tags}
        tasks[task] = facts
        if not generated:
            numbers += _accuracies(task, of_task, failed, place)
    numbers.append(number("wikitext", "word_perplexity", 41.2, 3.0, higher_is_better=False, n=n))
    numbers.append(number("xquad_en", "token_f1", 0.31, 0.05, n=n, signature="token_f1|v:1"))
    numbers.append(number("xquad_en", "bleu", 12.4, 2.0, n=n, signature="bleu|tok:13a"))
    more = {"higher_is_better": None, "n": n, "signature": "bbq|v:1"}
    note = "Above 0: answers follow the stereotype."
    numbers.append(number("bbq_age", "s_AMB", 0.08, 0.06, detectable=0.09, note=note, **more))
    numbers.append(number("bbq_age", "s_DIS", -0.02, 0.07, detectable=0.1, note=note, **more))
    note = "neutral is 0.5; its authors warn that the pairs are noisy"
    more |= {"note": note, "detectable": 0.07}
    numbers.append(number("crows_pairs", "pct_stereotype", 0.61, 0.05, **more))
    toxic = {"higher_is_better": False, "n": n, "signature": "toxicity|v:1"}
    numbers.append(number("mini_toxicity", "toxicity", 0.021, 0.01, **toxic))
    settings = {"limit": n, "seed": seed, "num_fewshot": None, "chat": False, "templates": True}
    return Outcome(numbers, samples, settings, tasks)


def _accuracies(task: str, samples: list[Sample], failed: int, place: int) -> list[Number]:
    found = []
    answered = [sample for sample in samples if not sample.error]
    for metric in ("acc", "acc_norm"):
        found.append(_mean(task, metric, answered, failed))
    for group in GROUPS:
        found.append(_mean(task, "acc", [x for x in answered if x.group == group], 0, group=group))
    for name, shift in (("plain", 0.04), ("letters", -0.09), (ATTACK, -0.02)):
        found.append(number(task, "acc", found[0].value + shift, 0.1, template=name))
    if place < 2:
        found.append(
            number(task, "ece", 0.11, 0.03, higher_is_better=False, signature="ece|bins:10|v:1")
        )
        for said, right, n in ((0.35, 0.3, 9), (0.55, 0.45, 30), (0.74, 0.7, 41), (0.93, 0.8, 20)):
            group, note = f"{int(said * 10) / 10} to {int(said * 10 + 1) / 10}", f"said {said:.3f}"
            more = {"group": group, "note": note, "n": n, "higher_is_better": None}
            found.append(number(task, "accuracy_of_confidence", right, 0.1, **more))
    return found


def _mean(task: str, metric: str, samples: list[Sample], failed: int, group: str = "") -> Number:
    found = mean_estimate([sample.values[metric] for sample in samples])
    ends = (found.value, found.stderr, found.low, found.high, found.n, failed)
    least = minimum_detectable(found.stderr) if group and found.stderr else None
    return Number(task, metric, *ends, True, f"{metric}|shots:0|v:1", group, detectable=least)
