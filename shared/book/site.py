"""Put the book together: render each file once, and let mkdocs-material bind it."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
from pathlib import Path
from typing import NamedTuple

from shared import log, records, tables
from shared.book import papers, tracks
from shared.book.binding import bind
from shared.book.graph import map_page
from shared.book.markdown import Text, render
from shared.book.navigation import navigation
from shared.book.pages import Library, Page, shown_files, url_of
from shared.book.scripts import folder_page, script_page
from shared.errors import UserError

NEEDED = {"material": "mkdocs-material", "latex2mathml": "latex2mathml"}


class Book(NamedTuple):
    """What was built: the pages, and links that lead to none, as (file, target)."""

    pages: list[Page]
    dead: list[tuple[str, str]]


def build(out: Path, names: list[str] | None = None) -> Book:
    """Write the site into the folder `out`.

    Parameters
    ----------
    out
        Made new; a folder that holds anything but an earlier book is refused.
    names
        Files to show (from the project's root); all if not given.

    Raises
    ------
    UserError
        If a library is missing, a formula cannot be read, or `out` holds something else.
    """
    missing = [package for name, package in NEEDED.items() if not importlib.util.find_spec(name)]
    if missing:
        raise UserError(f"the book needs {' and '.join(missing)}: uv sync --group book")
    mark = out / ".book"
    if out.is_dir() and any(out.iterdir()) and not mark.exists():
        raise UserError(f"{out} holds something else than a book; name another folder")
    library = Library(records.ROOT, names or shown_files())
    pages = write(library)
    out.mkdir(parents=True, exist_ok=True)
    mark.touch()  # stays where a build was interrupted
    bind(pages, navigation(log.curriculum(), titles_of(pages), library), out)
    for picture in sorted(library.pictures):
        target = out / picture
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(library.root / picture, target)
    return Book(pages, library.dead)


def titles_of(pages: list[Page]) -> dict[str, str]:
    """Titles of all pages, by their files."""
    return {page.source: page.title for page in pages}


def write(library: Library) -> list[Page]:
    """All pages with their content."""
    curriculum = log.curriculum()
    found = [one(name, library) for name in list(library.urls) if "#" not in library.urls[name]]
    titles = titles_of(found)
    readme = library.root / "README.md"
    ways = tracks.tracks(readme.read_text(encoding="utf-8")) if readme.exists() else []
    ways = [w for w in ways if all(step in titles for step, _ in w.steps)]
    for page in found:
        page.html += tracks.signpost(page.source, ways, library)
    for name in ("map.md", "tracks.md", "weeks/index.md", "capstones/index.md"):
        library.urls[name] = url_of(name)
    notes = {name: title for name, title in titles.items() if name.endswith(".md")}
    made = [("map.md", "Map", map_page(curriculum, notes, library))]
    made.append(("tracks.md", "Reading tracks", tracks.tracks_page(ways, titles, library)))
    for kind, title in (("weeks", "Weeks"), ("capstones", "Programs")):
        name = f"{kind}/index.md"
        table = tables.TABLES[kind](library.root / name)
        made.append((name, title, render(f"# {title}\n\n{table}", name, library).html))
    return found + [Page(name, url_of(name), title, text) for name, title, text in made]


def one(name: str, library: Library) -> Page:
    """The page of one file."""
    path = library.root / name
    try:
        if name.endswith(".md"):
            text = _note(path.read_text(encoding="utf-8"), name, library)
        elif path.is_dir():
            text = folder_page(name, library)
        else:
            text = script_page(name, library)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    return Page(name, library.urls[name], text.title or name, text.html)


def _note(source: str, name: str, library: Library) -> Text:
    matter, body = papers.split(source)
    text = render(body, name, library)
    if matter:
        head, end, rest = text.html.partition("</h1>\n")
        text.html = head + end + papers.card(matter) + rest if end else papers.card(matter) + head
    return text


def serve(out: Path) -> None:
    """Open the book in the browser and serve it on this machine until Ctrl-C."""
    import http.server
    import webbrowser
    from functools import partial

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments) -> None:
            pass

    handler = partial(Quiet, directory=os.fspath(out))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        webbrowser.open(f"http://127.0.0.1:{server.server_address[1]}/")
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
