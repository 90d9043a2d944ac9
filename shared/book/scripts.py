"""The page of a script: what it is about, what its record says, and its code, line by line."""

from __future__ import annotations

import ast
import html
import re

from shared import log, records
from shared.book.code import listing
from shared.book.markdown import Text, render, size_of
from shared.book.pages import Library
from shared.book.words import escape, verdict
from shared.errors import UserError
from shared.judge import rule_text, value_text
from shared.report import error_text

DOCTEST = re.compile(r"^>>> .*\n(?:(?!\n).*\n?)*", re.MULTILINE)


def script_page(name: str, library: Library) -> Text:
    """The page of a script or of a module that scripts share."""
    path = library.root / name
    source = path.read_text(encoding="utf-8")
    page = about(source, name, library)
    record = _record(name)
    if record:
        page.html += _results(record, name, library)
    files = records.sources_of(path) if "/evidence/" not in name else [path]
    for number, file in enumerate(files):
        own = log.key(file) if file.is_relative_to(records.ROOT) else name
        anchor, title = ("code", "Code") if number == 0 else (file.stem, f"Evidence: {file.name}")
        anchor = anchor if number == 0 else f"evidence-{file.stem}"
        lines = len(file.read_text(encoding="utf-8").splitlines())
        page.html += f'<h2 id="{anchor}">{title}</h2>\n<p class="file">'
        page.html += f"<code>{own}</code>, {lines} lines</p>\n"
        page.html += listing(
            file.read_text(encoding="utf-8"),
            prefix="" if number == 0 else f"{anchor}-",
            href=lambda module: module_url(module, name, library),
        )
    return page


def folder_page(name: str, library: Library) -> Text:
    """A list of the modules in a folder."""
    rows = []
    for path in sorted((library.root / name).glob("*.py")):
        file = f"{name}/{path.name}"
        if file in library.urls:
            link = library.link(file, f"{name}/README.md", f"<code>{path.name}</code>")
            rows.append(f"<li>{link}: {escape(log.title_of(path))}</li>\n")
    title = name.rpartition("/")[2]
    crumbs = _crumbs(f"{name}/README.md", library)
    return Text(title, f"{crumbs}<h1>{title}</h1>\n<ul>\n{''.join(rows)}</ul>\n")


def about(source: str, name: str, library: Library) -> Text:
    """The docstring of a module as a page: its title, where it belongs, what it says."""
    doc = ast.get_docstring(ast.parse(source)) or f"{name}."
    title, _, body = doc.partition("\n")
    body = DOCTEST.sub(lambda match: f"```pycon\n{match[0].rstrip()}\n```\n", body)
    page = render(f"# {title.rstrip('.')}\n{body}", name, library, tags=False)
    page.html = _crumbs(name, library) + page.html
    return page


def _crumbs(here: str, library: Library) -> str:
    folder = here.rpartition("/evidence/")[0] or here.rpartition("/")[0]
    readme = f"{folder}/README.md"
    while readme not in library.urls and "/" in folder:
        folder = folder.rpartition("/")[0]
        readme = f"{folder}/README.md"
    if readme not in library.urls:
        return ""
    kind, _, rest = folder.partition("/")
    name = here.removesuffix("/README.md")
    words = {"weeks": f"Week {rest}", "papers": "The paper", "capstones": "The capstone"}
    up = library.link(readme, here, words.get(kind, "Up"))
    return f'<p class="crumbs">{up} / <code>{html.escape(name)}</code></p>\n'


def module_url(module: str, here: str, library: Library) -> str | None:
    """The address of `week13.attention`'s page, None if it has none."""
    match = re.match(r"week(\d\d)\.(.+)$", module)
    name = f"weeks/{match[1]}/{match[2].replace('.', '/')}.py" if match else ""
    return library.relative(library.urls[name], here) if name in library.urls else None


def _record(name: str) -> dict | None:
    path = records.record_of(records.ROOT / name)
    try:
        return records.load(path) if path.exists() and "/evidence/" not in name else None
    except UserError:
        return None


def _table(head: str, rows: list[list[str]]) -> str:
    cells = "".join(f"<th>{name}</th>" for name in head.split("|"))
    body = "".join(f"<tr>{''.join(f'<td>{c}</td>' for c in row)}</tr>\n" for row in rows)
    return f"<table>\n<thead><tr>{cells}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n"


def _results(record: dict, name: str, library: Library) -> str:
    mode = "" if record["mode"] == "default" else f" <code>--{record['mode']}</code>"
    libraries = ", ".join(f"{k} {v}" for k, v in record["versions"].items())
    parts = ['<h2 id="results">What the run showed</h2>\n']
    parts.append(
        f"<p>Recorded {record['date'][:10]}{mode} in {record['seconds']:.0f} s with seed"
        f" {record['seed']} on {escape(record['device'])}; {html.escape(libraries)}.</p>\n"
    )
    if record["claims"]:
        rows = []
        for c in record["claims"]:
            seen = c.get("seen_before")
            rule = rule_text(c) + (f" (set after seeing: {seen})" if seen else "")
            rows.append(
                [escape(c["name"]), escape(rule), verdict(c["verdict"]), escape(value_text(c))]
            )
        parts.append('<h3 id="claims">Claims</h3>\n' + _table("Claim|Rule|Verdict|Measured", rows))
    if record["falsifiers"]:
        rows = [
            [
                escape(f["name"]),
                escape(f["breaks"]),
                verdict("holds").replace("holds", "breaks it")
                if f["broken"]
                else "does not break it",
                escape(value_text(f)),
            ]
            for f in record["falsifiers"]
        ]
        head = "Falsifier|must break|Outcome|Measured"
        parts.append('<h3 id="falsifiers">Falsifiers</h3>\n' + _table(head, rows))
    for figure in record["figures"]:
        src = f"results/{figure['file']}"
        size = "".join(f' {k}="{v}"' for k, v in size_of(library, name, src).items())
        url, title = library.href(src, name), html.escape(figure["title"], quote=True)
        parts.append(f'<p><img src="{url}" alt="{title}" loading="lazy"{size}></p>\n')
    if record["checks"]:
        rows = [
            [
                '<span class="tick">✓</span>' if c["passed"] else '<span class="cross">✗</span>',
                escape(c["name"]),
                escape(c["against"]),
                c["kind"],
                error_text(c["error"]),
            ]
            for c in record["checks"]
        ]
        parts.append('<h3 id="checks">Checks</h3>\n' + _table("|Check|Against|Kind|Error", rows))
    if record["metrics"]:
        rows = [
            [escape(m["name"]), f"{m['value']:.4g}", escape(m["unit"])] for m in record["metrics"]
        ]
        count = len(rows)
        parts.append(
            f"<details><summary>{count} metrics</summary>\n" + _table("Metric|Value|Unit", rows)
        )
        parts.append("</details>\n")
    return "".join(parts)
