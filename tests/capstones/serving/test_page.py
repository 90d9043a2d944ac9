"""The page in headless Chromium: a chat as it is written, and the server's numbers as they move."""

import re
import threading
import time

import httpx
import pytest
from browser import Page, contrasts, needs_browser, watched
from selenium.webdriver import Keys
from serving_scripted import ScriptedBackend, running, scripted_app

from serving.safety.policy import Safety
from serving.web.page import STATIC


class Chat(Page):
    """With words for questions."""

    def open(self):
        self.driver.get(self.url)
        self.wait(lambda: self.one("#model").get_property("value") == "scripted")

    def ask(self, question):
        n = len(self.all("[aria-busy=false]"))
        self.one("#question").send_keys(question + "\n")
        self.wait(lambda: len(self.all("[aria-busy=false]")) > n)
        return self.all(".answer")[-1]


@pytest.fixture(scope="module")
def server():
    backend = ScriptedBackend()
    app = scripted_app(backend, Safety("block"))
    with running(app) as url:
        yield url, backend, app.state.service.metrics


@pytest.fixture
def page(server, driver):
    url, backend, _ = server
    vars(backend).update(vars(ScriptedBackend()))
    page = Chat(driver, url)
    with watched(driver, url, forgiven="429"):
        page.open()
        yield page


@needs_browser
def test_a_conversation(page, server):
    assert page.ask("What is rain?").find_element("css selector", ".text").text == "Rain is water."
    assert "3 tokens · first after" in page.one(".fine").text
    page.ask("And snow?")
    turns = [("user", "What is rain?"), ("assistant", "Rain is water."), ("user", "And snow?")]
    assert list(server[1].asked[-1].prompt) == turns
    page.one("#new").click()
    page.ask("Again?")
    assert list(server[1].asked[-1].prompt) == [("user", "Again?")]
    assert len(page.all(".user")) == 1


@needs_browser
def test_an_answer_is_shown_while_it_is_written_and_can_be_stopped(page, server):
    server[1].pieces, server[1].finish = ["Rain ", "is "], None
    page.one("#question").send_keys("What is rain?\n")
    page.wait(lambda: page.all(".text") and page.one(".text").text.strip() == "Rain is")
    assert page.one(".answer").get_attribute("aria-busy") == "true"
    assert not page.one("#send").is_displayed()
    page.one("#stop").click()
    page.wait(lambda: "Stopped." in page.one(".answer").text)
    page.wait(lambda: server[1].answers[-1].cancelled)
    page.see("#send")
    page.one("#question").send_keys("And snow?\n")
    page.wait(lambda: len(page.all(".text")) == 2 and page.all(".text")[1].text)
    page.one("#new").click()
    page.see("#send")
    server[1].finish = "stop"
    page.ask("Again?")
    assert list(server[1].asked[-1].prompt) == [("user", "Again?")]


@needs_browser
def test_text_never_becomes_markup(page, server):
    bad = "<img src=x onerror=document.title='hit'> <b>bold</b>"
    server[1].pieces = [bad]
    assert page.ask(bad).find_element("css selector", ".text").text == bad
    assert not page.all("#thread img, #thread b")
    assert page.driver.title == "serve"


@needs_browser
def test_what_ended_an_answer_is_said(page, server):
    server[1].pieces = ["The key is AKIAIOSFODNN7EXAMPLE, ", "so."]
    said = page.ask("Key?").text
    assert said.startswith("The key is")
    assert "AKIA" not in said
    assert "Ended by the safety filter: token." in said
    server[1].pieces, server[1].finish = ["Rain"], "length"
    assert "Cut: as many tokens as were asked for." in page.ask("Rain?").text


@needs_browser
def test_a_refusal_keeps_the_question(page, server, monkeypatch):
    from serving.errors import ApiError

    def busy(asked):
        raise ApiError(429, "72 answers are being written; come again", wait=2)

    monkeypatch.setattr(server[1], "begin", busy)
    page.one("#question").send_keys("What is rain?\n")
    page.wait(lambda: page.one("#notice").text)
    assert page.one("#notice").text == "72 answers are being written; come again (in 2 s)"
    assert page.one("#question").get_property("value") == "What is rain?"
    assert not page.all(".user")


