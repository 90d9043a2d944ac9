"""A run's page: nothing but text from models and data, nothing fetched, everything to be found."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from browser import Page, contrasts, needs_browser, watched
from hypothesis import given
from hypothesis import strategies as st
from llm_eval_report import ATTACK, LONG, TEXTS, number, outcome

from llm_eval.report import page as pages
from llm_eval.report.embedding import LONGEST, embed, safe_json
from llm_eval.report.page import page
from llm_eval.report.pictures import Row, plot, reliability, scale
from llm_eval.report.reading import Results
from llm_eval.types import Request, Response, Sample

DIRECTIONS = {("t", "acc"): True, ("t", "loss"): False}


class Parsed(HTMLParser):
    """Tags, attributes and texts of a page, as a browser takes them apart."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.texts, self.raw = [], [], {}
        self._in = None
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._in = (tag, dict(attributes)) if tag in ("script", "style") else None

    def handle_endtag(self, tag):
        self._in = None

    def handle_data(self, data):
        if self._in:
            name = self._in[1].get("id") or self._in[0]
            self.raw[name] = self.raw.get(name, "") + data
        else:
            self.texts.append(data)


@pytest.fixture(scope="module")
def run():
    return outcome(40)


@pytest.fixture(scope="module")
def html(run):
    results = Results(run.model, run.settings, run.tasks, tuple(run.numbers))
    return page(results, run.samples)


@pytest.fixture(scope="module")
def parsed(html):
    return Parsed(html)


def test_texts_never_become_markup(parsed):
    allowed = {"html", "head", "meta", "title", "link", "style", "body", "script", "svg", "path"}
    allowed |= {"rect", "circle", "text", "a", "header", "main", "section", "nav", "div", "p", "h1"}
    allowed |= {"h2", "dl", "dt", "dd", "details", "summary", "figure", "figcaption", "strong"}
    allowed |= {"span", "bdi", "code", "table", "thead", "tbody", "tfoot", "tr", "th", "td"}
    allowed |= {"form", "label", "input", "select", "option", "button", "noscript"}
    assert {tag for tag, _ in parsed.tags} <= allowed
    assert [a for tag, a in parsed.tags if tag == "script"] == [
        {"type": "application/json", "id": "data"},
        {},
    ]
    assert not [k for _, a in parsed.tags for k in a if k.startswith("on") or k == "style"]
    assert ATTACK in parsed.texts
    assert "<i>odd</i> & co" in parsed.texts


def test_nothing_is_fetched_and_only_our_script_runs(parsed, html):
    links = [v for _, a in parsed.tags for k, v in a.items() if k in ("href", "src", "action")]
    assert all(link.startswith("#") or link == "data:," for link in links)
    assert not re.search(r"url\(|@import|https?://", parsed.raw["style"] + parsed.raw["script"])
    policy = next(a["content"] for _, a in parsed.tags if "http-equiv" in a)
    for part in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(parsed.raw[part].encode()).digest()).decode()
        assert f"{part}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_cells_sort_by_their_numbers(parsed, run):
    """What a cell is sorted by is the number itself, whatever is written in it."""
    rows, cells = [], []
    for tag, attributes in parsed.tags:
        if tag == "tr" and "data-words" in attributes:
            rows.append(attributes)
            cells.append([])
        elif "data-v" in attributes and cells:
            cells[-1].append(attributes["data-v"])
    assert len(rows) == len(run.numbers)
    shown = sorted((c[0], c[1], c[2], c[3], c[4], c[5]) for c in cells)
    texts = [(x.task, x.metric, x.value, x.low, x.n, x.failed) for x in run.numbers]
    assert shown == sorted(tuple(map(str, x)) for x in texts)
    kinds = [a["data-kind"] for tag, a in parsed.tags if tag == "th" and "data-kind" in a]
    assert kinds == ["text"] * 2 + ["number"] * 6
    assert all(row["data-words"] == row["data-words"].casefold() for row in rows)
    assert any("task arc_easy" in row["data-words"] for row in rows)


