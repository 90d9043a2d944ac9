"""What BLEU, chrF, TER and ROUGE share: pairs of texts, n-grams, matches and signatures.

>>> counts(ngrams("a rose is a rose".split(), 2))[("a", "rose")]
2
>>> matches(counts("aab"), counts("abb"))  # each counts as often as both have it
2
>>> signed(nrefs=1, case="mixed", eff=False)
'nrefs:1|case:mixed|eff:no|version:llm-eval-1'

Source: Post, "A Call for Clarity in Reporting BLEU Scores" (2018), for signatures.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from shared.require import require

VERSION = "llm-eval-1"  # changes when a score does

References = Sequence[str | None]  # of one hypothesis; None stands where a text has fewer
NRefs = int | Literal["var"]


def paired(
    hypotheses: Sequence[str], references: Sequence[References]
) -> Iterator[tuple[str, References]]:
    """Each hypothesis with its references.

    Raises
    ------
    ValueError
        There is no hypothesis, or references are not a list for each.
    """
    require(len(hypotheses) > 0, "hypotheses must be at least one", 0)
    must = f"references must be a list for each of {len(hypotheses)} hypotheses"
    require(len(references) == len(hypotheses), must, len(references))
    for hypothesis, texts in zip(hypotheses, references, strict=True):
        require(not isinstance(texts, str), must, repr(texts))
        yield hypothesis, texts


def given(references: References) -> list[str]:
    """References without None; there must be one."""
    texts = [text for text in references if text is not None]
    require(texts, "references must hold at least one text", list(references))
    return texts


def count_references(references: Sequence[References]) -> NRefs:
    """How many each hypothesis has, or `var`: for a signature."""
    found = {sum(text is not None for text in texts) for texts in references}
    return found.pop() if len(found) == 1 else "var"


def ngrams(items: Sequence[Hashable], n: int) -> Iterable[Hashable]:
    """Runs of n neighbors; of 1, the items themselves."""
    return zip(*(items[i:] for i in range(n)), strict=False) if n > 1 else items


def counts(items: Iterable[Hashable]) -> Counter[Hashable]:
    """How often each occurs."""
    return Counter(items)


def matches(found: Mapping[Hashable, int], allowed: Mapping[Hashable, int]) -> int:
    """How many are in both, with repetition."""
    return sum(min(found[item], allowed[item]) for item in found.keys() & allowed.keys())


def summed(rows: Iterable[Sequence[float]]) -> list[float]:
    """Statistics of a corpus, from those of its texts."""
    return [sum(column) for column in zip(*rows, strict=True)]


def signed(nrefs: NRefs, **settings: Any) -> str:
    """A protocol in one line, in sacreBLEU's spelling."""
    names = {True: "yes", False: "no"}
    pairs = {"nrefs": nrefs} | settings | {"version": VERSION}
    return "|".join(
        f"{key}:{names[value] if isinstance(value, bool) else value}"
        for key, value in pairs.items()
    )
