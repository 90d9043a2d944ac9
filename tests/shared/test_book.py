"""The book: formulas, links and names come through; nothing is loaded from elsewhere."""

import html
import http.server
import importlib.util
import json
import os
import posixpath
import re
import struct
import threading
import time
from functools import partial
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
from browser import Page, chromium, needs_browser, watched
from hypothesis import given
from hypothesis import strategies as st

from shared import log, records
from shared.book import site
from shared.book.code import listing
from shared.book.graph import edges, layout, map_page
from shared.book.markdown import headings, outline, render
from shared.book.mathml import formula
from shared.book.navigation import navigation
from shared.book.pages import Library, shown_files, url_of
from shared.book.papers import card, split
from shared.book.scripts import script_page
from shared.book.tracks import signpost, tracks, tracks_page
from shared.errors import UserError

# ---- formulas


def shape(latex, **options):
    """A formula's MathML without attributes and the outer element."""
    text = re.sub(r"<(\w+)[^>]*?( ?/)?>", r"<\1\2>", formula(latex, **options))
    return re.sub(r"</?math>|</?mrow>", "", text)


@pytest.mark.parametrize(
    ("latex", "expected"),
    [
        (r"\mathrm{softmax}(x)", "<mi>softmax</mi><mo>(</mo><mi>x</mi><mo>)</mo>"),
        (r"\log p", "<mi>log</mi><mspace /><mi>p</mi>"),
        (r"\log(p)", "<mi>log</mi><mo>(</mo><mi>p</mi><mo>)</mo>"),
        (r"p \log p", "<mi>p</mi><mspace /><mi>log</mi><mspace /><mi>p</mi>"),
        (r"\operatorname{Var} X", "<mi>Var</mi><mspace /><mi>X</mi>"),
        (r"\arg\max f", "<mi>arg</mi><mspace /><mi>max</mi><mspace /><mi>f</mi>"),
        (r"\big\| x \big\|", "<mo>‖</mo><mi>x</mi><mo>‖</mo>"),
        (r"\Big\lfloor x \Big\rfloor", "<mo>⌊</mo><mi>x</mi><mo>⌋</mo>"),
        (r"\mathbf{1}", "<mn>𝟏</mn>"),
        (r"\overline{ab}", "<mi>a</mi><mi>b</mi>"),
        (r"a \sim b", "<mi>a</mi><mo>∼</mo><mi>b</mi>"),
    ],
)
def test_formula_is_set_as_tex_sets_it(latex, expected):
    assert shape(latex) == expected


def operators(latex):
    """What each operator of a formula is, and its attributes."""
    found = ElementTree.fromstring(formula(latex, display=True)).iter("mo")
    return [(node.text, node.attrib) for node in found]


@pytest.mark.parametrize(
    ("latex", "forms"),
    [
        ("|x|", "prefix postfix"),
        (r"\|x\| + \|y\|", "prefix postfix prefix postfix"),
        (r"\big|x\big|", "prefix postfix"),
        ("|x|^2", "prefix postfix"),
        ("p(x | y)", "infix"),
        (r"E[\, |x| \mid y \,]", "prefix postfix"),
        ("q \\| p", "infix"),
    ],
)
def test_a_bar_opens_or_closes_or_stands_between(latex, forms):
    bars = [attributes["form"] for text, attributes in operators(latex) if text in "|‖"]
    assert bars == forms.split()


@pytest.mark.parametrize(
    ("latex", "signs"),
    [("-x", 1), ("a - b", 0), ("a = -b", 1), ("(-a)", 1), ("f(x) - y", 0), (r"e^{-x}", 1)],
)
def test_a_sign_is_no_difference(latex, signs):
    found = [a.get("form") for text, a in operators(latex) if text == "−"]
    assert found.count("prefix") == signs


def test_limits_stand_beneath_in_a_formula_of_its_own():
    assert "<munder>" in formula(r"\max_x f", display=True)
    assert "<msub>" in formula(r"\max_x f")


