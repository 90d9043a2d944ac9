"""Metrics by name: what a document is worth, and what all of them are worth together.

Names and meanings are the lm-evaluation-harness's where it has them. A document's value is small
and survives JSON: a number, or what a corpus metric needs of it, such as counts of n-grams.

>>> acc_norm = metric("multiple_choice", "acc_norm")
>>> values = [acc_norm.value([-6.0, -8.0], ["No.", "Certainly not."], gold) for gold in (1, 0, 1)]
>>> values, round(acc_norm.aggregate(values), 4), acc_norm.linear
([1.0, 0.0, 1.0], 0.6667, True)
>>> metric("generate_until", "exact_match", ignore_case=True).signature
'exact_match|case:no|punct:yes|numbers:yes|regexes_to_ignore:none|version:1'
>>> metric("loglikelihood", "bleu")
Traceback (most recent call last):
shared.errors.UserError: metric of loglikelihood must be acc or perplexity, got 'bleu'
"""

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from llm_eval.metrics import answers, choices, code, perplexity
from llm_eval.statistics.estimates import Estimate, bootstrap_estimate, mean_estimate
from shared.errors import UserError
from week06.metrics import f1

VERSION = 1  # of all that is below; a change of any result is another


@dataclass(frozen=True)
class Metric:
    """A metric with its options.

    Attributes
    ----------
    signature
        The protocol in one line, as sacreBLEU's.
    value
        Of one document. multiple_choice: `value(logprobs, choices, gold)`. loglikelihood:
        `value(logprob, greedy)`. loglikelihood_rolling: `value(logprob, text)`. generate_until:
        `value(prediction, references)`.
    aggregate
        The number that a list of values makes.
    linear
        It is their mean.
    """

    name: str
    output_type: str
    higher_is_better: bool
    signature: str
    value: Callable[..., Any]
    aggregate: Callable[[Sequence[Any]], float]
    linear: bool

    def estimate(
        self, values: Sequence[Any], *, clusters: Sequence[Hashable] | None = None, seed: int = 0
    ) -> Estimate:
        """The number with its interval; documents are drawn, or whole clusters of them."""
        if self.linear:
            return mean_estimate(values, clusters=clusters)
        return bootstrap_estimate(values, self.aggregate, seed=seed, clusters=clusters)


def metric(output_type: str, name: str, **options: Any) -> Metric:
    """The metric of that name for tasks of that type.

    Parameters
    ----------
    options
        As in a task's `metric_list`: `ignore_case` of exact_match, `average` of f1, `tokenize` of
        bleu, … `pass@K` runs programs and wants `allow_code=True`.

    Raises
    ------
    UserError
        There is no such type, metric or option.
    """
    if output_type not in RECIPES:
        raise UserError(f"output_type must be {_either(RECIPES)}, got {output_type!r}")
    known = RECIPES[output_type]
    kind = "pass@K" if re.fullmatch(r"pass@[1-9]\d*", name) else name
    if kind not in known:
        raise UserError(f"metric of {output_type} must be {_either(known)}, got {name!r}")
    if kind != name:
        options |= {"k": int(name.removeprefix("pass@"))}
    recipe = known[kind]
    _check(name, recipe, options)
    chosen = recipe.of_value | recipe.of_all | options
    return Metric(
        name,
        output_type,
        recipe.higher_is_better,
        _signature(name, recipe, chosen),
        partial(recipe.value, **{key: chosen[key] for key in recipe.of_value}),
        partial(recipe.aggregate, **{key: chosen[key] for key in recipe.of_all}),
        recipe.aggregate is _mean,
    )


# ---- values and aggregates


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _right(logprobs: list, texts: list, gold: Any, *, per: choices.Per = "answer") -> float:
    return choices.is_right(choices.best(logprobs, texts, per=per), gold, len(logprobs))


def _pair(logprobs: list, texts: list, gold: int) -> tuple[int, int]:
    choices.is_right(0, gold, len(logprobs))  # or it raises
    return gold, choices.best(logprobs)


