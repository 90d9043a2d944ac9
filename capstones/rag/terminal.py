"""What the commands have in common: the store they mean, and how answers look on a terminal."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.spinner import Spinner
from rich.text import Text

from rag.types import Answer, Citation, Document, Results, Skipped, Stage
from rag.web.writing import line
from shared.errors import UserError

if TYPE_CHECKING:
    from rag.store.store import Report, Store

DEFAULT = Path("runs/rag/pydocs")
DOUBT = "[?]"
plain = {"highlight": False, "soft_wrap": True, "markup": False}
console, errors = Console(**plain), Console(stderr=True, **plain)


def put(value: Any) -> None:
    """One JSON object, on one line."""
    sys.stdout.write(line(asdict(value) if is_dataclass(value) else value))


def open_store(folder: Path) -> "Store":
    """The store in a folder; the one that commands mean by themselves is made on first use."""
    from rag.embeddings.embedder import open_embedder
    from rag.store.opening import is_made
    from rag.store.store import Store

    if folder == DEFAULT and not is_made(folder):
        Store.create(folder, embedder=open_embedder()).close()
    store = Store.open(folder)
    if folder == DEFAULT and not store.generation:  # also if the first use was broken off
        with store:
            note = f"first use: Python's manual is read into {folder}, once; a minute or two"
            errors.print(note)
            read_into(store, ["pydocs"])
        store = Store.open(folder)
    elif not len(store):
        errors.print(f"{folder} is empty: `rag ingest … --store {folder}` reads documents into it")
    return store


def read_into(
    store: "Store",
    given: Sequence[str],
    *,
    prune: bool = False,
    redact: bool = False,
    roots: Sequence[Path] | None = None,
) -> tuple["Report", list[Skipped]]:
    """Ingest sources, with a bar on a terminal; also what was skipped."""
    from rag.documents import sources

    skipped: list[Skipped] = []

    def documents() -> Iterator[Document]:
        for source in given:
            for item in sources.read(source, redact=redact, roots=roots):
                if isinstance(item, Document):
                    yield item
                else:
                    skipped.append(item)

    with progress_bar("reading") as moved:
        report = store.ingest(documents(), prune=prune, progress=moved)
    return report, skipped


@contextmanager
def progress_bar(what: str) -> Iterator[Any]:
    """A function of done and total that moves a bar, on a terminal only."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    options = {"console": errors, "transient": True, "disable": not errors.is_terminal}
    with Progress(*columns, TimeElapsedColumn(), **options) as bar:
        task = bar.add_task(what, total=None)

        def moved(done: int, total: int) -> None:
            bar.update(task, description="passages", completed=done, total=total)

        yield moved


def follow(pieces: Iterator[str | Answer]) -> Answer:
    """Show an answer as it is written, on a terminal only; give the whole."""
    shown, text = console.is_terminal, ""
    with Live(console=console, transient=True, auto_refresh=shown) as live:
        live.update(Spinner("dots", "reading the documents") if shown else "")
        for piece in pieces:
            if isinstance(piece, Answer):
                return piece
            text += piece
            live.update(Text(text) if shown else "")
    raise RuntimeError("the answer did not end")


def show_answer(answer: Answer) -> None:
    """The text with what is not supported marked, then the sources."""
    text = Text()
    for sentence in answer.sentences:
        text.append(sentence.text, None if sentence.supported else "yellow")
        if not sentence.supported:
            text.append(f" {DOUBT}", "bold yellow")
    console.print(text)
    if answer.citations:
        console.print()
    for citation in answer.citations:
        console.print(Text.assemble((f"[{citation.number}] ", "bold"), place(citation)))
        console.print(f"    “{' '.join(citation.quote.split())}”")
    if not all(sentence.supported for sentence in answer.sentences):
        console.print(f"{DOUBT} not found in the documents", style="yellow")
    if answer.flagged:
        names = ", ".join(answer.flagged)
        console.print(f"text that reads like instructions, not followed: {names}", style="yellow")
    if answer.note:
        console.print(f"({answer.note})", style="dim")


def place(citation: Citation) -> str:
    """Where a quote stands: path:start-end, and the page where there are pages."""
    page = f" (page {citation.page})" if citation.page else ""
    return f"{citation.document}:{citation.start}-{citation.end}{page}"


def show_results(results: Results, *, explain: bool) -> None:
    """What a search found; with `explain`, every stage's scores and milliseconds."""
    for number, hit in enumerate(results.hits, 1):
        head = Text.assemble((f"{number}. ", "bold"), f"{hit.chunk.id}  {hit.score:.3f}")
        console.print(head)
        if hit.chunk.heading:
            console.print(f"   {hit.chunk.heading}", style="bold")
        text = " ".join(hit.chunk.text.split())
        console.print(f"   {text[:240]}{' …' if len(text) > 240 else ''}")
    if not results.hits:
        console.print("no passage matches")
    if explain:
        names = list(dict.fromkeys(name for hit in results.hits for name in hit.stages))
        rows = [
            [str(n), hit.chunk.id, *(_score(hit.stages.get(name)) for name in names)]
            for n, hit in enumerate(results.hits, 1)
        ]
        show_table(["", "passage", *names], rows)
        show_stages(results.stages)


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def show_stages(stages: Sequence[Stage]) -> None:
    """The steps of a search."""
    rows = [[s.name, f"{s.milliseconds:.1f}", str(s.n), s.note] for s in stages]
    show_table(["stage", "ms", "passages", "note"], rows)


def show_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table without a frame, as wide as it must be, also where nothing says how wide that is."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for row in (heads, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        console.print("  ".join(cells).rstrip())


def show_report(report: "Report", skipped: Sequence[Skipped]) -> None:
    """What an ingest changed; of the files that could not be read, each with its reason."""
    facts = report._asdict()
    console.print(", ".join(f"{facts[name]:,} {name}" for name in facts))
    for item in skipped:
        console.print(f"skipped {item.source}: {item.reason}", style="yellow")


def questions(prompt: str) -> Iterator[str]:
    """Lines of the standard input that are not empty, asked for on a terminal."""
    asking = sys.stdin is not None and sys.stdin.isatty()
    if asking:
        import readline  # noqa: F401  (arrow keys and history for `input`)
    while True:
        try:
            said = input(prompt) if asking else next(sys.stdin).removesuffix("\n")
        except (EOFError, StopIteration):
            return
        if said.strip():
            yield said.strip()


def asked(question: str | None) -> str:
    """The question that was given, or what was piped here."""
    if question in (None, "-"):
        piped = sys.stdin is not None and not sys.stdin.isatty()
        question = sys.stdin.read() if piped else ""
    if not question.strip():
        raise UserError("question must not be empty: give it in quotes, or pipe it")
    return question.strip()