def test_a_long_formula_may_break_at_its_relations():
    long = "x_{t+1} = x_t - a b c d e f = g + h + i + j"
    assert formula(long).count("<math") == 3
    assert formula(long, display=True).count("<math") == 1
    assert formula("a = b").count("<math") == 1
    sums = "(a b c d e f + g h i j k l + m n o p q r + s t u v w x)"
    assert formula(sums).count("<math") == 4


def test_each_piece_of_a_long_formula_has_its_brackets():
    pieces = formula("f(a = b, c = d, e = g, h = i, k = l) = m(n = o)").split("</math>")[:-1]
    assert len(pieces) == 2
    assert all(piece.count(">(<") == piece.count(">)<") for piece in pieces)


@pytest.mark.parametrize(
    ("latex", "named"), [(r"a \nonsense b", r"\\nonsense"), (r"\frac{a}{b", "braces")]
)
def test_a_formula_that_cannot_be_read_is_named(latex, named):
    with pytest.raises(UserError, match=named):
        formula(latex)


@given(
    st.lists(st.sampled_from(["x", "+", "-", "(", ")", "|", r"\|", "=", r"\log", ","]), max_size=12)
)
def test_spacing_changes_no_sign(parts):
    latex = " ".join(parts)
    if not latex.strip():
        return
    signs = {r"\|": "‖", "-": "−", r"\log": "log"}
    text = "".join(ElementTree.fromstring(f"<m>{formula(latex)}</m>").itertext())
    assert text == "".join(signs.get(part, part) for part in parts)


# ---- a small log

