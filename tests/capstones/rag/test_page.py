"""The page in headless Chromium: ask, read the source, come back, find the conversation again."""

import threading
import time
from pathlib import Path

import pytest
import uvicorn
from browser import Page, contrasts, needs_browser, watched
from rag_small import DOCUMENTS, Slow, small_store
from selenium.webdriver import Keys

from rag.answering.answerer import AnswerSettings
from rag.answering.models import Extractive
from rag.web.server import STATIC, create_app

QUESTION = "What water does black tea need?"


class RagPage(Page):
    """With words for questions."""

    def open(self, place=""):
        self.driver.get("about:blank")
        self.driver.get(f"{self.url}/{place}")
        self.wait(lambda: "passage" in self.one("#store").get_property("textContent"))

    def ask(self, question):
        n = len(self.all(".turn details"))
        self.one("#question").send_keys(question + "\n")
        self.wait(lambda: len(self.all(".turn details")) > n)
        return self.all(".turn")[-1]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A running server and its model."""
    folder = tmp_path_factory.mktemp("page") / "store"
    small_store(folder)
    web = create_app(folder, model=Extractive(), answering=AnswerSettings(min_confidence=0.0))
    serving = uvicorn.Server(uvicorn.Config(web, port=0, log_level="error"))
    thread = threading.Thread(target=serving.run)
    thread.start()
    while not serving.started:
        time.sleep(0.01)
    port = serving.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}", web.state.library
    serving.should_exit = True
    thread.join()


@pytest.fixture
def page(server, driver):
    url, library = server
    page = RagPage(driver, url)
    with watched(driver, url):
        page.open()
        yield page
        for info in library.sessions.names():
            library.sessions.forget(info.name)


@needs_browser
def test_a_citation_opens_the_source_at_its_span(page):
    turn = page.ask(QUESTION)
    assert "boiling" in turn.text
    cite = turn.find_elements("css selector", ".cite")[-1]
    cite.click()
    mark = page.see("#source-text mark")
    citation = page.all(".sources q")[-1].text.strip("“”")
    shown = page.script("return arguments[0].textContent", mark)
    assert " ".join(shown.split()) == " ".join(citation.split()) == "Black tea needs boiling water."
    # 😀 stands before it: a browser that cut by its own counting would be one character off
    whole = page.script("return document.getElementById('source-text').textContent")
    assert whole == DOCUMENTS[0].text
    seen = (
        "const a = arguments[0].getBoundingClientRect(); return a.top > 0 && a.bottom < innerHeight"
    )
    assert page.script(seen, mark)
    assert page.focused().get_attribute("id") == "source-title"
    assert cite.get_attribute("aria-expanded") == "true"
    page.focused().send_keys(Keys.ESCAPE)
    page.wait(lambda: not page.one("#source").is_displayed())
    assert page.focused() == cite
    assert cite.get_attribute("aria-expanded") == "false"


@needs_browser
def test_after_a_reload_the_conversation_is_still_there(page):
    before = page.ask(QUESTION).find_element("css selector", ".answer").text
    page.ask("And green tea?")
    address = page.driver.current_url
    page.driver.refresh()
    page.wait(lambda: len(page.all(".turn")) == 2)
    assert page.one(".answer").text == before
    assert page.driver.current_url == address
    assert page.one("#sessions [aria-current]").text == QUESTION
    page.one(".turn:last-child .cite").click()
    assert "needs" in page.see("#source-text mark").text
    page.one("#new").click()
    page.see(".welcome")
    page.one("#sessions a").click()
    page.wait(lambda: len(page.all(".turn")) == 2)


@needs_browser
def test_an_answer_is_shown_while_it_is_written_and_can_be_stopped(page, server):
    library, model = server[1], Slow()
    quick, library.model = library.model, model
    try:
        page.one("#question").send_keys(QUESTION + "\n")
        answer = page.see(".answer[aria-busy=true]")
        page.wait(lambda: "boiling" in answer.text)
        assert not page.all(".sources")
        assert not page.one("#send").is_displayed()
        page.one("#stop").click()
        page.wait(lambda: "Stopped" in page.one(".turn").text)
        assert page.see("#send")
        assert model.stopped.wait(20)
    finally:
        library.model = quick
    assert "boiling" in page.ask(QUESTION).text


@needs_browser
def test_text_never_becomes_markup(page):
    turn = page.ask("What is <img src=x onerror=alert(1)> a <b>tag</b> of?")
    assert "<b>tag</b>" in turn.text
    assert not page.all("#thread b:not(.sources b), #thread img")
    page.open("#documents")
    page.see("#library tbody tr")
    assert "<i>Tags" in page.one("#library").text
    next(e for e in page.all("#library .link") if "Tags" in e.text).click()
    page.wait(lambda: "<img" in page.one("#source-text").text)
    assert page.one("#source-title").text == "<i>Tags"
    assert not page.all("#source img, #library i")


@needs_browser
def test_what_is_not_supported_is_marked_for_eyes_and_ears(page):
    page.script(
        """const answer = {question: "Who?", text: "x", note: "", confidence: 0.5, abstained: false,
          citations: [], flagged: ["bad.md"], sentences: [{text: "Tea is old.", citations: [],
          supported: false}], query: "Who?"};
        const real = window.fetch;
        window.fetch = (url, options) => url !== "/api/ask" ? real(url, options) :
          Promise.resolve(new Response(JSON.stringify({answer}) + "\\n"));"""
    )
    page.ask("Who?")
    assert page.one(".unsupported").text == "Tea is old."
    doubt = page.one(".doubt")
    assert "Not found in the documents" in page.script("return arguments[0].textContent", doubt)
    assert not doubt.find_element("css selector", ".tip").is_displayed()
    doubt.send_keys("")
    page.script("arguments[0].focus()", doubt)
    assert doubt.find_element("css selector", ".tip").is_displayed()
    assert "instructions to a model" in page.one(".turn .warning").text


@needs_browser
def test_keys(page):
    first = page.one("a, button, input, textarea, [tabindex]")
    page.script("arguments[0].focus()", first)
    assert first.get_property("textContent") == "Skip to the content"
    page.wait(lambda: first.rect["y"] >= 0)
    assert first.value_of_css_property("outline-style") == "solid"

    def skipped():  # a busy browser may lose a key
        first.send_keys(Keys.ENTER)
        return page.focused().get_attribute("id") == "main"

    page.wait(skipped)
    question = page.one("#question")
    question.send_keys("one", Keys.SHIFT + Keys.ENTER, Keys.NULL, "two")
    assert question.get_property("value") == "one\ntwo"
    assert not page.all(".turn")
    question.send_keys("\n")
    page.wait(lambda: len(page.all(".turn details")) == 1)
    assert question.get_property("value") == ""


@needs_browser
def test_search_shows_why(page):
    page.open("#search")
    page.see("#query").send_keys("boiling water\n")
    hit = page.see(".hit")
    assert "boiling" in hit.text
    assert [e.text for e in page.all("#found table")[0].find_elements("css selector", "th")][
        :2
    ] == [
        "#",
        "Score",
    ]
    assert len(page.all("#found table")) == 2
    hit.find_element("css selector", "button").click()
    assert "boiling" in page.see("#source-text mark").text


@needs_browser
def test_upload_reports_what_was_skipped(page, tmp_path):
    (tmp_path / "gneiss.md").write_text("# Gneiss\n\nGneiss is banded.")
    (tmp_path / "torn.pdf").write_bytes(b"%PDF-1.7")
    page.open("#documents")
    page.see("#library tbody tr")
    page.one("#files").send_keys(f"{tmp_path / 'gneiss.md'}\n{tmp_path / 'torn.pdf'}")
    page.wait(lambda: "1 added, 0 updated, 0 unchanged, 1 skipped" in page.one("#report").text)
    assert "uploads/torn.pdf" in page.one("#report").text
    page.wait(lambda: "Gneiss" in page.one("#library").text)
    page.one("#narrow").send_keys("gneiss")
    (remove,) = page.all("#library button.quiet")
    remove.click()
    page.see("#no").click()
    assert len(page.all("#library tbody tr")) == 1
    remove.click()
    page.see("#yes").click()
    page.wait(lambda: not page.all("#library tbody tr"))


@needs_browser
def test_forgetting_asks_first(page):
    page.ask(QUESTION)
    forget = page.one("#sessions button")
    forget.click()
    assert QUESTION in page.see("#confirm-text").text
    page.focused().send_keys(Keys.ESCAPE)
    page.wait(lambda: not page.one("#confirm").is_displayed())
    assert page.all("#sessions a")
    forget.click()
    page.see("#yes").click()
    page.wait(lambda: not page.all("#sessions li"))
    page.see(".welcome")


@needs_browser
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_it_fits(page, width):
    with page.sized(width, 740):
        page.open()
        page.ask(QUESTION)
        for view in ("#chat", "#search", "#documents"):
            page.open(view)
            assert page.script("return document.documentElement.scrollWidth <= innerWidth")
        if width == 360:
            assert not page.one("#side nav").is_displayed()
            page.one("#menu").click()
            page.see("#side nav a[data-view=search]").click()
            page.see("#query")


# ---- what needs no browser

GROUNDS = ("ground", "surface", "raised")
PAIRS = [(ink, ground) for ink in ("text", "muted", "accent", "doubt") for ground in GROUNDS]
PAIRS += [("on-accent", "accent"), ("accent", "tint"), ("on-mark", "mark"), ("ground", "text")]
PAIRS += [("ground", "danger")]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colors_keep_their_contrast(scheme):
    of = contrasts(Path(STATIC, "page.css"), scheme, PAIRS)
    assert {pair: ratio for pair, ratio in of.items() if ratio < 4.5} == {}
