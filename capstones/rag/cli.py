"""`rag`: questions to your own documents, answered with citations that were verified.

Where no store is named, it is Python's manual, which is read on first use.

Exit status: 0 all went well, 1 it failed, 2 a mistake in the command,
3 a torn, altered or missing store, or such a run or artifact as model,
130 (Ctrl-C) or 143 (SIGTERM) interrupted, 141 nobody reads what is printed.
"""

import os
from pathlib import Path
from typing import Annotated, Literal

import cyclopts
from cyclopts import Parameter

from rag import judging, upkeep
from rag.options import Answering, Finding, Json
from rag.terminal import (
    DEFAULT,
    asked,
    console,
    errors,
    open_store,
    put,
    questions,
    read_into,
    show_answer,
    show_report,
    show_results,
)
from rag.types import Results
from shared import study
from shared.errors import UserError
from shared.study import PositiveInt, whole

Port = Annotated[int, whole(1, 65535)]

options = {"help_format": "plaintext", "version_flags": [], "result_action": "return_value"}
app = cyclopts.App(name="rag", help=__doc__, **options)
sessions = cyclopts.App(name="sessions", help="List, export and forget conversations.", **options)
app.command(sessions)
sessions.command(upkeep.list_sessions, name="list")
sessions.command(upkeep.export_session, name="export")
sessions.command(upkeep.forget_sessions, name="forget")
app.command(judging.evaluate, name="eval")
for command in (judging.bench, upkeep.doctor, upkeep.stats, upkeep.compact, upkeep.export):
    app.command(command)