NOTE = """\
# Norms: how long, and `why` <!--= weeks/01/topic "n" .0f -->3<!--/=-->

Half is
<!--= weeks/01/topic "half" .1f -->0.5<!--/=--> of $\\frac12 a$; `$x$ <b>` and
\\$5 are none, $5 or $6 neither.

$$
a = b
- c
$$

<!-- study:nav -->
**Next:** [code](topic.py) [the proof](evidence/topic.py#L2) [week](README.md#one-two)
<!-- /study -->

| a | b |
|---|---|
| `x \\| y` | **not reproduced** |

<details><summary>Why $y$?</summary>

Because *so*, $y$.

</details>

## One, two?
Text
```python
x = "<b>$1$</b>"
```
## One, two?

![A line](results/topic_line.png) [away](https://example.org/a?b=1&c=2)
"""
PROGRAM = '''\
"""Norm & <length>: a $x^2$ title.

The root of squares, $\\\\|x\\\\|$.

>>> norm(3)
3

    uv run weeks/01/topic.py
"""

from week01.helper import square


def norm(x):
    """Two
    lines."""
    return square(x) ** 0.5
'''
RECORD = {
    **dict.fromkeys(records.REQUIRED, ""),
    "mode": "default",
    "seconds": 1.0,
    "date": "2026-01-02",
    "versions": {"python": "3"},
    "checks": [
        {"name": "x < y & z", "against": "<i>", "kind": "library", "error": 0.1, "passed": True}
    ],
    "claims": [
        {
            "name": "it <wins>",
            **dict.fromkeys(["at_most", "low", "high"]),
            "at_least": 0.5,
            "each": False,
            "mean": 1.0,
            "n": 1,
            "unit": "",
            "note": "",
            "verdict": "fails",
            "paper": False,
        }
    ],
    "falsifiers": [],
    "metrics": [{"name": "n", "value": 3.0, "unit": "m²", "rtol": None}],
    "figures": [{"file": "topic_line.png", "title": 'A "line"?'}],
}


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A library of one week."""
    week = tmp_path / "weeks" / "01"
    for folder in ("evidence", "results"):
        (week / folder).mkdir(parents=True)
    (week / "note.md").write_text(NOTE, encoding="utf-8")
    (week / "README.md").write_text("# Week 01\n\n## One, two\n", encoding="utf-8")
    (week / "topic.py").write_text(PROGRAM, encoding="utf-8")
    (week / "helper.py").write_text('"""Squares."""\n', encoding="utf-8")
    (week / "evidence" / "topic.py").write_text('"""Proof."""\nx = 1\n', encoding="utf-8")
    (week / "results" / "topic.json").write_text(json.dumps(RECORD), encoding="utf-8")
    head = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 640, 480)
    (week / "results" / "topic_line.png").write_bytes(head)
    monkeypatch.setattr(records, "ROOT", tmp_path)
    names = [f"weeks/01/{name}" for name in ("README.md", "note.md", "topic.py", "helper.py")]
    return Library(tmp_path, names)


@pytest.fixture
def note(small):
    return render(NOTE, "weeks/01/note.md", small)


def test_links_lead_to_pages_sources_and_figures(note, small):
    assert re.findall(r'(?:href|src)="([^"]*)"', note.html) == [
        "topic.py.html",
        "topic.py.html#evidence-topic-L2",
        "index.html#one-two",
        "results/topic_line.png",
        "https://example.org/a?b=1&amp;c=2",
    ]
    assert small.pictures == {"weeks/01/results/topic_line.png"}
    assert small.dead == []


def test_a_link_to_nothing_is_remembered(small):
    assert small.href("gone.md", "weeks/01/note.md") == "#"
    assert small.dead == [("weeks/01/note.md", "gone.md")]


@pytest.mark.parametrize(
    ("target", "here", "url"),
    [
        ("../weeks/01", "papers/README.md", "../weeks/01/index.html"),
        ("weeks/01/note.md#a", "README.md", "weeks/01/note.html#a"),
        ("#a", "README.md", "#a"),
        ("results/../topic.py", "weeks/01/note.md", "topic.py.html"),
    ],
)
def test_addresses_are_relative(small, target, here, url):
    assert small.href(target, here) == url


def test_markers_are_invisible_and_break_no_line(note):
    assert "<!--" not in note.html
    assert "Half is\n0.5 of " in note.html
    assert note.title == "Norms: how long, and why 3"


def test_dollars_that_are_no_formula_stay(note):
    assert "<code>$x$ &lt;b&gt;</code> and\n$5 are none, $5 or $6 neither." in note.html


def test_formulas_are_converted(note):
    assert note.html.count("<math") == 4
    assert note.html.count('<span class="formula"') == 1
    shown = re.search(r'<span class="formula".*?</span>', note.html)[0]
    assert "<mo>−</mo>" in shown, "a line that begins with a sign is no list"


def test_no_line_begins_with_the_period_of_a_formula(note):
    assert re.search(r'<span class="together"><math.*</math>;</span>', note.html)


def test_details_hold_markdown(note):
    assert re.search(r"<summary>Why .*</math>\?.*</summary>", note.html)
    assert "<p>Because <em>so</em>, " in note.html
    assert "$y$" not in note.html


def test_code_needs_no_empty_line_around_it(note):
    assert '<p>Text</p>\n<div class="highlight">' in note.html
    assert "&lt;b&gt;$1$&lt;/b&gt;" in note.html


def test_anchors_are_githubs(note):
    assert [row[:2] for row in headings(note.html)] == [
        (1, "norms-how-long-and-why-3"),
        (2, "one-two"),
        (2, "one-two-1"),
    ]
    assert [len(row["children"]) for row in outline(note.html)] == [2]


def test_a_table_keeps_its_bars_and_shows_verdicts(note):
    assert "<td><code>x | y</code></td>" in note.html
    assert '<strong class="verdict bad">not reproduced</strong>' in note.html


def test_no_line_ends_within_an_interval(small):
    text = render("+1 [-0.5, 1.5] of `[1, 2]`", "weeks/01/note.md", small).html
    assert "[-0.5,\u00a01.5]" in text
    assert "<code>[1, 2]</code>" in text


def test_a_picture_keeps_its_place(note):
    assert 'width="640" height="480"' in note.html


# ---- scripts


@pytest.fixture
def script(small):
    return script_page("weeks/01/topic.py", small)


def test_a_script_shows_its_docstring(script):
    assert script.title == "Norm & <length>: a x^2 title"
    assert "<h1" in script.html
    assert "&lt;length&gt;" in script.html
    assert "<mo" in script.html.partition("What the run showed")[0]
    assert "<blockquote>" not in script.html, "a doctest is no quotation"


def test_a_record_is_shown_with_names_as_they_are(script):
    text = script.html
    assert '<strong class="verdict bad">fails</strong>' in text
    assert "it &lt;wins&gt;" in text
    assert "x &lt; y &amp; z" in text
    assert "&lt;i&gt;" in text
    assert 'alt="A &quot;line&quot;?"' in text
    assert "at least 0.5" in text
    assert "m²" in text


def test_each_line_has_an_anchor_of_its_own(script):
    lines = len(PROGRAM.splitlines())
    anchors = re.findall(r'class="line" id="([^"]+)"', script.html)
    assert anchors == [f"L{i + 1}" for i in range(lines)] + [
        "evidence-topic-L1",
        "evidence-topic-L2",
    ]
    for line in re.findall(r'<span class="line".*?\n</span>', script.html):
        assert line.count("<span") == line.count("</span>")


def test_listing_says_what_the_file_says():
    text = '"""a\n\n  <b>&amp;"""\nx = f"{1}"\n'
    found = listing(text, href=lambda module: None)
    assert html.unescape(re.sub(r"<[^>]+>", "", found)) == text


def test_imports_are_links(script):
    assert '<a class="nn" href="helper.py.html">week01.helper</a>' in script.html


# ---- papers, tracks, map


def test_front_matter_is_a_card():
    matter, body = split(
        '---\ntitle: "A & B"\nyear: 2020\nvenue: V\narxiv: "1234.5"\nrules:\n'
        '  - name: "<x>"\n    at_least: 0.5\n    each: true\n---\n# A\n'
    )
    assert body == "# A\n"
    text = card(matter)
    assert "A &amp; B" in text
    assert "<dd>2020, V</dd>" in text
    assert "<dd>V 2021</dd>" in card({"venue": "V 2021", "year": 2021})
    assert 'href="https://arxiv.org/abs/1234.5"' in text
    assert "<strong>&lt;x&gt;</strong>; at least 0.5 for each." in text
    assert "arxiv.org" not in card({"arxiv": "none"})


README = """\
# Log

