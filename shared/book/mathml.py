"""LaTeX to MathML that a browser sets as TeX would: no script, no network.

`latex2mathml` reads the formula. What it leaves to the browser, this module settles, since MathML
knows no classes of atoms: the space around names of functions, a sign that is no difference, bars
that open or close, relations inside scripts, letters that form one word.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from shared.book.spacing import (
    BARS,
    CLOSE,
    OPEN,
    RELATIONS,
    SCRIPTED,
    THIN,
    broken,
    core_of,
    join_letters,
    settle_bars,
    settle_row,
)
from shared.errors import UserError

NAMESPACE = "http://www.w3.org/1998/Math/MathML"
LIMITS = {"max", "min", "sup", "inf", "lim", "argmax", "argmin", "arg max", "arg min", "Pr", "det"}
NAMES = LIMITS | {"arg", "log", "ln", "exp", "sin", "cos", "tan", "arcsin", "arctan", "ker", "dim"}
NAMES |= {"sinh", "cosh", "tanh", "gcd"}
LEFTOVERS = {r"\|": "‖", r"\{": "{", r"\}": "}", r"\arg": "arg", "-": "−", "~": "∼"}
LEFTOVERS |= {r"\lfloor": "⌊", r"\rfloor": "⌋", r"\lceil": "⌈", r"\rceil": "⌉"}
LEFTOVERS |= {r"\langle": "⟨", r"\rangle": "⟩", r"\lVert": "‖", r"\rVert": "‖", r"\vert": "|"}
ACCENTS = {"^": "ˆ", "∼": "˜", "¯": "¯", "˙": "˙", "¨": "¨", "→": "→"}


@cache
def formula(latex: str, *, display: bool = False) -> str:
    """The `<math>` element of a formula; a long one in a line may break at its relations.

    Raises
    ------
    UserError
        If the formula cannot be read, or a command is unknown.
    """
    from latex2mathml.converter import convert

    plain = " ".join(latex.split())
    braces = re.findall(r"(?<!\\)[{}]", plain.replace(r"\\", "  "))
    if braces.count("{") != braces.count("}"):
        raise UserError(f"formula {latex!r}: its braces do not match")
    plain = re.sub(r"\\(mathrm|operatorname)\s*\{([A-Za-z])\}", r"\\text{\2}", plain)
    plain = plain.replace(r"\operatorname*", r"\operatorname")
    try:
        text = convert(plain, display="block" if display else "inline")
        root = ElementTree.fromstring(text.replace(f' xmlns="{NAMESPACE}"', ""))
    except Exception as error:  # it raises whatever it stumbles over
        raise UserError(f"formula {latex!r} cannot be read: {error!r}") from None
    _settle(root, display=display, script=False)
    unknown = re.search(r"\\[A-Za-z]+", "".join(root.itertext()))
    if unknown:
        raise UserError(f"formula {latex!r}: {unknown[0]} is unknown")
    root.set("alttext", " ".join(latex.split()))
    return "".join(_text(part) for part in ([root] if display else broken(root)))


def _text(root: Element) -> str:
    return ElementTree.tostring(root, encoding="unicode")


def _settle(node: Element, *, display: bool, script: bool) -> None:
    for index, child in enumerate(node):
        inside = script or (node.tag in SCRIPTED and index > 0)
        _settle(child, display=display and child.tag not in ("mtable", "mfrac"), script=inside)
    text = (node.text or "").strip()
    if node.tag in ("mi", "mo", "mn") and text:
        _token(node, LEFTOVERS.get(text, text), script=script)
    elif node.tag == "mspace" and "negative" in node.get("width", ""):
        node.set("width", "0em")
    elif node.tag in ("mover", "munder") and len(node) == 2:
        _accent(node)
    elif node.tag == "mtd" and node.get("columnalign"):
        node.set("style", f"text-align:{node.attrib.pop('columnalign')}")
    if node.tag in ("msub", "msup", "msubsup") and core_of(node).text in LIMITS and display:
        node.tag = {"msub": "munder", "msup": "mover", "msubsup": "munderover"}[node.tag]
    if (
        node.tag in ("msub", "msup", "msubsup")
        and node[0].tag == "mo"
        and "minsize" in node[0].attrib
    ):
        node[0] = _held_open(node[0])
    if node.tag in ("math", "mrow", "mtd", "mstyle", "msqrt"):
        join_letters(node)
        if len(node) > 1:
            settle_bars(node)
            settle_row(node, script=script)
        elif len(node) == 1 and node[0].tag == "mo" and node.tag == "mrow":
            node[0].set("lspace", "0")  # `{,}` is an ordinary atom
            node[0].set("rspace", "0")


def _held_open(bar: Element) -> Element:
    """A large delimiter with a script, which only stretches beside something as tall."""
    size = float(bar.get("minsize", "1em").removesuffix("em"))
    row = Element("mrow")
    height, depth = f"{size / 2 + 0.25:.2f}em", f"{size / 2 - 0.25:.2f}em"
    row.extend([Element("mi"), Element("mspace", height=height, depth=depth), bar])
    bar.set("stretchy", "true")
    return row


def _token(node: Element, text: str, *, script: bool) -> None:
    node.text = text
    if text in NAMES or (node.tag == "mo" and len(text) > 1 and text.isalpha()):
        node.tag = "mi"
        node.attrib.clear()
        node.set("class", "name")
    elif text in OPEN + CLOSE and len(text) == 1:
        node.tag = "mo"
        node.set("form", "prefix" if text in OPEN else "postfix")
        if "minsize" in node.attrib:
            node.set("stretchy", "true")
        elif node.get("stretchy") is None and text not in "([{)]}":
            node.set("stretchy", "false")
    elif text == ":" or (node.tag == "mo" and script and text not in BARS):
        node.tag = "mo"
        space = "0" if script else "0.2778em"
        node.attrib |= {"lspace": space, "rspace": space}
    elif text in RELATIONS:
        node.tag = "mo"
        node.attrib |= {"lspace": "0.2778em", "rspace": "0.2778em"}
    elif text == "∞":
        node.tag = "mi"
    elif text == ";":
        node.tag = "mo"
        node.attrib |= {"lspace": "0", "rspace": THIN}
    elif text == "/":
        node.attrib |= {"lspace": "0", "rspace": "0"}
    elif text in "…⋯":
        node.attrib |= {"lspace": THIN, "rspace": THIN}
    elif node.tag == "mi" and len(text) == 1 and "Α" <= text <= "Ω":
        node.set("mathvariant", "normal")  # TeX's Greek capitals stand upright
    elif node.get("mathvariant", "normal") != "normal":
        style = node.attrib.pop("mathvariant").replace("-italic", " italic").upper()
        node.text = "".join(_styled(letter, style) for letter in text)


def _styled(letter: str, style: str) -> str:
    """The letter of Unicode's mathematical alphabets; itself if there is none."""
    name = re.sub(r"^(LATIN|GREEK) | LETTER", "", unicodedata.name(letter))
    try:
        return unicodedata.lookup(f"MATHEMATICAL {style} {name}")
    except KeyError:
        return letter


def _accent(node: Element) -> None:
    mark = node[1]
    if node[0].tag == "mstyle" and len(node[0]) and node[0][0].tag == "mo":  # a labeled arrow
        arrow, label = node[0][0], mark[0] if mark.tag == "mpadded" else mark
        arrow.attrib |= {"stretchy": "true", "minsize": "1.5em"}
        node[:] = [arrow, label]
        return
    if mark.text in ("\u2015", "‾"):  # a line over all of it, which no font can stretch
        node.tag, node.attrib = "mrow", {"class": "over"}
        node.remove(mark)
        return
    if mark.tag == "mo" and (mark.text or "") in ACCENTS and node.tag == "mover":
        wide = len(node[0]) > 0
        mark.text = ACCENTS[mark.text]
        mark.attrib = {"stretchy": "true" if wide else "false", "accent": "true"}
        node.set("accent", "true")
