"""Space in a row of MathML, by TeX's rules: words, bars, signs and names of functions."""

from __future__ import annotations

from xml.etree.ElementTree import Element

OPEN, CLOSE, BARS = "([{⟨⌊⌈", ")]}⟩⌋⌉", "|‖"
RELATIONS = set("∼≈=≤≥≠∝←→≡<>⟹⇒⇔∈≪≫⟺↦≲≻")
SCRIPTED = ("msub", "msup", "msubsup", "munder", "mover", "munderover")
THIN = "0.1667em"


def core_of(node: Element) -> Element:
    """What a node with scripts, accents or a single child is about."""
    while (node.tag in SCRIPTED or (node.tag == "mrow" and len(node) == 1)) and len(node):
        node = node[0]
    return node


def join_letters(node: Element) -> None:
    """`softmax` in Roman type is one word, not seven variables."""
    before = None
    for child in list(node):
        if (
            child.tag == "mi"
            and child.get("mathvariant") == "normal"
            and (child.text or "").isascii()
        ):
            if before is not None:
                before.text += child.text
                before.attrib.pop("mathvariant", None)
                node.remove(child)
                continue
            before = child
        else:
            before = None


def settle_bars(node: Element) -> None:
    """Say of each bar whether it opens, closes or stands between, by what is around it."""
    opened: list[str] = []
    row = [child for child in node if child.tag != "mspace"]
    for index, child in enumerate(row):
        core = core_of(child)
        text = core.text or ""
        if core.tag != "mo" or core.get("fence") == "true":
            continue
        if text in tuple(OPEN):
            opened.append(text)
        elif text in tuple(CLOSE):
            while opened and opened.pop() in BARS:
                pass
        elif text in tuple(BARS):
            core.attrib.pop("fence", None)
            if "minsize" in core.attrib:
                core.attrib |= {"stretchy": "true", "symmetric": "true"}
            else:
                core.set("stretchy", "false")
            if opened and opened[-1] == text:
                opened.pop()
                core.attrib |= {"form": "postfix", "lspace": "0", "rspace": "0"}
            elif _closed_later(row[index + 1 :], text):
                opened.append(text)
                core.attrib |= {"form": "prefix", "lspace": "0", "rspace": "0"}
            else:
                space = "0.2222em" if len(node) > 2 else "0"
                core.attrib |= {"form": "infix", "lspace": space, "rspace": space}


def _closed_later(row: list[Element], bar: str) -> bool:
    """Whether the same bar comes again in this bracket."""
    depth = 0
    for child in row:
        core = core_of(child)
        text = core.text if core.tag == "mo" else ""
        depth += text in tuple(OPEN)
        depth -= text in tuple(CLOSE)
        if depth < 0:
            return False
        if depth == 0 and text == bar:
            return True
    return False


def _kind(node: Element | None) -> str:
    """`start`, `open`, `close`, `name`, `operator` or `ordinary`: what spacing asks for."""
    if node is None:
        return "start"
    core = core_of(node)
    if core.tag == "mi" and core.get("class") == "name":
        return "name"
    if core.tag != "mo" or core.text in ("∞", "′", "!", "⊤"):
        return "ordinary"
    form = core.get("form")
    return {"prefix": "open", "postfix": "close"}.get(form or "", "operator")


def settle_row(node: Element, *, script: bool) -> None:
    """Signs and function names among their neighbors."""
    children = list(node)
    solid = [child for child in children if child.tag != "mspace"]
    for index, child in enumerate(solid):
        before = _kind(solid[index - 1] if index else None)
        after = _kind(solid[index + 1] if index + 1 < len(solid) else None)
        core = core_of(child)
        if core.tag == "mo" and core.text in ("−", "+", "±", "∓"):
            if before in ("start", "open", "operator", "name"):
                core.set("form", "prefix")
                core.attrib |= {"lspace": "0", "rspace": "0"}
        elif _kind(child) == "name" and not script:
            place = list(node).index(child)
            if after in ("ordinary", "name") and children[-1] is not child:
                node.insert(place + 1, Element("mspace", width=THIN))
            if before in ("ordinary", "close"):
                node.insert(place, Element("mspace", width=THIN))


LONG = 18  # letters of a formula that stays in one piece


def broken(root: Element) -> list[Element]:
    """A formula in pieces between which a line may break: at relations, or else at signs."""
    row = root
    while len(row) == 1 and row[0].tag == "mrow":
        row = row[0]
    if _letters([root]) <= LONG:
        return [root]
    depth, pieces = 0, [[]]
    for child in row:
        core = core_of(child)
        text = core.text if core.tag == "mo" else ""
        if depth == 0 and child.tag == "mo" and text in RELATIONS and pieces[-1]:
            core.set("form", "infix")
            pieces.append([])
        pieces[-1].append(child)
        depth += (text in tuple(OPEN)) - (text in tuple(CLOSE))
        if depth == 0 and text in (",", ";") and child.tag == "mo":
            pieces.append([])
    parts = []
    for nodes in [part for piece in pieces for part in _at_signs(piece) if part]:
        parts.append(Element("math", {"display": "inline"}))
        parts[-1].extend(nodes)
    parts[0].set("alttext", root.get("alttext", ""))
    return parts


def _letters(nodes: list[Element]) -> int:
    return sum(len(text.strip()) for node in nodes for text in node.itertext())


def _at_signs(piece: list[Element]) -> list[list[Element]]:
    """A long piece in parts that begin with a sign, as TeX breaks within round brackets too."""
    parts: list[list[Element]] = [[]]
    for node in piece if _letters(piece) > LONG else []:
        sign = node.tag == "mo" and node.text in ("+", "−", "·", "×")
        if sign and node.get("form") != "prefix" and _letters(parts[-1]) > LONG // 3:
            node.set("form", "infix")
            parts.append([])
        parts[-1].append(node)
    return parts if parts[0] else [piece]
