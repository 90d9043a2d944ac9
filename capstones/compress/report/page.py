"""A bench as one file of HTML: no server, nothing fetched, no script, every text a text."""

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from compress.benchmark import tables
from compress.benchmark.lines import Line, lines
from compress.report.scatter import Point, scatter
from shared.files import write_atomic

HERE = Path(__file__).parent


def page(record: Mapping[str, Any]) -> str:
    """The page of a record."""
    found, about = lines(record), record["about"]
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = (HERE / "page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    parts = (
        row.get(part) or {} for row in record.values() for part in ("ppl", "acc", "memory", "speed")
    )
    protocols = dict.fromkeys(text for part in parts for text in tables.signatures(part))
    html = environment.get_template("page.html").render(
        policy=policy,
        style=Markup(style),
        title=f"{about['model']} compressed",
        probe=about["probe"],
        off_grid=about["off_grid"],
        lines=found,
        counts=sorted({count for line in found for count in line.speed or ()}, key=int),
        pictures=pictures(found),
        interval=tables.interval,
        change=tables.change,
        signatures=list(protocols),
        machines=tables.machines(record.values(), about),
    )
    return html.encode("utf-8", "replace").decode()


def pictures(found: list[Line]) -> list[tuple[str, Markup]]:
    """Perplexity against bytes, and against the time of a token, of rows that have both."""
    read = [line for line in found if line.perplexity is not None]
    if not read:
        return []
    sizes = [Point(x.name, x.n_bytes / 1e6, x.perplexity, x.on_front) for x in read]
    drawn = [("What is lost, by megabytes on the disk", scatter(sizes, "MB"))]
    timed = [x for x in read if x.speed and (x.on_fast_front or not x.like)]
    if timed:
        count = min(timed[0].speed, key=int)
        steps = [
            Point(x.name, 1000 / x.speed[count]["decode_per_second"], x.perplexity, x.on_fast_front)
            for x in timed
        ]
        unit = f"ms per new token, threads: {count}"
        drawn.append(("What is lost, by the time of a token", scatter(steps, unit)))
    return drawn


def write_page(record: Mapping[str, Any], path: Path) -> None:
    """Write the page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, page(record))
