"""The application: OpenAI's routes, the server's own, and errors in one shape."""

import asyncio
from collections.abc import Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from serving.api.routes import api
from serving.api.sending import Gone, Json, error_response
from serving.api.service import Service
from serving.errors import ApiError, refused
from serving.guard.guard import Guard, GuardSettings
from serving.web.page import add_page


def create_app(
    service: Service,
    guard: GuardSettings | None = None,
    *,
    loaded: Callable[[], None] = lambda: None,
) -> FastAPI:
    """The application over one model.

    Parameters
    ----------
    service
        Is loaded in the background, once the application runs.
    guard
        Who may ask, and how much.
    loaded
        Is called when that is over, well or not.
    """

    @asynccontextmanager
    async def life(app: FastAPI):
        async def load() -> None:
            await asyncio.to_thread(service.load)
            loaded()

        task = asyncio.create_task(load())
        yield
        await task
        service.close()

    # The usual pages under /docs load scripts from elsewhere, which is not done here.
    app = FastAPI(title="serve", docs_url=None, redoc_url=None, lifespan=life)
    app.state.service = service
    app.include_router(api)
    add_page(app)
    app.add_middleware(Guard, settings=guard or GuardSettings())
    for kind, told in ((RequestValidationError, _malformed), (HTTPException, _http)):
        app.exception_handler(kind)(told)
    app.exception_handler(ApiError)(lambda request, error: error_response(error))
    app.exception_handler(Gone)(lambda request, error: Response(status_code=499))
    app.exception_handler(Exception)(_failure)

    @app.get("/health")
    async def health() -> Response:
        """Whether the process lives and the model has not failed."""
        alive = service.alive
        return Json({"status": "ok" if alive else "failed"}, 200 if alive else 503)

    @app.get("/ready")
    async def ready() -> Response:
        """Whether a request would be answered now."""
        state = "ready" if service.ready else "leaving" if service.leaving else "loading"
        return Json({"status": state}, 200 if service.ready else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        """Numbers for Prometheus."""
        kind = "text/plain; version=0.0.4; charset=utf-8"
        return Response(service.metrics.text(), media_type=kind)

    return app


def _malformed(request: Request, error: RequestValidationError) -> Response:
    first = error.errors()[0]
    # A union says each of its kinds; the place that it names last is inside of one of them.
    parts = [str(part) for part in first["loc"][1:]]
    where = ".".join(part for part in parts if part.isidentifier() and part != "str")
    message = first["msg"].removeprefix("Value error, ")
    param = where[:200] or None
    return error_response(refused(f"{param}: {message}" if param else message, param=param))


def _http(request: Request, error: HTTPException) -> Response:
    return error_response(ApiError(error.status_code, str(error.detail)))


def _failure(request: Request, error: Exception) -> Response:
    return error_response(ApiError(500, f"the server failed ({type(error).__name__})"))
