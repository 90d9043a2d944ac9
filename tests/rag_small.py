"""A store small enough for quick tests, and a model that writes as slowly as a test wants."""

import threading
import time
from collections.abc import Iterator

from rag.embeddings.embedder import open_embedder
from rag.store.store import Store
from rag.types import Document

TEA = "😀 Green tea needs water of eighty degrees. Black tea needs boiling water.\n" * 2
DOCUMENTS = [
    Document("notes/tea.md", TEA + "Tea was first drunk in China.", "All about tea"),
    Document("notes/ice.md", "Ice melts at zero degrees. Salt lowers its melting point.", "Ice"),
    Document("notes/<b>odd</b>.md", "<img src=x onerror=alert(1)> is a tag of a page.", "<i>Tags"),
    Document("rock.txt", "Granite is an igneous rock. Marble is a metamorphic rock."),
]


def small_store(folder) -> None:
    """Make it."""
    with Store.create(folder, embedder=open_embedder("lsa"), size=200, overlap=0) as store:
        store.ingest(DOCUMENTS)


class Slow:
    """Says a sentence that the documents support, then waits until it may go on."""

    name, note = "slow", ""

    def __init__(self):
        self.go_on, self.stopped = threading.Event(), threading.Event()

    def fits(self, messages, max_new_tokens) -> bool:
        return True

    def stream(self, messages, *, stop=None, **options) -> Iterator[str]:
        try:
            yield "Black tea needs boiling water. Ice "
            while not (self.go_on.is_set() or stop.is_set()):
                time.sleep(0.01)
            if not stop.is_set():
                yield "melts at zero degrees."
        finally:  # told to stop, or closed
            self.stopped.set()