@needs_browser
def test_the_numbers_are_the_servers(page, server):
    metrics, now = server[2], threading.Event()

    def work():  # 200 tokens per second, however often this thread has its turn
        start, n = time.monotonic(), 0
        while not now.wait(0.02):
            while n < 200 * (time.monotonic() - start):
                metrics.written.inc()
                metrics.between.observe(0.25)
                n += 1

    metrics.written.inc(10_000)  # a rate is not taken for the sum
    metrics.running.set(3)
    metrics.waiting.set(5)
    metrics.cache.set(0.5)
    thread = threading.Thread(target=work)
    thread.start()
    try:
        shown = lambda name: page.one(f"#{name} .now").text  # noqa: E731
        # A look takes its time, so not every second is exact.
        page.wait(lambda: shown("tokens").isdecimal() and 150 <= int(shown("tokens")) <= 250)
        page.wait(lambda: shown("queue") == "3, 5")
        page.wait(lambda: shown("between") == "250 ms")
        page.wait(lambda: shown("cache") == "50 %")
        page.wait(lambda: page.one("#state").text == "ready")
        assert page.one("#tokens svg").get_attribute("aria-label").startswith("Tokens per second")
    finally:
        now.set()
        thread.join()
    page.wait(lambda: shown("tokens") == "0")
    assert shown("between") == "250 ms"  # the last that was seen; the line has a gap
    numbers = re.findall(r"[\d.]+", page.one("#tokens path.line").get_attribute("d"))
    assert all(0 <= float(number) <= 59 for number in numbers)


@needs_browser
def test_what_prometheus_says_is_read(page):
    text = '# HELP a b\na_total{x="1 2",y="}"} 2.0\na_total{x="3"} 1e3\nb_sum 0.5\n'
    found = page.driver.execute_async_script(
        """const [text, done] = arguments;
        import("/static/live.js").then(({read, outline}) => done([
          [...read(text)], outline([null, 0, 2, null, 1], 2)]));""",
        text,
    )
    assert found == [[["a_total", 1002], ["b_sum", 0.5]], "M56 10.00h.01L57 0.00M59 5.00h.01"]


@needs_browser
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_it_fits(page, width):
    with page.sized(width, 740):
        page.open()
        page.ask("word" * 40)
        page.one("summary").click()
        assert page.script("return document.documentElement.scrollWidth <= innerWidth")
        box = page.one("#composer").rect
        assert box["y"] + box["height"] <= 740
        assert all(section.is_displayed() for section in page.all("aside section"))


@needs_browser
def test_keys(page, server):
    question = page.one("#question")
    question.send_keys("one", Keys.SHIFT + Keys.ENTER, Keys.NULL, "two")
    assert question.get_property("value") == "one\ntwo"
    assert not server[1].asked
    page.ask("!")
    assert page.all(".user")[0].text == "one\ntwo!"


# ---- what needs no browser


def test_files_are_bound_to_this_server(server):
    url, _, _ = server
    for path in ("/", "/static/page.css", "/static/chat.js", "/static/live.js"):
        response = httpx.get(url + path)
        assert response.status_code == 200
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert response.headers["X-Content-Type-Options"] == "nosniff"
    kinds = [
        httpx.get(f"{url}/static/{n}").headers["Content-Type"] for n in ("page.css", "chat.js")
    ]
    assert [kind.split(";")[0] for kind in kinds] == ["text/css", "text/javascript"]
    for path in ("/static/../page.py", "/static/%2e%2e/page.py", "/static/none.js"):
        assert httpx.get(url + path).status_code == 404


def test_the_page_holds_no_inline_code_and_names_no_other_server():
    for file in STATIC.iterdir():
        text = file.read_text(encoding="utf-8")
        assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text)
        assert not re.findall(r"innerHTML|insertAdjacentHTML|document\.write|eval\(", text)
    page = (STATIC / "page.html").read_text(encoding="utf-8")
    assert not re.findall(r"<style|\son\w+=|style=|<script(?![^>]* src=)", page)


GROUNDS = ("ground", "surface", "tint")
PAIRS = [(ink, ground) for ink in ("text", "muted", "accent") for ground in GROUNDS]
PAIRS += [(ink, ground) for ink in ("second", "danger") for ground in GROUNDS[:2]]
PAIRS += [("on-accent", "accent")]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colors_keep_their_contrast(scheme):
    of = contrasts(STATIC / "page.css", scheme, PAIRS)
    assert {pair: ratio for pair, ratio in of.items() if ratio < 4.5} == {}