def _f1(pairs: Sequence[Sequence[int]], *, average: str = "binary") -> float:
    gold, chosen = (np.array(side) for side in zip(*pairs, strict=True))
    classes = len(np.unique([gold, chosen]))
    if average == "binary" and classes > 2:
        raise UserError(f"average of f1 must be macro, micro or weighted for {classes} choices")
    if average == "binary":  # of the second choice, even if it occurs nowhere
        gold, chosen = gold == 1, chosen == 1
    return float(f1(gold, chosen, average=average))


def _mcc(pairs: Sequence[Sequence[int]]) -> float:
    return choices.mcc(*zip(*pairs, strict=True))


def _pass_at_k(
    prediction: str | Sequence[str],
    references: Sequence[str],
    *,
    k: int = 1,
    allow_code: bool = False,
    seconds: float = 5.0,
) -> float:
    """Of one program, or of the n that were written for a document; references are its tests."""
    programs = [prediction] if isinstance(prediction, str) else list(prediction)
    limits = {"allow_code": allow_code, "seconds": seconds}
    passed = [code.passes(program, "\n".join(references), **limits).passed for program in programs]
    return code.pass_at_k(len(programs), sum(passed), k)


def _counts(prediction: str, references: Sequence[str], *, module: str, **options: Any) -> list:
    return list(_module(module).statistics(prediction, references, **options))


def _score(rows: Sequence[Sequence[float]], *, module: str, **options: Any) -> float:
    return _module(module).from_statistics(rows, **options).score


def _rouge(prediction: str, references: Sequence[str], *, kind: str, stem: bool = False) -> float:
    rouge = _module("rouge").rouge
    return max(rouge(prediction, text, (kind,), stem=stem)[kind].f1 for text in references)


def _module(name: str) -> Any:
    return import_module(f"llm_eval.metrics.{name}")


def _likelihood(logprob: float, greedy: bool) -> float:
    return logprob


def _greedy(logprob: float, greedy: bool) -> float:
    return float(greedy)


def _brier(logprobs: list, texts: list, gold: int) -> float:
    return choices.brier(logprobs, gold)


def _per_word(logprob: float, text: str) -> tuple[float, int]:
    return logprob, perplexity.count_words(text)


def _per_byte(logprob: float, text: str) -> tuple[float, int]:
    return logprob, perplexity.count_bytes(text)


# ---- recipes


@dataclass(frozen=True)
class _Recipe:
    """How a metric is made; `of_value` and `of_all` are the options of its two functions."""

    value: Callable[..., Any]
    aggregate: Callable[..., float] = _mean
    higher_is_better: bool = True
    of_value: Mapping[str, Any] = field(default_factory=dict)
    of_all: Mapping[str, Any] = field(default_factory=dict)
    words: str = ""  # what else the signature says
    module: str = ""  # writes its own signature


EXACT = {"ignore_case": False, "ignore_punctuation": False, "ignore_numbers": False}
BLEU = {"tokenize": "13a", "lowercase": False, "max_ngram_order": 4}
SMOOTHING = {"smooth_method": "exp", "smooth_value": None, "effective_order": False}
F = {"beta": 2, "eps_smoothing": False}
CHRF = {"char_order": 6, "word_order": 0, "lowercase": False, "whitespace": False} | F
TER = dict.fromkeys(("normalized", "no_punct", "asian_support", "case_sensitive"), False)
PASS = {"k": 1, "allow_code": False, "seconds": 5.0}


def _corpus(name: str, value: Mapping, total: Mapping, higher_is_better: bool = True) -> _Recipe:
    """A metric of all texts together; its module is imported when it is used."""
    counts, score = partial(_counts, module=name), partial(_score, module=name)
    return _Recipe(counts, score, higher_is_better, value, total, module=name)


def _rouge_of(kind: str) -> _Recipe:
    return _Recipe(partial(_rouge, kind=kind), of_value={"stem": False}, words="score:f1")


