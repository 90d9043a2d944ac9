"""What the book holds: each file of the log and the address of its page."""

from __future__ import annotations

import html
import posixpath
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from shared import log, records

SOURCES = (".py", ".toml", ".yaml", ".yml", ".json", ".jsonl", ".css", ".js", ".html", ".cff", "")
PICTURES = (".png", ".gif", ".jpg", ".svg")


@dataclass
class Page:
    """A page: where it comes from, where it goes, and what it says.

    Attributes
    ----------
    source
        The file or folder it shows, from the project's root; a made-up name for a page that shows
        none (`map.md`).
    url
        Its address in the site.
    title
        Plain text, without markup.
    html
        The content.
    searched
        Whether the search index has it.
    """

    source: str
    url: str
    title: str = ""
    html: str = ""
    searched: bool = True


class Library:
    """All files that the book shows; gives links between them.

    Parameters
    ----------
    root
        The project's folder.
    names
        Files to show as pages, from the root; pictures beside them are copied when linked.
    """

    def __init__(self, root: Path, names: list[str]):
        self.root = root
        self.urls = {name: url_of(name) for name in names}
        for name in names:  # evidence stands on the page of its script
            if name.startswith(("weeks/", "papers/")) and name.endswith(".py"):
                for other in map(log.key, records.sources_of(root / name)[1:]):
                    self.urls.setdefault(other, f"{url_of(name)}#evidence-{Path(other).stem}")
        self.pictures: set[str] = set()
        self.dead: list[tuple[str, str]] = []

    def href(self, target: str, here: str) -> str:
        """The address, from the page of `here`, of what its text links to as `target`.

        An address of the web stays; a link to a file without a page stays out and is remembered in
        `dead`.
        """
        if target.startswith(("https://", "http://", "mailto:", "#")):
            return target
        path, _, anchor = target.partition("#")
        name = posixpath.normpath(posixpath.join(posixpath.dirname(here), unquote(path)))
        if (self.root / name).suffix in PICTURES and (self.root / name).is_file():
            self.pictures.add(name)
            url = quote(name)
        elif name in self.urls:
            url = self.urls[name]
        elif f"{name}/README.md" in self.urls:
            url = self.urls[f"{name}/README.md"]
        else:
            self.dead.append((here, target))
            return "#"
        joint = "-" if "#" in url else "#"  # a line of evidence: its page shows several files
        return self.relative(url, here) + (f"{joint}{anchor}" if anchor else "")

    def relative(self, url: str, here: str) -> str:
        """An address of the site, seen from the page of `here`."""
        start = posixpath.dirname(self.urls.get(here) or url_of(here)) or "."
        return posixpath.relpath(url, start)

    def link(self, name: str, here: str, text: str) -> str:
        """An `<a>` element; `text` is HTML already."""
        url = self.href(posixpath.relpath(name, posixpath.dirname(here) or "."), here)
        return f'<a href="{html.escape(url)}">{text}</a>'


def url_of(name: str) -> str:
    """The address of a file's page: `weeks/13/attention.py` has `weeks/13/attention.py.html`."""
    folder, file = posixpath.split(name)
    if file in ("README.md", "index.md"):
        file = "index.html"
    elif "." not in file:  # a folder
        file += "/index.html"
    elif file.endswith(".md"):
        file = file.removesuffix(".md") + ".html"
    else:
        file += ".html"
    return quote(posixpath.join(folder, file))


def shown_files() -> list[str]:
    """Markdown, and the code of weeks and papers, from the project's root."""
    names = [log.key(path) for path in log.markdown_files()]
    names = [name for name in names if "/results/" not in name]
    found = [*records.ROOT.glob("weeks/*/*.py"), *records.ROOT.glob("papers/*/*.py")]
    for folder in sorted(records.ROOT.glob("weeks/*/*/__init__.py")):
        if folder.parent.name != "evidence":  # a program of several files, as minigrad is
            names.append(log.key(folder.parent))
            found += folder.parent.glob("*.py")
    return names + [log.key(path) for path in sorted(found) if path.name != "__init__.py"]
