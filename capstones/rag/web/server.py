"""The web server: a page to chat with one's documents, and the JSON interface under it.

`create_app` gives a FastAPI application; `rag serve` runs it on the loopback. What the interface
takes and gives is described at /openapi.json.
"""

from collections.abc import Set
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles

from rag.answering.answerer import AnswerSettings
from rag.answering.models import Model
from rag.retrieval.settings import RetrievalSettings
from rag.web.guard import LOOPBACK, Guard, Limits
from rag.web.library import Library
from rag.web.routes import api
from shared.errors import UserError

STATIC = Path(__file__).parent / "static"


def create_app(
    folder: Path,
    *,
    model: Model,
    settings: RetrievalSettings | None = None,
    answering: AnswerSettings | None = None,
    limits: Limits | None = None,
    hosts: Set[str] = LOOPBACK,
) -> FastAPI:
    """The application over one store.

    Parameters
    ----------
    folder
        The store.
    model
        What writes the answers.
    settings, answering
        How to search, and how to answer.
    limits
        What a request may cost.
    hosts
        Names and addresses by which a request may call this machine.
    """
    limits = limits or Limits()
    library = Library(
        folder, model, settings or RetrievalSettings(), answering or AnswerSettings(), limits
    )

    @asynccontextmanager
    async def closing(app: FastAPI):
        yield
        library.close()

    # The usual pages under /docs load scripts from elsewhere, which is not done here.
    app = FastAPI(title="rag", docs_url=None, redoc_url=None, lifespan=closing)
    app.state.library = library
    app.add_middleware(Guard, hosts=hosts, limits=limits)
    app.include_router(api)
    app.mount("/static", StaticFiles(directory=STATIC))
    app.get("/", include_in_schema=False)(lambda: FileResponse(STATIC / "page.html"))
    app.exception_handler(UserError)(_mistake)
    app.exception_handler(ValueError)(_mistake)
    app.exception_handler(RequestValidationError)(_malformed)
    app.exception_handler(Exception)(_failure)
    return app


def _mistake(request: Request, error: Exception) -> JSONResponse:
    torn = getattr(error, "status", 2) == 3
    return JSONResponse({"detail": " ".join(str(error).split())}, 500 if torn else 400)


def _malformed(request: Request, error: RequestValidationError) -> JSONResponse:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"][1:])) or "body"
    return JSONResponse({"detail": f"{where}: {first['msg']}"}, 422)


def _failure(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": f"the server failed ({type(error).__name__})"}, 500)