## How to read the log

- **Quick.** [One](weeks/01/README.md) → [two](weeks/01/note.md).
- **The long way.** <!--@ weeks/01 -->[Week](weeks/01/README.md)<!--/@--> →
  [note](weeks/01/note.md), [code](weeks/01/topic.py).

## Else

- **No.** [track](weeks/01/note.md)
"""


def test_tracks_lead_on(small):
    ways = tracks(README)
    assert [(way.name, len(way.steps)) for way in ways] == [("Quick", 2), ("The long way", 3)]
    sign = signpost("weeks/01/note.md", ways, small)
    assert re.findall(r'rel="(\w+)" class="\w+" href="([^"]+)"', sign) == [
        ("prev", "index.html"),
        ("prev", "index.html"),
        ("next", "topic.py.html"),
    ]
    assert "2 of 2" in sign
    assert 'href="../../tracks.html#the-long-way"' in sign
    assert signpost("weeks/01/helper.py", ways, small) == ""
    page = tracks_page(ways, dict.fromkeys(small.urls, "A: b & c"), small)
    assert page.count("<li>") == 5
    assert "<small>b &amp; c</small>" in page


def test_the_map_shows_every_note_and_arrow():
    plan = log.curriculum()
    titles = {note["file"]: note["file"] for note in plan["note"]}
    library = Library(records.ROOT, list(titles))
    page = map_page(plan, titles, library)
    for name in titles:
        assert f'<a class="note" data-name="{name}" href="{url_of(name)}">' in page
    assert page.count('<path class="edge') == len(edges(plan["note"])) > 100
    boxes = layout(plan, titles)
    assert len({(box.x, box.y) for box in boxes}) == len(boxes)
    ElementTree.fromstring(re.search(r"<svg.*</svg>", page, re.DOTALL)[0])


def test_what_is_read_first_stands_left():
    plan = {
        "week": [{"number": "01", "title": "A", "notes": ["b.md", "a.md"]}],
        "note": [{"file": "weeks/01/a.md", "next": ["weeks/01/b.md"]}, {"file": "weeks/01/b.md"}],
    }
    boxes = layout(plan, {"weeks/01/a.md": "A", "weeks/01/b.md": "B"})
    assert [box.title for box in sorted(boxes, key=lambda box: box.x)] == ["A", "B"]


# ---- the command


def test_a_missing_library_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="uv sync --group book"):
        site.build(tmp_path)


def test_a_folder_of_something_else_is_kept(tmp_path):
    (tmp_path / "thesis.tex").write_text("x", encoding="utf-8")
    with pytest.raises(UserError, match="holds something else"):
        site.build(tmp_path)
    assert (tmp_path / "thesis.tex").exists()


def test_an_interrupted_book_is_built_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(site, "write", lambda library: [])
    monkeypatch.setattr(site, "bind", lambda pages, tree, out: (out / "index.html").touch())
    monkeypatch.setattr(site, "navigation", lambda *given: [])
    site.build(tmp_path / "a" / "book", ["README.md"])
    site.build(tmp_path / "a" / "book", ["README.md"])
    assert (tmp_path / "a" / "book" / "index.html").exists()


# ---- the whole book


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """The book of this log, built once for all workers."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    out, lock, done = folder / "book", folder / "book.lock", folder / "book.json"
    try:
        lock.mkdir()
    except FileExistsError:
        end = time.monotonic() + 1500
        while not done.exists():
            assert time.monotonic() < end, "another worker has not built the book"
            time.sleep(0.2)
    else:
        said = None  # so that nobody waits for what has failed
        try:
            found = site.build(out)
            said = {"pages": len(found.pages), "dead": found.dead}
        finally:
            part = done.with_suffix(".part")
            part.write_text(json.dumps(said))
            part.rename(done)
    said = json.loads(done.read_text())
    assert said is not None, "another worker could not build the book"
    return out, said


