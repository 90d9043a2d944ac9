r"""A quiz on Verilog whose answers are exact: ports to declare, and bodies to tell from others.

Nothing here was written by hand but the ways to err, so there are as many questions as circuits,
and a compiler can be asked whether what is called wrong is wrong.

>>> question, options, answer = port_question("input", 8, "data", random.Random(0))
>>> question
'Declare in Verilog: the input data, 8 bits wide.'
>>> options[answer]
'input [7:0] data'
>>> sorted(body_question("assign y = a; endmodule", random.Random(0))[0])
['assign y := a; endmodule', 'assign y = a; endmodule', 'assign y = a; }', 'set y = a; endmodule']

`uv run weeks/20/domain_lora.py` asks models; IEEE 1364, *Verilog hardware description language*.
"""

import random
import re
from collections.abc import Sequence

from shared.datasets import HardwareProblem
from shared.require import require

# How other languages would say it. `uv run weeks/20/domain_lora.py` counts what compiles even so.
HABITS = (
    (r"\bendmodule\b", "}"),
    (r"\bassign\b", "set"),
    (r"\balways\s*@\s*\(", "while ("),
    (r"(?<=\w) = ", " := "),
    (r"\bbegin\b", "{"),
    (r"\bcase\s*\(", "switch ("),
)


def ports(header: str) -> list[tuple[str, int, str]]:
    """Direction, width and name of the ports of a header that stand one to a direction word."""
    found = re.findall(r"\b(input|output)\s+(?:reg\s+|wire\s+)?(?:\[(\d+):0\]\s*)?(\w+)", header)
    return [(way, int(high or 0) + 1, name) for way, high, name in found]


def port_question(
    way: str, width: int, name: str, chance: random.Random
) -> tuple[str, list[str], int]:
    """A port to declare, four declarations, and which is right: the others err in one thing.

    A width of n is [n-1:0]. One option takes n for n - 1, one turns the direction, one declares an
    array (the width after the name).
    """
    require(width >= 2, "width must be at least 2", width)
    other = {"input": "output", "output": "input"}[way]
    right = f"{way} [{width - 1}:0] {name}"
    options = [right, f"{way} [{width}:0] {name}", f"{other} [{width - 1}:0] {name}"]
    options += [f"{way} {name} [{width - 1}:0]"]
    chance.shuffle(options)
    asked = f"Declare in Verilog: the {way} {name}, {width} bits wide."
    return asked, options, options.index(right)


def port_questions(
    problems: Sequence[HardwareProblem], seed: int
) -> list[tuple[str, list[str], int]]:
    """One question for each different port of more than one bit."""
    seen = {port for p in problems for port in ports(p.header) if port[1] >= 2}
    chance = random.Random(seed)
    return [port_question(*port, chance) for port in sorted(seen)]


def body_question(body: str, chance: random.Random) -> tuple[list[str], int] | None:
    """A body and three that differ from it by a habit of another language; None if too few apply.

    Returns
    -------
    options, answer
        Four bodies, and which of them is the given one.
    """
    wrong = [changed for old, new in HABITS if (changed := re.sub(old, new, body)) != body]
    if len(wrong) < 3:
        return None
    options = [body, *wrong[:3]]
    chance.shuffle(options)
    return options, options.index(body)
