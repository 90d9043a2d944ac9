"""OpenAI's routes: what is asked, checked, answered whole or as a stream."""

import asyncio
import base64
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from serving.api.schema import Chat, Completion, Embedding
from serving.api.sending import EventStream, Json, merged, unless_gone
from serving.api.service import Service
from serving.api.shapes import ChatShape, CompletionShape, Shape
from serving.errors import ApiError, refused
from serving.safety.answers import admit, guarded
from serving.types import Answer, Asked, Piece


def service(request: Request) -> Service:
    """What the application answers with."""
    return request.app.state.service


Here = Annotated[Service, Depends(service)]
api = APIRouter(prefix="/v1")
WAITING = 16  # most requests for vectors at a time


@api.get("/models")
async def models(here: Here) -> dict[str, Any]:
    """What can be asked."""
    return {"object": "list", "data": [here.card(name) for name in here.names]}


@api.get("/models/{name:path}")
async def model(name: str, here: Here) -> dict[str, Any]:
    """One of them."""
    here.known(name)
    return here.card(name)


@api.post("/chat/completions")
async def chat(body: Chat, request: Request, here: Here) -> Response:
    """Go on with a conversation."""
    backend = here.backend(body.model)
    asked = body.asked()
    await admit(asked, backend, here.safety, here.metrics)
    answers = backend.begin(asked)
    shape = ChatShape(here.name, here.model, told=body.logprobs)
    return await _answered(request, here, answers, shape, body)


@api.post("/completions")
async def completions(body: Completion, request: Request, here: Here) -> Response:
    """Go on with a text."""
    backend, echo = here.backend(body.model), None
    asked = body.asked()
    await admit(asked, backend, here.safety, here.metrics)
    if body.echo:
        if here.model is None:
            raise refused("echo is not supported by this model", param="echo")
        backend.begin(Asked(asked.prompt, max_tokens=0))  # what is wrong with it is said first
        echo = await unless_gone(request, backend.prompt(asked.prompt, asked.top))
    answers = backend.begin(asked)
    shape = CompletionShape(here.name, here.model, told=body.logprobs is not None, echo=echo)
    return await _answered(request, here, answers, shape, body)


async def _answered(
    request: Request, here: Service, answers: Sequence[Answer], shape: Shape, body: Any
) -> Response:
    answers = guarded(answers, here.safety, here.metrics)
    request.state.answers = answers
    pieces = merged(answers, here.deadline)
    if body.stream:
        events = shape.chunks(pieces, answers, include_usage=body.include_usage)
        return EventStream(events, answers, here.deadline)

    async def whole() -> Response:
        found: list[list[Piece]] = [[] for _ in answers]
        async for i, piece in pieces:
            found[i].append(piece)
        return Json(shape.whole(found, answers))

    try:
        return await unless_gone(request, whole())
    finally:
        for answer in answers:
            answer.cancel()


@api.post("/embeddings")
async def embeddings(body: Embedding, here: Here) -> Response:
    """Vectors of texts, of length 1, by MiniLM."""
    if body.model not in (None, here.embed.name):
        raise ApiError(
            404,
            f"the model of embeddings is {here.embed.name}",
            code="model_not_found",
            param="model",
        )
    if body.dimensions not in (None, here.embed.dim):
        raise refused(f"dimensions must be {here.embed.dim}", param="dimensions")
    texts = [body.input] if isinstance(body.input, str) else body.input
    if not all(texts):
        raise refused("input must not hold an empty text", param="input")
    here.stays()
    if here.embed.waiting >= WAITING:
        message = f"{WAITING} requests wait for vectors; come again"
        raise ApiError(429, message, code="overloaded", wait=1)
    here.embed.waiting += 1
    try:
        vectors, tokens = await asyncio.to_thread(here.embed, texts)
    finally:
        here.embed.waiting -= 1
    data = [
        {"object": "embedding", "index": i, "embedding": _packed(row, body.encoding_format)}
        for i, row in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return Json({"object": "list", "data": data, "model": here.embed.name, "usage": usage})


def _packed(row: np.ndarray, form: str) -> Any:
    if form == "float":
        return row.tolist()
    return base64.b64encode(row.astype("<f4").tobytes()).decode()