@pytest.fixture(scope="module")
def texts(book):
    out = book[0]
    return {p.relative_to(out).as_posix(): p.read_text() for p in sorted(out.rglob("*.html"))}


def test_every_file_has_its_page(book, texts):
    assert {unquote(url_of(name)) for name in shown_files()} < set(texts)
    assert book[1]["pages"] == len(texts) - 1  # and one for what is not found
    assert book[1]["dead"] == []


def test_every_link_of_the_book_resolves(book, texts):
    out, dead = book[0], []
    anchors = {name: set(re.findall(r'\bid="([^"]+)"', text)) for name, text in texts.items()}
    for name, text in texts.items():
        if name == "404.html":  # its links begin at the site's root
            continue
        for url in set(re.findall(r'\b(?:href|src)="([^"]+)"', text)):
            if re.match(r"https?:|mailto:|data:|javascript:", url):
                continue
            path, _, anchor = html.unescape(url).partition("#")
            path = unquote(path.partition("?")[0])
            target = (
                posixpath.normpath(posixpath.join(posixpath.dirname(name), path)) if path else name
            )
            target = f"{target}/index.html" if (out / target).is_dir() else target
            known = anchors.get(target, set()) | {"__search", "__skip", ""}
            if not (out / target).is_file() or (target in anchors and anchor not in known):
                dead.append((name, url))
    assert dead == []


def test_nothing_is_loaded_from_elsewhere(book, texts):
    loads = (
        r"<(?:script|img|link|iframe|source|object|video)\b[^>]*(?:src|href)=[\"']?(?:https?:)?//"
    )
    assert [name for name, text in texts.items() if re.search(loads, text)] == []
    for style in book[0].rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//|@import", style.read_text()), style.name


def test_every_formula_was_converted(texts):
    left = []
    for name, text in texts.items():
        body = re.search(r"<article.*?</article>", text, re.DOTALL)
        body = re.sub(
            r"<pre\b.*?</pre>|<code\b.*?</code>|<[^>]*>", " ", body[0] if body else "", flags=re.S
        )
        left += [(name, found) for found in re.findall(r".{20}\$.{20}|\\[a-z]{3,}", body)]
    assert left == []
    assert sum(text.count("<math") for text in texts.values()) > 4000


