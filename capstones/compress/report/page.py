"""A bench as one file of HTML: no server, nothing fetched, no script, every text a text."""

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from compress.benchmark import tables
from compress.benchmark.lines import lines
from compress.report.scatter import scatter
from compress.report.sides import sides
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
        pictures=[(title, scatter(points, unit)) for title, unit, points in sides(found)],
        interval=tables.interval,
        change=tables.change,
        signatures=list(protocols),
        machines=tables.machines(record.values(), about),
    )
    return html.encode("utf-8", "replace").decode()


def write_page(record: Mapping[str, Any], path: Path) -> None:
    """Write the page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, page(record))
