"""The page and the tables: text stays text, nothing is fetched, what is best is marked."""

import base64
import hashlib
import itertools
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.benchmark import findings, tables
from compress.benchmark.lines import Line, lines
from compress.report.page import page, write_page
from compress.report.picture import write_picture
from compress.report.scatter import Point, marks, scatter
from compress.report.sides import sides

ATTACK = "<script>alert(1)</script>'\"><img src=x onerror=alert(2)>"


def row(nats, size, decode=10.0, **more):
    text = {"signature": "text:t|protocol:gptq", "page_signature": "p", "nats": nats}
    speed = {"prefill_per_second": 50.0, "prefill_p95_ms": 9.0, "decode_per_second": decode}
    speed |= {"decode_p95_ms": 120.0, "signature": "threads:1"}
    found = {"bytes": {"file": size, "blocks": size // 2}, "what": "rtn", "seconds": 1.0}
    found |= {"ppl": text | {"word_perplexity": 99.0}}
    memory = {"held": 300_000_000, "peak": 400_000_000, "bare": 600_000_000, "signature": "VmRSS"}
    found |= {"memory": memory, "speed": {"speed": {"1": speed}}}
    machine = {"cpu": "a chip", "cores": 2, "date": "2026-11-29", "commit": "abc", "quick": False}
    return found | more | {"machine": machine}


@pytest.fixture
def record():
    found = {
        "about": row([0], 0)
        | {"model": ATTACK, "rows": ["float32", "int8 weight-only", ATTACK], "probe": "p"}
        | {"float16": {"file": 500, "blocks": 250}, "off_grid": 0.99},
        "float32": row([1.0, 2.0, 3.0], 1000),
        "int8 weight-only": row([1.1, 2.1, 3.1], 300, 14.0),
        ATTACK: row([1.3, 2.3, 3.3], 400, 6.0),
    }
    return found | {"torchao int8": row([1.1, 2.1, 3.0], 320) | {"rival": "int8 weight-only"}}


class Tags(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text.append(data)


def test_names_stay_text(record):
    html = page(record)
    found = Tags(html)
    names = {tag for tag, _ in found.tags}
    assert not names & {"script", "img", "link", "iframe", "object", "form"}
    assert all(not key.startswith("on") for _, given in found.tags for key in given)
    assert sum(ATTACK in text for text in found.text) >= 3


def test_nothing_is_fetched_and_the_policy_names_the_style(record):
    html = page(record)
    found = Tags(html)
    assert not any(key in ("src", "href") for _, given in found.tags for key in given)
    assert "url(" not in html
    policy = next(given["content"] for _, given in found.tags if "http-equiv" in given)
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'")
    assert f"'sha256-{digest}'" in policy
    assert "prefers-color-scheme: dark" in style


def test_weights_on_the_grid_are_said_to_be(record):
    assert "stand on that grid" not in page(record)
    record["about"]["off_grid"] = 0.0
    assert "stand on that grid" in page(record)


def test_the_front_is_what_nothing_beats(record):
    small = {line.name: line for line in lines(record)}
    assert [name for name, line in small.items() if line.on_front] == [
        "float32",
        "int8 weight-only",
    ]
    assert small["int8 weight-only"].on_fast_front
    assert not small[ATTACK].on_fast_front
    text = tables.pages(record)["quality.md"]
    assert "**int8 weight-only**" in text
    assert "0.600" in text  # 300 of 500 bytes


def test_speeds_say_whether_they_are_any_gain(record):
    text = tables.pages(record)["speed.md"]
    assert "1.40 × float32: faster" in text
    assert "0.60 × float32: slower" in text
    assert "`threads:1`" in text


def test_memory_is_what_a_process_holds_beyond_torch(record):
    assert "| 300 | 400 |" in tables.pages(record)["speed.md"]
    assert "which holds up to 600: float32 300;" in tables.pages(record)["findings.md"]
    del record["int8 weight-only"]["speed"]  # measured by itself
    text = tables.pages(record)["speed.md"]
    assert "| int8 weight-only | 0 | 300 | 400 |  |" in text
    assert "- `VmRSS`" in text


def test_what_is_left_of_no_loss_is_no_share():
    lost = [{"mean": 0.02, "low": low, "high": 0.03} for low in (0.01, -0.01)]
    for loss, share in zip(lost, (", 50% of it", ""), strict=True):
        rows = {"a": Line(name="a", lost=loss), "b": Line(name="b", lost={"mean": 0.01})}
        said = findings._pair(rows, "a", "b")
        assert said == f"**a** loses 0.020 nats per token, **b** 0.010{share}."


def test_rivals_stand_beside_ours(record):
    (line,) = [line for line in tables.pages(record)["rivals.md"].splitlines() if "torchao" in line]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[0] == "torchao int8"
    assert "int8 weight-only" in cells
    assert "+0.067" in cells[3]


def test_what_was_not_measured_is_left_empty(record):
    for name in ("float32", "int8 weight-only", ATTACK):
        del record[name]["speed"], record[name]["memory"]
    assert "speed.md" not in tables.pages(record)
    assert page(record).count("<svg") == 1


def test_a_time_is_drawn_once_but_for_the_best(record):
    record |= {"int8 dynamic": row([1.2, 2.2, 3.2], 310, 20.0)}
    record |= {"int8 SmoothQuant": row([1.15, 2.15, 3.15], 310)}
    record["about"]["rows"] += ["int8 dynamic", "int8 SmoothQuant"]
    (_, _, sizes), (title, unit, steps) = sides(lines(record))
    assert len(sizes) == 5
    assert (title, unit) == ("What is lost, by the time of a token", "ms per new token, threads: 1")
    # SmoothQuant computes as int8 dynamic does, and loses less: only it is on the front.
    costs = {point.name: point.cost for point in steps}
    assert costs["int8 SmoothQuant"] == costs["int8 dynamic"] == 50.0
    record["int8 SmoothQuant"] |= {"ppl": record["int8 dynamic"]["ppl"] | {"nats": [9.0, 9.0, 9.0]}}
    (_, (_, _, steps)) = sides(lines(record))
    assert "int8 SmoothQuant" not in {point.name for point in steps}


def test_page_and_picture_are_written(record, tmp_path):
    write_page(record, tmp_path / "new" / "page.html")
    assert (tmp_path / "new" / "page.html").read_text().startswith("<!doctype html>")
    write_picture(record, tmp_path / "front.png")
    assert 1000 < (tmp_path / "front.png").stat().st_size <= 150_000


@given(
    st.lists(
        st.tuples(st.floats(0.1, 1e4), st.floats(1.01, 1e6), st.booleans()), min_size=1, max_size=9
    )
)
def test_every_row_is_in_the_picture(rows):
    points = [Point(f"row {i}", *row) for i, row in enumerate(rows)]
    drawn = scatter(points, "MB")
    assert drawn.count("<circle") == len(points)
    assert "nan" not in drawn
    heights = [
        float(y) for y in re.findall(r'<text class="(?:best|other)" x="\d+" y="([\d.]+)"', drawn)
    ]
    assert len(heights) == len(points)
    assert all(b - a >= 13.9 for a, b in itertools.pairwise(heights))


def test_marks_are_round():
    assert marks(9, 21) == [10, 20]