def test_failures_are_told(parsed, run):
    n = sum(task["failed"] for task in run.tasks.values())
    assert n > 0
    assert any(text.startswith(f"{n} documents got no answer") for text in parsed.texts)
    data = json.loads(parsed.raw["data"])
    errors = [s for s in run.samples if s.task == "arc_easy" and s.error]
    assert data["arc_easy"]["counts"]["errors"] == len(errors)
    first = data["arc_easy"]["samples"][: len(errors)]
    assert [entry["error"] for entry in first] == ["timed out"] * len(errors)
    whole = [x for x in run.numbers if x.failed]
    assert sum(a.get("class") == "number bad" for tag, a in parsed.tags if tag == "td") == len(
        whole
    ) + sum(bool(task["failed"]) for task in run.tasks.values())


def test_the_page_is_small(run):
    samples = [s for i in range(10) for s in outcome(23, seed=i).samples]  # 2070
    results = Results(run.model, run.settings, run.tasks, tuple(run.numbers))
    assert len(page(results, samples, per_task=2000).encode()) < 3_000_000
    long = [sample("t", str(i), "x" * 2500, 0.0) for i in range(2000)]
    found = page(results, long, per_task=2000)
    assert len(found.encode()) < 3_000_000
    counts = json.loads(Parsed(found).raw["data"])["t"]
    assert counts["counts"]["total"] == 2000
    assert 500 < len(counts["samples"]) < 2000


def sample(task, id, prompt="", acc=1.0, **given):
    requests = (Request("loglikelihood", prompt, " a"), Request("loglikelihood", prompt, " b"))
    responses = (Response(-1.0, n_tokens=1), Response(-2.0, n_tokens=1))
    return Sample(task, id, {}, requests, responses, 0, 0, {"acc": acc}, **given)


def entries(samples, **options):
    found = embed(samples, DIRECTIONS, **options)["t"]
    return found, [json.loads(entry) for entry in found.entries]


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=60), st.integers(1, 20))
def test_the_worst_samples_stay(values, keep):
    found, kept = entries([sample("t", str(i), acc=x) for i, x in enumerate(values)], per_task=keep)
    order = sorted(range(len(values)), key=lambda i: (values[i], i))
    assert [entry["id"] for entry in kept] == [str(i) for i in order[:keep]]
    assert (found.total, found.wrong) == (len(values), values.count(0.0))


def test_the_worst_is_the_highest_where_lower_is_better():
    samples = [Sample("t", str(x), {}, (), (), values={"loss": x}) for x in (1.0, 3.0, 2.0)]
    assert [entry["id"] for entry in entries(samples)[1]] == ["3.0", "2.0", "1.0"]
    assert entries(samples)[1][0]["right"] is None


def test_long_texts_lose_their_middle_and_say_so():
    _, (entry,) = entries([sample("t", "1", f"begin {LONG} end")])
    assert entry["prompt"].startswith("begin A very")
    assert entry["prompt"].endswith("tea.  end")
    assert f"{len(LONG) + 10 - LONGEST:,} characters left out" in entry["prompt"]


def test_choices_that_differ_before_their_end_are_told_apart():
    contexts = ("Tea is old. The leaf", "Tea is old. The lid")
    requests = tuple(Request("loglikelihood", text, " is green") for text in contexts)
    responses = (Response(-1.5, n_tokens=2), Response(float("-inf"), n_tokens=2))
    _, (entry,) = entries([Sample("t", "1", {}, requests, responses, 0, 0)])
    assert entry["prompt"] == "Tea is old. The "
    assert entry["choices"] == [["leaf is green", -1.5, 2], ["lid is green", "-inf", 2]]


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=8)


@given(JSON | st.sampled_from([*TEXTS, "<!--", "]]>", "</SCRIPT >"]))
def test_safe_json_is_json_that_ends_no_script(value):
    text = safe_json(value)
    assert not set(text) & set("<>&")
    assert json.loads(text) == value


def test_a_number_without_a_signature_is_refused():
    with pytest.raises(ValueError, match="must have a signature"):
        page(Results({}, {}, {}, (number(signature=""),)), [])


def test_an_empty_run_is_a_page():
    assert "No scores." in page(Results({}, {}, {}, ()), [])


# ---- pictures

ENDS = st.floats(-1e6, 1e6, allow_subnormal=False)


