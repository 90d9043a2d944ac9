"""A picture of the page for the README, from the real program over Python's manual.

uv run python -m rag.web.picture
"""

import io
import shutil
import tempfile
import threading
import time
from pathlib import Path

from rag.terminal import DEFAULT, open_store
from rag.web.server import create_app

OUT = Path(__file__).parents[1] / "results" / "page.png"
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars")
QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-sync")


def take(question: str, *, model: str = "smollm2", store: Path = DEFAULT, out: Path = OUT) -> None:
    """Ask, open the first source, and keep what the browser shows.

    Parameters
    ----------
    out
        A PNG of 256 colors.
    """
    import uvicorn
    from PIL import Image
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.support.ui import WebDriverWait

    from rag.answering.models import open_model

    open_store(store).close()
    web = create_app(store, model=open_model(model))
    server = uvicorn.Server(uvicorn.Config(web, port=0, log_level="error"))
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    options = webdriver.ChromeOptions()
    with tempfile.TemporaryDirectory() as profile:
        for flag in (*FLAGS, *QUIET, f"--user-data-dir={profile}", "--window-size=1440,920"):
            options.add_argument(flag)
        service = Service(shutil.which("chromedriver"))  # so that none is looked for elsewhere
        with webdriver.Chrome(options=options, service=service) as driver:
            driver.get(f"http://127.0.0.1:{port}")
            driver.find_element("id", "question").send_keys(question + "\n")
            WebDriverWait(driver, 300).until(lambda d: d.find_elements("css selector", ".cite"))
            driver.find_element("css selector", ".cite").click()
            WebDriverWait(driver, 60).until(lambda d: d.find_elements("css selector", "mark"))
            picture = Image.open(io.BytesIO(driver.get_screenshot_as_png()))
    library = web.state.library
    library.sessions.forget(library.sessions.names()[0].name)
    server.should_exit = True
    out.parent.mkdir(parents=True, exist_ok=True)
    picture.convert("RGB").quantize(256).save(out, optimize=True)


if __name__ == "__main__":
    take("When are default parameter values evaluated?", model="extractive")