def test_pages_hold_their_verdicts(texts):
    for script in log.all_scripts():
        page = texts[f"{log.key(script)}.html"]
        if not records.record_of(script).exists():
            continue
        record = records.load(records.record_of(script))
        shown = re.findall(
            r'<strong class="verdict \w+">([^<]+)</strong>', page.partition('<h2 id="code')[0]
        )
        assert [c["verdict"] for c in record["claims"]] == shown[: len(record["claims"])]
        assert page.count('class="tick"') == sum(c["passed"] for c in record["checks"])


def test_search_knows_the_notes(book):
    index = json.loads((book[0] / "search" / "search_index.json").read_text())
    found = {
        d["location"].partition("#")[0] for d in index["docs"] if "rotary" in d["text"].lower()
    }
    assert "weeks/18/llama3.html" in found
    assert not [d for d in index["docs"] if "def main(run" in d["text"]], "code is not searched"


def test_navigation_holds_every_week_and_note(book):
    titles = {name: name for name in shown_files()}
    tree = json.dumps(navigation(log.curriculum(), titles, Library(records.ROOT, list(titles))))
    for note in log.curriculum()["note"]:
        assert f'"{note["file"]}"' in tree


def test_titles_in_the_navigation_are_escaped(small):
    plan = {"week": [], "paper": [{"folder": "01", "year": 1, "title": "a < b & c"}]}
    small.urls["papers/01/README.md"] = "papers/01/index.html"
    tree = navigation(plan | {"capstone": []}, {"papers/01/README.md": ""}, small)
    assert {"1 · a &lt; b &amp; c": "papers/01/index.md"} in tree[-1]["Papers"]


# ---- in a browser

PAGES = ["index", "map", "tracks", "weeks/index", "weeks/13/index", "weeks/13/attention"]
PAGES += ["weeks/13/attention.py", "weeks/08/minigrad/index", "papers/index", "capstones/rag/index"]
PAGES += ["papers/2020-ddpm/index", "papers/2020-ddpm/reproduce.py", "weeks/09/optimization"]
WIDTH = "return document.documentElement.scrollWidth"
FLAT = """return [...document.querySelectorAll("math")].filter(
  (m) => !m.closest("details") && !m.getBoundingClientRect().width).length"""


@pytest.fixture(scope="module")
def address(book):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    handler = partial(Quiet, directory=os.fspath(book[0]))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


@needs_browser
def test_the_book_in_a_browser(address, tmp_path):
    with chromium(tmp_path) as driver:
        page = Page(driver, address)
        phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
        with watched(driver, address):
            for name in PAGES:
                driver.get(f"{address}{name}.html")
                # The theme wraps wide tables a moment after the page is there.
                page.wait(lambda: page.script(WIDTH) <= 390)
                assert page.script(FLAT) == 0, name
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        with watched(driver, address):
            driver.get(f"{address}index.html")
            scheme = "return document.body.dataset.mdColorScheme"
            seen = set()
            for _ in range(3):
                seen.add(page.script(scheme))
                page.see("label[for^=__palette]").click()
            assert seen == {"default", "slate"}
            page.one("input.md-search__input").send_keys("rotary")
            found = page.wait(lambda: page.all("a.md-search-result__link"))
            assert any("llama3" in link.get_attribute("href") for link in found)


@needs_browser
def test_the_map_answers_the_keyboard(address, tmp_path):
    with chromium(tmp_path) as driver:
        page = Page(driver, address)
        driver.execute_cdp_cmd("Emulation.setFocusEmulationEnabled", {"enabled": True})
        with watched(driver, address):
            driver.get(f"{address}map.html")
            page.script("document.querySelector('a.note[data-name*=\"13/attention\"]').focus()")
            assert page.focused().get_attribute("data-name") == "weeks/13/attention.md"
            assert len(page.all(".edge.on")) >= 2
            page.focused().send_keys("\ue007")
            page.wait(lambda: driver.current_url.endswith("weeks/13/attention.html"))