RECIPES: dict[str, dict[str, _Recipe]] = {
    "multiple_choice": {
        "acc": _Recipe(_right, words="norm:none"),
        "acc_norm": _Recipe(partial(_right, per="character"), words="norm:characters"),
        "acc_bytes": _Recipe(partial(_right, per="byte"), words="norm:bytes"),
        "f1": _Recipe(_pair, _f1, of_all={"average": "binary"}),
        "mcc": _Recipe(_pair, _mcc),
        "brier_score": _Recipe(_brier, higher_is_better=False),
    },
    "loglikelihood": {
        "acc": _Recipe(_greedy),
        "perplexity": _Recipe(_likelihood, perplexity.perplexity, False),
    },
    "loglikelihood_rolling": {
        "word_perplexity": _Recipe(_per_word, perplexity.weighted_perplexity, False),
        "byte_perplexity": _Recipe(_per_byte, perplexity.weighted_perplexity, False),
        "bits_per_byte": _Recipe(_per_byte, perplexity.bits_per_byte, False),
    },
    "generate_until": {
        "exact_match": _Recipe(answers.exact_match, of_value=EXACT | {"regexes_to_ignore": ()}),
        "quasi_exact_match": _Recipe(answers.quasi_exact_match, words="norm:squad"),
        "squad_exact_match": _Recipe(answers.squad_exact_match, words="norm:squad"),
        "token_f1": _Recipe(answers.token_f1, words="norm:squad"),
        "bleu": _corpus("bleu", BLEU, SMOOTHING),
        "chrf": _corpus("chrf", CHRF, F),
        "chrf++": _corpus("chrf", CHRF | {"word_order": 2}, F),
        "ter": _corpus("ter", TER, {}, higher_is_better=False),
        **{kind: _rouge_of(kind) for kind in ("rouge1", "rouge2", "rougeL", "rougeLsum")},
        "pass@K": _Recipe(_pass_at_k, of_value=PASS),
    },
}


# ---- options and signatures

UNSIGNED = ("k", "allow_code")  # the name says the one, and the other changes no number
UNTOLD = ("beta", "max_ngram_order")  # which sacreBLEU's signatures pass over
SHORT = {"ignore_case": "case", "ignore_punctuation": "punct", "ignore_numbers": "numbers"}


def _signature(name: str, recipe: _Recipe, options: Mapping[str, Any]) -> str:
    if recipe.module:
        more = [f"{key}:{options[key]}" for key in UNTOLD if key in options]
        told = {key: value for key, value in options.items() if key not in UNTOLD}
        own = _module(recipe.module).signature(**{"nrefs": "var"} | told)
        return "|".join([name, own, *more])
    words = [_word(key, value) for key, value in options.items() if key not in UNSIGNED]
    words += [recipe.words] if recipe.words else []
    return "|".join([name, *words, f"version:{VERSION}"])


def _word(key: str, value: Any) -> str:
    if isinstance(value, bool):
        value = "yes" if value != (key in SHORT) else "no"  # told as what counts
    if isinstance(value, list | tuple):
        value = ",".join(value) or "none"
    return f"{SHORT.get(key, key)}:{value}"


def _check(name: str, recipe: _Recipe, options: Mapping[str, Any]) -> None:
    known = {**recipe.of_value, **recipe.of_all, **({"nrefs": 1} if recipe.module else {})}
    for key, value in options.items():
        if key not in known:
            raise UserError(f"options of {name} must be {_either(known)}, got {key!r}")
        if isinstance(known[key], bool) and not isinstance(value, bool):
            raise UserError(f"{key} of {name} must be true or false, got {value!r}")
    patterns = options.get("regexes_to_ignore", [])
    if not isinstance(patterns, list | tuple) or not all(isinstance(p, str) for p in patterns):
        raise UserError(f"regexes_to_ignore of {name} must be a list of texts, got {patterns!r}")
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(f"regexes_to_ignore of {name}: {error}, got {pattern!r}") from None


def _either(names: Mapping[str, Any]) -> str:
    *others, last = list(names) or ["none"]
    return f"{', '.join(others)} or {last}" if others else last