@given(st.lists(st.tuples(ENDS, ENDS, ENDS), min_size=1, max_size=5), st.booleans())
def test_a_scale_holds_its_rows(triples, unit):
    rows = [Row("a", "", y, x, z, "") for x, y, z in map(sorted, triples)]
    low, high, step = scale(rows, unit=unit)
    slack = 1e-6 * step
    assert all(low - slack <= end <= high + slack for row in rows for end in (row.low, row.high))
    assert 1 <= round((high - low) / step) <= 6


def drawn(row):
    ((_, svg),) = plot("t", "", [row]).rows
    found = dict(re.findall(r'class="(\w+)" d="M([\d.-]+)[^"]*"', svg))
    whisker = re.search(r'class="whisker" d="M([\d.-]+) [\d.]+H([\d.-]+)"', svg)
    return found, [float(x) for x in whisker.groups()], svg


def test_a_row_is_drawn_where_its_values_are():
    found, ends, _ = drawn(Row("a", "", 0.5, 0.25, 0.75, ""))
    assert float(found["dot"]) == 500
    assert ends == [250, 750]
    found, ends, svg = drawn(Row("a", "", 0.1, 0.0, 0.2, "", neutral=0.0, detectable=0.1))
    assert ends[0] == float(found["neutral"])
    assert ends[0] < float(found["dot"]) < ends[1]
    x, width = re.search(r'class="unseen-gap" x="([\d.]+)" y="3" width="([\d.]+)"', svg).groups()
    assert float(x) + float(width) / 2 == pytest.approx(float(found["neutral"]), abs=0.2)
    assert float(x) + float(width) == pytest.approx(float(found["dot"]), abs=0.2)


def test_ticks_are_written_in_full():
    assert plot("t", "", [Row("a", "", 0.5, None, None, "")]).ticks == [
        "0",
        "0.25",
        "0.5",
        "0.75",
        "1",
    ]
    assert plot("t", "", [Row("a", "", 12.0, 9.0, 14.0, "")]).ticks == ["0", "5", "10", "15"]


def test_a_curve_stands_on_its_diagonal():
    spots = re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', reliability([(0.0, 0.0, 5), (1.0, 1.0, 5)]))
    (x0, y0), (x1, y1) = [(float(x), float(y)) for x, y in spots]
    assert x1 - x0 == y0 - y1 == 200


def test_curves_come_from_the_numbers_of_calibration(html, run):
    bins = [x for x in run.numbers if x.metric == "accuracy_of_confidence"]
    assert len(bins) == html.count('<circle class="spot"') == 8
    assert "9 documents: confidence 0.35, right 0.30" in html


# ---- in headless Chromium


class Report(Page):
    """With words for what a reader looks for."""

    def shown(self, selector):
        return [e for e in self.all(selector) if e.is_displayed()]

    def put(self, name, value):
        self.script(
            "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
            "e.dispatchEvent(new Event('input', {bubbles: true}));",
            *(name, value),
        )

    def column(self, place):
        return self.script(
            "return [...document.querySelectorAll('#table tbody tr:not([hidden])')]"
            ".map(row => row.cells[arguments[0]].dataset.v)",
            place,
        )


