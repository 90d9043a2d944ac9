"""The reading tracks of README.md as paths: on each page, where one stands and what comes next."""

from __future__ import annotations

import html
import posixpath
import re
from dataclasses import dataclass

from shared.book.markdown import slug
from shared.book.pages import Library

BULLET = re.compile(r"^- \*\*(.+?)\.\*\* (.*?)(?=^- \*\*|^\S|\n\n|\Z)", re.DOTALL | re.MULTILINE)
STEP = re.compile(r"\[([^\]]+)\]\(([^)\s#]+)\)")


@dataclass(frozen=True)
class Track:
    """A way through the log: its name and its pages, as (file, text of the link)."""

    name: str
    steps: tuple[tuple[str, str], ...]

    @property
    def anchor(self) -> str:
        """Where it stands on the page of tracks."""
        return slug(self.name)


def tracks(readme: str) -> list[Track]:
    """The tracks that README.md lists under *How to read the log*."""
    text = readme.partition("## How to read the log")[2].partition("\n## ")[0]
    found = []
    for name, body in BULLET.findall(text):
        steps = {posixpath.normpath(path): words for words, path in STEP.findall(body)}
        found.append(Track(name, tuple(steps.items())))
    return found


def tracks_page(found: list[Track], titles: dict[str, str], library: Library) -> str:
    """All tracks, each a numbered list."""
    parts = ["<h1>Reading tracks</h1>\n<p>Each page of a track ends with the way on.</p>\n"]
    for track in found:
        parts.append(f'<h2 id="{track.anchor}">{html.escape(track.name)}</h2>\n<ol>\n')
        for name, words in track.steps:
            aside = titles[name].partition(": ")[2]
            aside = f" <small>{html.escape(aside)}</small>" if aside else ""
            link = library.link(name, "tracks.md", html.escape(words[0].upper() + words[1:]))
            parts.append(f"<li>{link}{aside}</li>\n")
        parts.append("</ol>\n")
    return "".join(parts)


def signpost(name: str, found: list[Track], library: Library) -> str:
    """For a page on tracks: on which, where, and the pages before and after it."""
    rows = []
    for track in found:
        names = [step for step, _ in track.steps]
        if name not in names:
            continue
        at = names.index(name)
        where = library.relative("tracks.html", name) + f"#{track.anchor}"
        row = f'<a class="track" href="{where}">{html.escape(track.name)}</a>'
        row += f" <small>{at + 1} of {len(names)}</small>"
        for rel, sign, step in (("prev", "← {}", at - 1), ("next", "{} →", at + 1)):
            if 0 <= step < len(names):
                target, words = track.steps[step]
                url = library.href(posixpath.relpath(target, posixpath.dirname(name) or "."), name)
                text = sign.format(html.escape(words))
                row += f' <a rel="{rel}" class="{rel}" href="{url}">{text}</a>'
        rows.append(f"<li>{row}</li>\n")
    if not rows:
        return ""
    return f'<nav class="tracks" aria-label="Reading tracks">\n<ul>\n{"".join(rows)}</ul>\n</nav>\n'
