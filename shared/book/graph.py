"""The map: how notes lead to each other, drawn as SVG whose boxes are links."""

from __future__ import annotations

import html
import textwrap
from dataclasses import dataclass
from pathlib import Path

from shared.book.pages import Library

WIDTH, HEIGHT, GAP_X, GAP_Y, LEFT = 148, 44, 20, 46, 176
FAR = 2  # rows between the ends of an arrow that is only hinted at until it is asked for
NARROW = 22  # letters in a line of a box


@dataclass
class Box:
    """A note in the map: its place, its title, and whether it stands already."""

    name: str
    title: str
    row: int
    column: int
    planned: bool = False

    @property
    def x(self) -> int:
        aside = self.row % 2 * (WIDTH + GAP_X) // 2  # or a column's arrows would hide behind it
        return LEFT + aside + self.column * (WIDTH + GAP_X)

    @property
    def y(self) -> int:
        return 8 + self.row * (HEIGHT + GAP_Y)


def edges(notes: list[dict]) -> list[tuple[str, str]]:
    """Pairs of notes, what comes first first: what `before` and `next` say of each other."""
    names = {note["file"] for note in notes}
    found = {(first, note["file"]) for note in notes for first in note.get("before", [])}
    found |= {(note["file"], then) for note in notes for then in note.get("next", [])}
    return sorted((a, b) for a, b in found if a in names and b in names and a != b)


def layout(curriculum: dict, titles: dict[str, str]) -> list[Box]:
    """A row for each week; within it, a note stands near what it comes from."""
    links = edges(curriculum["note"])
    boxes: dict[str, Box] = {}
    for row, week in enumerate(curriculum["week"]):
        names = [f"weeks/{week['number']}/{note}" for note in week["notes"]]

        def place(name: str, names=names) -> tuple[int, float]:
            above = [boxes[a].x for a, b in links if b == name and a in boxes]
            return _depth(name, names, links), sum(above) / len(above) if above else 0.0

        for column, name in enumerate(sorted(names, key=place)):
            title = titles.get(name, Path(name).stem.replace("_", " ").capitalize())
            boxes[name] = Box(name, title.partition(":")[0], row, column, name not in titles)
    return list(boxes.values())


def _depth(name: str, names: list[str], links: list, limit: int = 8) -> int:
    """How many notes of the same week stand before it, one after the other."""
    first = [a for a, b in links if b == name and a in names]
    return 1 + max(_depth(a, names, links, limit - 1) for a in first) if first and limit else 0


def map_page(curriculum: dict, titles: dict[str, str], library: Library) -> str:
    """The map and, for who cannot see it, the same as a list."""
    here, boxes = "map.md", layout(curriculum, titles)
    links = [(a, b) for a, b in edges(curriculum["note"]) if a in titles and b in titles]
    width = max(box.x for box in boxes) + WIDTH + 12
    height = max(box.y for box in boxes) + HEIGHT + 12
    label = "Map of the notes; an arrow leads from what is read first to what is read next"
    parts = [f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="group"']
    parts.append(
        f' aria-label="{label}">\n<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4"'
    )
    parts.append(
        ' markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z"/></marker></defs>'
    )
    by_name = {box.name: box for box in boxes}
    for first, then in links:
        path = _curve(by_name[first], by_name[then])
        far = " far" if abs(by_name[first].row - by_name[then].row) > FAR else ""
        parts.append(f'<path class="edge{far}" data-from="{first}" data-to="{then}" d="{path}"/>\n')
    for row, week in enumerate(curriculum["week"]):
        parts.append(_week(week, row, library, here))
    parts += [_box(box, library, here) for box in boxes]
    parts.append("</svg>\n")
    text = "<h1>Map</h1>\n<p>Each box is a note, each row a week. An arrow leads from what is read"
    text += " first to what is read next; point at a box, or reach it with the keyboard, to see its"
    text += f' own.</p>\n<div class="map">{"".join(parts)}</div>\n'
    return text + _as_list(by_name, links, library, here)


def _week(week: dict, row: int, library: Library, here: str) -> str:
    y = 8 + row * (HEIGHT + GAP_Y) + HEIGHT / 2
    lines = textwrap.wrap(f"{week['number']} · {week['title']}", 22)[:2]
    text = _lines(lines, 4, y, "start")
    readme = f"weeks/{week['number']}/README.md"
    if readme in library.urls:
        return f'<a class="week" href="{library.relative(library.urls[readme], here)}">{text}</a>\n'
    return f'<g class="week planned">{text}</g>\n'


def _lines(lines: list[str], x: float, y: float, anchor: str) -> str:
    top = y - 8 * (len(lines) - 1)
    spans = "".join(
        f'<tspan x="{x:g}" y="{top + 16 * i:g}">{html.escape(line)}</tspan>'
        for i, line in enumerate(lines)
    )
    return f'<text text-anchor="{anchor}" dominant-baseline="central">{spans}</text>'


def _box(box: Box, library: Library, here: str) -> str:
    lines = textwrap.wrap(box.title, NARROW)
    lines = lines[:2] if len(lines) < 3 else [lines[0], lines[1] + " …"]
    rect = f'<rect x="{box.x}" y="{box.y}" width="{WIDTH}" height="{HEIGHT}" rx="6"/>'
    inner = rect + _lines(lines, box.x + WIDTH / 2, box.y + HEIGHT / 2, "middle")
    if box.planned:
        return f'<g class="note planned">{inner}<title>planned</title></g>\n'
    url = library.relative(library.urls[box.name], here)
    return f'<a class="note" data-name="{box.name}" href="{url}">{inner}</a>\n'


def _curve(first: Box, then: Box) -> str:
    """From below a box to above another; within a row, beside or beneath."""
    if first.row == then.row:
        sign = 1 if then.column > first.column else -1
        x1 = first.x + (WIDTH if sign > 0 else 0)
        x2 = then.x + (0 if sign > 0 else WIDTH)
        y = first.y + HEIGHT / 2
        if abs(first.column - then.column) == 1:
            return f"M{x1} {y:g}L{x2} {y:g}"
        x1, x2, y = first.x + WIDTH / 2, then.x + WIDTH / 2, first.y + HEIGHT
        return f"M{x1:g} {y}C{x1:g} {y + 26} {x2:g} {y + 26} {x2:g} {y}"
    down = then.row > first.row
    x1, x2 = first.x + WIDTH / 2, then.x + WIDTH / 2
    y1 = first.y + (HEIGHT if down else 0)
    y2 = then.y + (0 if down else HEIGHT)
    bend = max(24.0, abs(y2 - y1) * 0.4) * (1 if down else -1)
    return f"M{x1:g} {y1}C{x1:g} {y1 + bend:g} {x2:g} {y2 - bend:g} {x2:g} {y2}"


def _as_list(boxes: dict[str, Box], links: list, library: Library, here: str) -> str:
    rows = []
    for name, box in boxes.items():
        nexts = [b for a, b in links if a == name]
        if box.planned or not nexts:
            continue
        targets = ", ".join(library.link(b, here, html.escape(boxes[b].title)) for b in nexts)
        rows.append(f"<li>{library.link(name, here, html.escape(box.title))} → {targets}</li>\n")
    return (
        f"<details><summary>The map as a list</summary>\n<ul>\n{''.join(rows)}</ul>\n</details>\n"
    )
