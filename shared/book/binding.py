"""mkdocs-material around pages that are HTML already: navigation, search, themes; no network."""

from __future__ import annotations

import html
import logging
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.book.markdown import outline
from shared.book.navigation import source_uri
from shared.book.pages import Page

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig

ASSETS = Path(__file__).parent / "assets"
LISTING = re.compile(r'<div class="highlight listing".*?</div>', re.DOTALL)
MARK = re.compile(r"<!--listing (\d+)-->")
FEATURES = ["navigation.tabs", "navigation.indexes", "navigation.prune", "navigation.footer"]
FEATURES += ["navigation.top", "navigation.tracking", "toc.follow"]
FEATURES += ["search.highlight", "search.suggest", "content.code.copy"]


def _schemes() -> list[dict]:
    follow = {"media": "(prefers-color-scheme)", "scheme": "default"}
    icons = {"auto": "brightness-auto", "light": "weather-sunny", "dark": "weather-night"}

    def toggle(icon: str, then: str) -> dict:
        return {"icon": f"material/{icons[icon]}", "name": f"Switch to {then}"}

    light = {"media": "(prefers-color-scheme: light)", "scheme": "default"}
    dark = {"media": "(prefers-color-scheme: dark)", "scheme": "slate"}
    colors = {"primary": "indigo", "accent": "indigo"}
    return [
        follow | colors | {"toggle": toggle("auto", "the light theme")},
        light | colors | {"toggle": toggle("light", "the dark theme")},
        dark | colors | {"toggle": toggle("dark", "the system's theme")},
    ]


def configuration(navigation: list, out: Path, folder: Path) -> dict[str, Any]:
    """mkdocs' configuration; `folder` is an empty one for it to read from."""
    return {
        "site_name": "ML Studies",
        "site_description": "Machine learning as executable evidence",
        "docs_dir": str(folder),
        "site_dir": str(out),
        "use_directory_urls": False,
        "nav": navigation,
        "theme": {
            "name": "material",
            "font": False,
            "language": "en",
            "features": FEATURES,
            "palette": _schemes(),
            "icon": {"logo": "material/book-open-variant"},
        },
        "plugins": ["material/search"],
        "extra": {"generator": False},
        "extra_css": ["assets/book.css"],
        "extra_javascript": ["assets/book.js"],
        "validation": {"nav": {"omitted_files": "ignore"}},
    }


def bind(pages: list[Page], navigation: list, out: Path) -> None:
    """Write the site: pages, navigation, search index, style."""
    os.environ.setdefault("NO_MKDOCS_2_WARNING", "1")  # a notice about versions, on each start
    from mkdocs.commands.build import build
    from mkdocs.config.defaults import MkDocsConfig

    logging.getLogger("mkdocs").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        config: MkDocsConfig = MkDocsConfig(config_file_path=os.path.join(folder, "mkdocs.yml"))
        docs = Path(folder, "docs")
        docs.mkdir()
        config.load_dict(configuration(navigation, out.resolve(), docs))
        errors, warnings = config.validate()
        assert not errors, errors
        assert not warnings, warnings
        config.plugins["book"] = _plugin(pages)
        config.plugins.on_startup(command="build", dirty=False)
        try:
            build(config)
        finally:
            config.plugins.on_shutdown()


def _plugin(pages: list[Page]):
    """Gives mkdocs the pages: their files, their titles, their content."""
    from mkdocs.plugins import BasePlugin
    from mkdocs.structure.files import File
    from mkdocs.structure.toc import get_toc

    by_uri = {source_uri(page.url): page for page in pages}
    listings: list[str] = []

    def apart(match: re.Match) -> str:
        listings.append(match[0])
        return f"<!--listing {len(listings) - 1}-->"

    class Book(BasePlugin):
        def on_files(self, files, *, config):
            for uri in by_uri:
                files.append(File.generated(config, uri, content=""))
            for path in sorted(ASSETS.glob("book.*")):
                files.append(File.generated(config, f"assets/{path.name}", abs_src_path=str(path)))
            return files

        def on_page_markdown(self, markdown, *, page, config, files):
            shown = by_uri[page.file.src_uri]
            page.meta["title"] = html.escape(shown.title, quote=False)
            page.meta["hide"] = ["navigation", "toc"] if shown.source == "map.md" else []
            return ""

        def on_page_content(self, content, *, page, config, files):
            shown = by_uri[page.file.src_uri]
            page.toc = get_toc(outline(shown.html))
            return LISTING.sub(apart, shown.html)  # the search index need not read the code

        def on_post_page(self, output, *, page, config):
            return MARK.sub(lambda match: listings[int(match[1])], output)

    return Book()
