"""The tree of the book: weeks by part, papers by year, programs, map and tracks."""

from __future__ import annotations

import html
from urllib.parse import unquote

from shared import log
from shared.book.pages import Library, url_of


def source_uri(url: str) -> str:
    """The name that mkdocs knows a page by, which it turns into this address."""
    return unquote(url).removesuffix(".html") + ".md"


def navigation(curriculum: dict, titles: dict[str, str], library: Library) -> list:
    """What `nav` of mkdocs' configuration holds."""

    def page(name: str, title: str) -> dict[str, str]:
        return {html.escape(title, quote=False): source_uri(library.urls.get(name) or url_of(name))}

    def short(name: str) -> str:
        return titles[name].partition(": ")[0]

    parts: dict[str, list] = {}
    for week in curriculum["week"]:
        folder = f"weeks/{week['number']}"
        if f"{folder}/README.md" not in titles:
            continue
        notes = [f"{folder}/{note}" for note in week["notes"]]
        notes += sorted(n for n in titles if n.startswith(f"{folder}/") and n.endswith(".md"))
        notes = [n for n in dict.fromkeys(notes) if n in titles and not n.endswith("README.md")]
        scripts = [log.key(path) for path in log.scripts_in(library.root / folder)]
        inner = [source_uri(library.urls[f"{folder}/README.md"])]
        inner += [page(note, short(note)) for note in notes]
        inner.append({"Scripts": [page(s, s.rpartition("/")[2]) for s in scripts if s in titles]})
        parts.setdefault(week["part"], []).append(
            {html.escape(f"{week['number']} · {week['title']}"): inner}
        )
    papers = [
        page(f"papers/{p['folder']}/README.md", f"{p['year']} · {p['title'].partition(':')[0]}")
        for p in sorted(curriculum["paper"], key=lambda p: (p["year"], p["title"]))
        if f"papers/{p['folder']}/README.md" in titles
    ]
    capstones = [
        page(f"capstones/{c['name']}/README.md", c["title"])
        for c in curriculum["capstone"]
        if f"capstones/{c['name']}/README.md" in titles
    ]
    tree = [
        {
            "Start": [
                "index.md",
                *([page("CONTRIBUTING.md", "Contributing")] * ("CONTRIBUTING.md" in titles)),
            ]
        }
    ]
    tree += [{"Tracks": "tracks.md"}, {"Map": "map.md"}]
    weeks = [{part: inside} for part, inside in parts.items()]
    tree.append({"Weeks": ["weeks/index.md", *weeks]})
    if papers:
        tree.append({"Papers": ["papers/index.md", *papers]})
    if capstones:
        tree.append({"Programs": ["capstones/index.md", *capstones]})
    return tree
