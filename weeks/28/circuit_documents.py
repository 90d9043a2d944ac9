"""Circuit documents: a drawn page read into a netlist that computes, and asked about.

Only gates of two inputs and flowcharts of three kinds of boxes, in the one way that they are drawn
here, with all lines along the page. Symbols are regions that lines enclose, named by a network that
was trained on such pages; lines between them are traced; texts are read by a kept library. Out
comes a graph, so that the reading can be *run*: for all inputs the netlist that was read must give
what the drawn one gives.

>>> drawn = random_page(np.random.default_rng(2), "circuit")
>>> symbols = [Symbol(kind, inside(kind, box)) for kind, box in drawn.symbols]
>>> words = iter(["W", "D", "R"])
>>> found = assemble(*upright(drawn.image), symbols, lambda crops: [next(words) for _ in crops])
>>> same_function(found, drawn.diagram)
True

    uv run weeks/28/circuit_documents.py

Sources: J. Bayer et al., "Instance segmentation based graph extraction for handwritten circuit
diagram images" (2023), for the task; texts are read by RapidOCR (2021).
"""

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from shared.errors import UserError
from shared.require import require
from week28.diagrams import Diagram, to_verilog, truth_table
from week28.drawn_pages import random_page  # noqa: F401 (doctest)
from week28.netlists import Crop, Read, assemble, inside  # noqa: F401 (doctest)
from week28.page_facts import Facts
from week28.scanned_pages import Picture, upright
from week28.symbols import Detector, Symbol, lessons  # noqa: F401 (doctest)

ASK = "Name a page first, for example: page.png"


@functools.lru_cache(maxsize=1)
def reader() -> Read:
    """Texts of pictures by RapidOCR, without its search for lines."""
    from rapidocr import RapidOCR

    engine = RapidOCR(
        params={
            "Global.log_level": "critical",
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
    )

    def read(crops: list[Crop]) -> list[str]:
        said = []
        for crop in crops:
            color = np.repeat(np.pad(crop, 4, constant_values=240)[..., None], 3, axis=2)
            found = engine(color, use_det=False, use_cls=False, use_rec=True)
            said.append(found.txts[0].strip() if found.txts else "")
        return said

    return read


def read_page(image: Picture, detector: Detector, read: Read, **options) -> Diagram:
    """The graph of a scanned page."""
    flat, ink = upright(image)
    return assemble(flat, ink, detector.find(flat, ink), read, **options)


def same_function(a: Diagram, b: Diagram) -> bool:
    """Whether circuits have the same labels and give the same outputs for all inputs."""
    for kind in ("input", "output"):
        labels = [[d.nodes[name].text for name in d.of_kind(kind)] for d in (a, b)]
        if labels[0] != labels[1] or len(set(labels[0])) < len(labels[0]):
            return False
    try:
        return bool((truth_table(a) == truth_table(b)).all())
    except ValueError:  # a gate without an input, or a loop
        return False


# ---- asked about a page


@functools.lru_cache(maxsize=1)
def trained(seed: int = 0, n_pages: int = 60, steps: int = 130) -> Detector:
    """The detector that conversations use; it is trained when the first page comes."""
    detector = Detector(torch.Generator().manual_seed(seed))
    detector.learn(*lessons(np.random.default_rng(seed), n_pages), steps)
    return detector


@functools.lru_cache(maxsize=8)
def _read_file(path: str, _changed: float) -> Diagram:
    image = np.asarray(Image.open(path).convert("L"))
    return read_page(image, trained(), reader())


NAMED = re.compile(r"\S+\.(?:png|jpe?g|tiff?)\b", flags=re.IGNORECASE)


def page_in(messages: Sequence[Mapping[str, str]]) -> Path:
    """The picture that the user named last, in the current folder or below.

    Who talks through a server must not reach other files of its machine.

    Raises
    ------
    UserError
        If none was named, it lies elsewhere, or it is not there.
    """
    said = " ".join(turn["content"] for turn in messages if turn["role"] == "user")
    named = NAMED.findall(said)
    require(named, ASK, error=UserError)
    path = Path(named[-1])
    here = path.resolve().is_relative_to(Path.cwd().resolve())
    require(here, "the page must lie in the current folder or below", path, error=UserError)
    require(path.is_file(), "the page must be a file that is there", path, error=UserError)
    return path


def reply(messages: Sequence[Mapping[str, str]]) -> str:
    """An answer about the page named in a message: a fact of it, or the whole if only named."""
    path = page_in(messages)
    diagram = _read_file(str(path), path.stat().st_mtime)
    require(diagram.nodes, f"{path.name} must show a circuit or a flowchart", error=UserError)
    question = NAMED.sub("", messages[-1]["content"]).strip(" ,.:;\n")
    facts = Facts(diagram)
    if question:
        return facts.answer(question)
    if not diagram.is_circuit:
        return "\n".join(sentence for _, sentence in facts.facts)
    try:
        return to_verilog(diagram)
    except ValueError:  # a loop: what is left are the sentences
        return "\n".join(sentence for _, sentence in facts.facts)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