@pytest.fixture(scope="module")
def address(html, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "index.html"
    path.write_text(html, encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def browser(driver, address):
    with watched(driver, address):
        driver.get(address)
        yield Report(driver, address)


@needs_browser
def test_columns_sort_as_what_they_hold(browser, run):
    heads = browser.shown("#table thead button")
    heads[4].click()
    counts = [int(n) for n in browser.column(4)]
    assert counts == sorted(counts)
    assert counts != sorted(counts, key=str)
    heads[2].click()
    heads[2].click()
    values = [float(x) for x in browser.column(2)]
    assert values == sorted(values, reverse=True)
    assert heads[2].find_element("xpath", "..").get_attribute("aria-sort") == "descending"
    heads[7].click()
    least = browser.column(7)
    assert [x for x in least if x] == sorted((x for x in least if x), key=float)
    assert least[-1] == ""


@needs_browser
def test_filters_ignore_case_and_say_how_many(browser, run):
    for words in ("BBQ_AGE", "bbq_age", "  Bbq_Age "):
        browser.put("search", words)
        assert set(browser.column(0)) == {"bbq_age"}
    n = sum(x.task == "bbq_age" for x in run.numbers)
    assert browser.one("#row-count").text == f"{n} of {len(run.numbers)} numbers"
    browser.put("by-group", "whole")
    browser.put("by-metric", "acc")
    assert browser.column(0) == ["bbq_age"]
    browser.put("search", "")
    browser.put("by-metric", "")
    browser.put("by-group", f"={ATTACK}")
    assert len(browser.column(0)) == sum(x.group == ATTACK for x in run.numbers)
    browser.put("by-group", "")
    browser.put("by-tag", "toxicity")
    assert browser.column(0) == ["mini_toxicity"]
    browser.put("search", "NEVER")
    assert browser.column(0) == []


@needs_browser
def test_samples_are_text_and_can_be_found(browser, run):
    browser.put("sample-search", "onerror")
    first = browser.wait(lambda: browser.shown(".sample"))[0]
    assert ATTACK in first.text
    assert not browser.driver.find_elements("css selector", "img, .sample b, .sample script")
    assert browser.script("return window.pwned") is None
    browser.put("sample-search", "")
    browser.put("sample-kind", "error")
    failed = browser.shown(".sample")
    assert len(failed) == sum(bool(s.error) for s in run.samples if s.task == "arc_easy")
    assert "timed out" in failed[0].text
    assert not browser.shown(".share")  # no answer, no shares
    browser.put("sample-kind", "right")
    right = browser.shown(".sample")[0]
    assert right.find_element("css selector", ".choices .badge.good").text == "right answer"
    assert " nats" in right.text
    browser.put("sample-kind", "")
    place = browser.one("#sample-place").text
    assert place == "1 to 10 of 40"
    browser.one("#sample-next").click()
    assert browser.one("#sample-place").text == "11 to 20 of 40"
    browser.put("sample-task", "xquad_en")
    assert browser.one("#sample-place").text == "1 to 10 of 40"
    assert "[system] Be brief." in browser.one("#sample-list").text


@needs_browser
def test_signatures_are_hidden_until_asked_for(browser):
    assert not browser.shown(".protocol")
    browser.one("#protocols").click()
    assert "shots:0" in browser.shown(".protocol")[0].text


@needs_browser
def test_keys_are_enough(browser):
    from selenium.webdriver import Keys

    first = browser.one("a, button, input, select, summary")
    browser.script("arguments[0].focus()", first)
    assert first.get_property("textContent") == "Skip to the content"
    head = browser.shown("#table thead button")[2]
    browser.script("arguments[0].focus()", head)
    assert head.value_of_css_property("outline-style") == "solid"
    head.send_keys(Keys.ENTER)
    browser.wait(lambda: head.find_element("xpath", "..").get_attribute("aria-sort") == "ascending")


@needs_browser
def test_without_scripts_the_tables_are_there(driver, address):
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        driver.get(address)
        assert driver.find_element("css selector", "#table").is_displayed()
        assert driver.find_element("css selector", ".protocol").is_displayed()
        assert not driver.find_element("css selector", "#filters").is_displayed()
        assert "samples.jsonl" in driver.find_element("css selector", "noscript").text
    finally:
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@needs_browser
@pytest.mark.parametrize("width", [320, 390, 768, 1400])
def test_it_fits(browser, width):
    with browser.sized(width, 800):
        assert browser.script("return document.documentElement.scrollWidth <= innerWidth")


# ---- colors

PAIRS = [(ink, ground) for ink in ("text", "muted") for ground in ("ground", "surface", "raised")]
PAIRS += [("accent", "ground"), ("accent", "surface"), ("accent", "tint"), ("bad", "bad-tint")]
PAIRS += [("bad", "ground"), ("good", "good-tint"), ("on-accent", "accent"), ("text", "bad-tint")]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colors_keep_their_contrast(scheme):
    of = contrasts(Path(pages.HERE, "page.css"), scheme, PAIRS)
    assert {pair: ratio for pair, ratio in of.items() if ratio < 4.5} == {}
