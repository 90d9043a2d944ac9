"""The JSON interface: ask, search, sessions, documents, upload.

An answer is streamed as lines of JSON, `{"piece": "…"}` as the text is written and last
`{"answer": {…}}` with its verified citations, or `{"error": "…"}`.
"""

import json
import threading
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, File, HTTPException, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.background import BackgroundTask
from starlette.datastructures import UploadFile

from rag.web import uploads
from rag.web.library import Library
from rag.web.writing import line, written
from shared.artifacts import ArtifactError
from shared.errors import UserError

Words = Annotated[str, Field(min_length=1, max_length=4000, pattern=r"\S")]
Where = Annotated[str | None, Field(max_length=1000)]
# Their type is Starlette's UploadFile, and FastAPI can describe only its own.
Files = Annotated[
    list[Any], File(json_schema_extra={"items": {"type": "string", "format": "binary"}})
]


class Question(BaseModel):
    """What to answer; with a session, in the light of what was said, and kept there."""

    model_config = ConfigDict(extra="forbid")
    question: Words
    session: str | None = None
    where: Where = None
    stream: bool = True


class Title(BaseModel):
    """What a new session is called; a number is added if the name is taken."""

    model_config = ConfigDict(extra="forbid")
    title: Words


def library(request: Request) -> Library:
    """What the application answers from."""
    return request.app.state.library


Here = Annotated[Library, Depends(library)]
api = APIRouter(prefix="/api")


@api.post("/ask")
async def ask(asked: Question, here: Here) -> Response:
    """Answer a question, in lines of JSON as the answer is written, or as one object."""
    if asked.session is not None:
        known(asked.session, here)
    with here.reading() as store:
        store.select(asked.where)  # a mistake in it is told before the answer begins
    if not here.places.acquire(blocking=False):
        detail = "other answers are being written; ask again in a moment"
        raise HTTPException(429, detail, {"Retry-After": "5"})
    write = partial(here.answer, asked.question, session=asked.session, where=asked.where)
    stop = threading.Event()
    lines = written(write, stop, here.places.release, here.limits.seconds)
    if asked.stream:  # the task runs when all is sent, or the reader has left
        kind, over = "application/x-ndjson", BackgroundTask(stop.set)
        return StreamingResponse(lines, media_type=kind, background=over)
    *_, last = [json.loads(said) async for said in lines]
    if "error" in last:
        raise HTTPException(503, last["error"])
    return JSONResponse(last["answer"])


@api.get("/search")
def search(
    here: Here,
    q: Annotated[str, Query(min_length=1, max_length=4000)],
    k: Annotated[int, Query(ge=1, le=50)] = 5,
    where: Where = None,
    mode: Literal["bm25", "dense", "hybrid"] | None = None,
    rerank: Literal["none", "mmr", "late"] | None = None,
) -> Response:
    """Find passages, with the score of each stage and its milliseconds."""
    chosen = {"mode": mode, "rerank": rerank}
    changes = {name: value for name, value in chosen.items() if value is not None}
    with here.reading() as store:
        results = here.retriever(store, **changes).search(q, k=k, where=where or None)
    return Response(line(asdict(results)), media_type="application/json")


@api.get("/sessions")
def list_sessions(here: Here) -> list[dict[str, Any]]:
    """The conversations that are kept, the latest first."""
    return [info._asdict() for info in here.sessions.names()]


@api.post("/sessions", status_code=201)
def new_session(title: Title, here: Here) -> dict[str, str]:
    """Begin a conversation."""
    return {"name": here.new_session(title.title)}


@api.get("/sessions/{name:path}")
def session(name: str, here: Here, download: bool = False) -> Response:
    """The answers of a conversation; or all of it, as a file to keep."""
    known(name, here)
    if not download:
        return JSONResponse(here.sessions.answers(name))
    text = json.dumps(here.sessions.export(name), ensure_ascii=False, indent=1)
    headers = {"Content-Disposition": 'attachment; filename="conversation.json"'}
    return Response(text, media_type="application/json", headers=headers)


@api.delete("/sessions/{name:path}", status_code=204)
def forget(name: str, here: Here) -> None:
    """Delete a conversation for good."""
    known(name, here)
    here.sessions.forget(name)


def known(name: str, here: Library) -> None:
    """Refuse a session that is not there."""
    if name not in {info.name for info in here.sessions.names()}:
        raise HTTPException(404, f"there is no session {name!r}")


@api.get("/documents")
def list_documents(here: Here) -> list[dict[str, Any]]:
    """What the store holds."""
    with here.reading() as store:
        return [info._asdict() for info in store.documents()]


@api.get("/documents/{id:path}")
def document(
    id: str,
    here: Here,
    start: Annotated[int, Query(ge=0)] = 0,
    end: Annotated[int, Query(ge=0)] = 0,
    around: Annotated[int, Query(ge=0)] = 20_000,
) -> dict[str, Any]:
    """The text of a document in three parts: before a span, the span, and after it.

    The cuts are made here, since a browser counts characters in another way (😀 is two).
    """
    with here.reading() as store:
        try:
            found = store.document(id)
        except ArtifactError:
            raise
        except UserError as error:
            raise HTTPException(404, f"there is no document {id!r}") from error
    if not start <= end <= len(found.text):
        raise HTTPException(
            400, f"start and end must be in 0..{len(found.text)}, got {start} and {end}"
        )
    first, last = max(0, start - around), end + around
    return {
        "id": found.id,
        "title": found.title,
        "chars": len(found.text),
        "before": found.text[first:start],
        "span": found.text[start:end],
        "after": found.text[end:last],
        "clipped": first > 0 or last < len(found.text),
        "metadata": dict(found.metadata),
    }


@api.delete("/documents/{id:path}", status_code=204)
def delete(id: str, here: Here) -> None:
    """Take a document out of the store."""
    with here.changing() as store:
        if not store.delete([id]):
            raise HTTPException(404, f"there is no document {id!r}")


@api.post("/upload")
def upload(files: Files, here: Here) -> dict[str, Any]:
    """Read files into the store; which of them could not be read, and why, is said."""
    if len(files) > here.limits.files:
        raise HTTPException(413, f"files must be at most {here.limits.files}, got {len(files)}")
    if not all(isinstance(file, UploadFile) for file in files):
        raise HTTPException(422, "files: every part must be a file with a name")
    documents, skipped = uploads.read((file.filename or "", file.file) for file in files)
    with here.changing() as store:
        report = store.ingest(documents)
    return {**report._asdict(), "skipped": [item._asdict() for item in skipped]}


@api.get("/health")
def health(here: Here) -> dict[str, Any]:
    """What is served, in numbers."""
    return here.facts()
