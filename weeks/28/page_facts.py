"""What a page says, in sentences: a question finds the nearest of them, or none.

Facts come out of the graph by rule. Each is a sentence with the question that it answers, and these
are what week 12's BM25 searches, so that *before X* is not taken for *after X*. A question about
what is not on the page gets no answer.

>>> nodes = {"a": Node("input", "A"), "g": Node("NOT"), "y": Node("output", "Y")}
>>> facts = Facts(Diagram(nodes, frozenset({Edge("a", "g"), Edge("g", "y")})))
>>> facts.answer("What is Y if A = 1?")
'When A=1, Y is 0.'
>>> facts.answer("Which gate drives Y?")
'Y is driven by a NOT gate; its input is A.'
>>> facts.answer("What drives Q?")
'The page does not mention Q.'

Source: S. Robertson and H. Zaragoza, *The Probabilistic Relevance Framework* (2009), for BM25.
"""

import itertools
import re
from collections import Counter

from week12.bm25 import BM25
from week28.diagrams import GATES, Diagram, Edge, Node, evaluate  # noqa: F401 (doctest)

WORDS = """
a an the is are was be what which who when if while given and or of on in to do does it its this
that answer page shown there next value gate gates step come comes happens happen leads lead turns
"""
SMALL = frozenset(WORDS.split())
SAME = {"feeds": "drives", "driven": "drives", "follows": "after", "precedes": "before"}


def _article(kind: str) -> str:
    return f"{'an' if kind[0] in 'AEIOUX' else 'a'} {kind}"


def _all_of(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _ended(sentence: str) -> str:
    return sentence if sentence.endswith("?") else f"{sentence}."


def circuit_facts(diagram: Diagram) -> list[tuple[str, str]]:
    """Questions and sentences of a circuit: what drives, what counts, and the truth table."""
    found = []

    def called(name: str) -> str:
        kind, text = diagram.nodes[name]
        return text if kind == "input" else f"the output of {_article(kind)} gate"

    inputs = [diagram.nodes[name].text for name in diagram.of_kind("input")]
    outputs = [diagram.nodes[name].text for name in diagram.of_kind("output")]
    for name in diagram.of_kind("output"):
        for driver in diagram.sources(name):
            text, kind = diagram.nodes[name].text, diagram.nodes[driver].kind
            parts = sorted(called(source) for source in diagram.sources(driver))
            inner = f"its input{'s are' if len(parts) > 1 else ' is'} {_all_of(parts)}"
            found.append((f"drives {text}", f"{text} is driven by {_article(kind)} gate; {inner}."))
    kinds = Counter(node.kind for node in diagram.nodes.values() if node.kind in GATES)
    if kinds:
        said = _all_of([f"{n} {kind}" for kind, n in sorted(kinds.items())])
        found.append(("how many count", f"The page shows {kinds.total()} gates: {said}."))
    if inputs and outputs:
        found.append(("inputs", f"The inputs are {_all_of(inputs)}."))
        found.append(("outputs", f"The outputs are {_all_of(outputs)}."))
    try:
        for row in itertools.product((False, True), repeat=len(inputs)):
            given = [f"{text}={int(value)}" for text, value in zip(inputs, row, strict=True)]
            for text, value in evaluate(diagram, dict(zip(inputs, row, strict=True))).items():
                question = f"{text} {' '.join(given)}"
                found.append((question, f"When {_all_of(given)}, {text} is {int(value)}."))
    except ValueError:
        pass  # a reading with a gap computes nothing; what it says of gates may still hold
    return found


def flowchart_facts(diagram: Diagram) -> list[tuple[str, str]]:
    """Questions and sentences of a flowchart: what comes after and before each step."""
    found = []
    for name, (_, text) in diagram.nodes.items():
        after = [edge for edge in diagram.edges if edge.source == name]
        for edge in after:
            condition = f", if {edge.label}," if edge.label else ""
            follows = diagram.nodes[edge.target].text
            found.append(
                (f"after {text} {edge.label}", f"After {text}{condition} comes {_ended(follows)}")
            )
        before = sorted(diagram.nodes[source].text for source in diagram.sources(name))
        if before:
            found.append((f"before {text}", f"Before {text} comes {_ended(_all_of(before))}"))
    texts = sorted(node.text for node in diagram.nodes.values() if node.kind == "decision")
    found.append(
        ("how many decisions", f"The page shows {len(texts)} decisions: {_ended(_all_of(texts))}")
    )
    return found


class Facts:
    """The sentences of a page, and answers out of them."""

    def __init__(self, diagram: Diagram):
        make = circuit_facts if diagram.is_circuit else flowchart_facts
        self.facts = make(diagram)
        self.labels = {n.text for n in diagram.nodes.values() if n.kind in ("input", "output")}
        self.inputs = {n.text for n in diagram.nodes.values() if n.kind == "input"}
        terms = [self.terms(question) for question, _ in self.facts]
        self.known = {term for words in terms for term in words}
        self.index = BM25().add([str(i) for i in range(len(terms))], terms)

    def terms(self, text: str) -> list[str]:
        """Terms of a question: labels as they are, values as one term each, no small words."""
        found = []
        for word in re.findall(r"\w+=[01]|\w+", re.sub(r"\s*=\s*", "=", text)):
            name, equals, value = word.partition("=")
            if name not in self.labels and not (name.upper() in self.labels and name != "a"):
                name = SAME.get(name.lower(), name if equals else name.lower())
                if not equals and name in SMALL:
                    continue
            elif name not in self.labels:
                name = name.upper()
            found.append(name + equals + value)
        return found

    def answer(self, question: str) -> str:
        """The sentence whose question is nearest, or what is missing."""
        terms = self.terms(question)
        unknown = [term.partition("=")[0] for term in terms if term not in self.known]
        if unknown:
            if unknown[0] in self.inputs:
                return f"{unknown[0]} is an input: nothing on the page drives it."
            as_said = {word.lower(): word for word in re.findall(r"\w+", question)}
            return f"The page does not mention {as_said.get(unknown[0].lower(), unknown[0])}."
        names, _ = self.index.search(terms, k=1) if terms else ([], None)
        if not names:
            return "Ask what drives an output, what it is for given inputs, or what comes after."
        asked, sentence = self.facts[int(names[0])]
        missing = [term for term in self.terms(asked) if "=" in term and term not in terms]
        if missing and any("=" in term for term in terms):
            return f"That also needs {_all_of([m.partition('=')[0] for m in missing])}."
        return sentence
