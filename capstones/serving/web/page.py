"""The page at `/`: a chat, and the server's throughput, queue and latency as they are now.

Its scripts and styles are files of this server and nothing else: no inline code, nobody else's,
and no other page may hold it in a frame; its headers say so to the browser. It knows only what any
client knows, `/v1` and `/metrics`.
"""

from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from rag.web.guard import HEADERS

STATIC = Path(__file__).parent / "static"


class _Bound(StaticFiles):
    def file_response(self, *given, **more) -> Response:
        response = super().file_response(*given, **more)
        response.headers.update(HEADERS)
        return response


def add_page(app: FastAPI) -> None:
    """Put the page and its files into an application."""

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(STATIC / "page.html", headers=HEADERS)

    app.mount("/static", _Bound(directory=STATIC))