def main(argv: list[str] | None = None) -> int:
    """Run a command line; return its exit status."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    study.silence_libraries()
    return study.call(app, argv, lost="")


# ---- the commands


@app.command
def ingest(
    *sources: str,
    store: Path,
    splitter: Literal["recursive", "markdown", "code", "sentence"] | None = None,
    chunk_size: PositiveInt | None = None,
    chunk_overlap: Annotated[int | None, whole(0)] = None,
    embedder: str | None = None,
    index: str | None = None,
    prune: bool = False,
    redact: bool = False,
    root: tuple[Path, ...] = (),
    json_: Json = False,
) -> None:
    """Read documents into a store; what has not changed is skipped.

    A store that is not there is made, with the options from --splitter to --index; they hold for
    as long as it lasts.

    Parameters
    ----------
    sources
        Files, folders, patterns such as "docs/**/*.md", pydocs, or the name of a data set.
    store
        The store's folder.
    splitter
        Where documents are cut: recursive (paragraphs, then sentences), markdown, code, sentence.
    chunk_size
        Characters of a passage at most.
    chunk_overlap
        Characters that it shares with the next one.
    embedder
        minilm, lsa, or a folder of sentence-transformers.
    index
        FAISS's kind of index; auto chooses by size.
    prune
        Delete documents that are no longer among the sources.
    redact
        Replace secrets and personal data before anything is stored.
    root
        Refuse files that lie outside this folder, links too.
    json_
        Print one JSON object.
    """
    from rag.embeddings.embedder import open_embedder
    from rag.store.opening import is_made
    from rag.store.store import Store

    if not sources:
        raise UserError("sources must name at least one file, folder or data set")
    made = {"splitter": splitter, "size": chunk_size, "overlap": chunk_overlap, "index": index}
    if chunk_size and chunk_overlap is None:
        made["overlap"] = min(120, chunk_size // 6)
    made = {name: value for name, value in made.items() if value is not None}
    opened = (
        Store.create(store, embedder=open_embedder(embedder or "minilm"), **made)
        if made or embedder or not is_made(store)  # one without a document is made anew
        else Store.open(store)
    )
    with opened:
        report, skipped = read_into(opened, sources, prune=prune, redact=redact, roots=root or None)
    if json_:
        put({**report._asdict(), "skipped": [item._asdict() for item in skipped]})
    else:
        show_report(report, skipped)


@app.command
def search(
    query: str,
    *,
    store: Path = DEFAULT,
    k: Annotated[PositiveInt, Parameter(alias="-k")] = 5,
    finding: Finding | None = None,
    explain: bool = False,
    json_: Json = False,
) -> None:
    """Find passages.

    Parameters
    ----------
    query
        Words or a question.
    store
        The store's folder.
    k
        How many passages.
    explain
        Also show every stage's scores and milliseconds.
    json_
        Print one JSON object.
    """
    finding = finding or Finding()
    with open_store(store) as opened:
        results = finding.retriever(opened).search(query, k=k, where=finding.filter)
    put(results) if json_ else show_results(results, explain=explain)


@app.command
def ask(
    question: str | None = None,
    *,
    store: Path = DEFAULT,
    session: str | None = None,
    answering: Answering | None = None,
    explain: bool = False,
    json_: Json = False,
) -> None:
    """Answer one question.

    Parameters
    ----------
    question
        In quotes; what is piped here if not given.
    store
        The store's folder.
    session
        A conversation to go on with; it is begun if there is none of that name.
    explain
        Also show how the passages were found.
    json_
        Print one JSON object.
    """
    from rag.conversation.talking import sessions_of

    answering, question = answering or Answering(), asked(question)
    with open_store(store) as opened:
        kept = sessions_of(opened)
        name = session and kept.create(session)
        answer = answering.answer(answering.answerer(opened), question, kept, name, quiet=json_)
    if json_:
        put(answer)
        return
    show_answer(answer)
    if explain:
        show_results(Results(answer.query, answer.hits, answer.stages), explain=True)


@app.command
def chat(
    *,
    store: Path = DEFAULT,
    session: str | None = None,
    answering: Answering | None = None,
    json_: Json = False,
) -> None:
    """Answer questions, each in the light of those before.

    Questions may be piped, one per line. On a terminal, /new begins another conversation and
    Ctrl-D ends.

    Parameters
    ----------
    store
        The store's folder.
    session
        A conversation to go on with; a new one if not given.
    json_
        Print one JSON object per answer.
    """
    from rag.conversation.talking import sessions_of

    answering = answering or Answering()
    with open_store(store) as opened:
        kept, answerer = sessions_of(opened), answering.answerer(opened)
        name = kept.create(session)
        if console.is_terminal and not json_:
            about = f"{len(opened.documents()):,} documents, answers by {answerer.model.name}"
            console.print(f"{about}, session {name}; /new begins another, Ctrl-D ends")
        for question in questions("> "):
            if question == "/new":
                name = kept.create()
                continue
            answer = answering.answer(answerer, question, kept, name, quiet=json_)
            if json_:
                put(answer)
            else:
                show_answer(answer)
                console.print()


@app.command
def serve(
    *,
    store: Path = DEFAULT,
    answering: Answering | None = None,
    host: str = "127.0.0.1",
    port: Port = 8000,
) -> None:
    """Serve a page to ask, search and upload, and the JSON interface under it.

    Parameters
    ----------
    store
        The store's folder.
    host
        The address to listen on. Whoever can reach another than the loopback can read, change and
        delete everything in the store: there are no passwords.
    port
        The port to listen on.
    """
    import uvicorn

    from rag.answering.models import open_model
    from rag.web.guard import LOOPBACK
    from rag.web.server import create_app

    answering = answering or Answering()
    open_store(store).close()
    hosts = LOOPBACK | {host.lower()}
    if host not in LOOPBACK:
        warning = f"warning: whoever reaches {host}:{port} can read, change and delete this store"
        errors.print(warning)
    web = create_app(
        store,
        model=open_model(answering.llm),
        settings=answering.settings(),
        answering=answering.answers(),
        hosts=hosts,
    )
    console.print(f"http://{f'[{host}]' if ':' in host else host}:{port} (Ctrl-C ends)")
    uvicorn.run(web, host=host, port=port, log_level="warning", timeout_graceful_shutdown=3)
