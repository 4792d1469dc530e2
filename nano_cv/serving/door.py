"""The front door: one address for people (a page), programs (REST) and watchers (health, metrics).

It decodes pictures by the function that training uses, asks the backend, and answers with names and
units. Errors are problem documents (RFC 9457) that say what to do.
"""

import asyncio
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import numpy as np
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from nano_cv.data import images
from nano_cv.data.imagined import Imagined
from nano_cv.errors import listing, nearest, one_line
from nano_cv.evaluation.reports.detection import CONFIDENT
from nano_cv.serving import answers, metrics
from nano_cv.serving.backend import Backend, Model
from nano_cv.serving.connection import CrowdedError, LostError, RefusedError
from nano_cv.serving.multipart import split_parts

log = logging.getLogger(__name__)
PAGE = Path(__file__).parent / "page"
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
HELD = 8  # bodies of the largest size that may be in memory at once
MOST = 64  # pictures in one request
KNOWN_KINDS = ("image/", "application/octet-stream", "multipart/form-data", "application/json")
# Nothing but our own files: what the page shows of a user's file or class cannot become a program.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
LOCKED = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
BINARY = {"schema": {"type": "string", "format": "binary"}}
FILES = {"type": "array", "items": {"type": "string", "format": "binary"}}
BODY = {
    "requestBody": {
        "description": "The bytes of a picture, or several as a form; of a generator nothing.",
        "content": {
            "image/*": BINARY,
            "multipart/form-data": {"schema": {"type": "object", "properties": {"file": FILES}}},
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "class": {"type": "string"},
                        "seed": {"type": "integer"},
                        "count": {"type": "integer"},
                    },
                }
            },
        },
    },
    "responses": {
        "200": {"description": "What the model says.", "content": {"image/png": BINARY}},
        **{
            status: {"description": text, "content": {"application/problem+json": {}}}
            for status, text in {
                "404": "No such model.",
                "408": "The body did not arrive in time.",
                "413": "Too many bytes.",
                "415": "A body of another kind.",
                "422": "Not a picture that can be read, or a value that is not allowed.",
                "503": "The model is being started, or overloaded; try again.",
                "504": "No answer in time.",
            }.items()
        },
    },
}


@dataclass(frozen=True)
class Limits:
    """What one request may cost; the keys of `configs/serve.yaml` have the same names."""

    max_request_bytes: int
    max_picture_pixels: int
    receive_seconds: float
    answer_seconds: float


class Problem(Exception):  # noqa: N818  # RFC 9457 calls it so
    """An error that the client is told of as a problem document."""

    def __init__(self, status: int, title: str, detail: str, retry: bool = False) -> None:
        super().__init__(detail)
        self.status, self.title, self.detail, self.retry = status, title, detail, retry

    def response(self) -> JSONResponse:
        """The document of RFC 9457."""
        content = {"title": self.title, "status": self.status, "detail": self.detail}
        headers = {"Retry-After": "1"} if self.retry else {}
        return JSONResponse(content, self.status, headers, media_type="application/problem+json")


class Door:
    """Answers HTTP requests by asking a backend.

    Args:
        backend: has the models.
        limits: of a request.
        hosts: names under which this server may be asked; None for any.
    """

    def __init__(self, backend: Backend, limits: Limits, hosts: tuple[str, ...] | None) -> None:
        self.backend, self.limits = backend, limits
        self.held = 0  # bytes of bodies that are in memory
        self.answered: Counter[tuple[str, int]] = Counter()  # by model and status
        self.threads = ThreadPoolExecutor(os.cpu_count() or 1, "decode")
        app = FastAPI(
            title="nano-cv",
            summary="Ask computer-vision models about pictures.",
            version="1",
            docs_url=None,  # FastAPI's own page fetches programs from elsewhere
            redoc_url=None,
        )
        app.get("/models", summary="All models")(self.list_models)
        app.get("/models/{name}", summary="What a model promises")(self.show_model)
        app.post(
            "/models/{name}/predict",
            summary="Ask a model about pictures, or for pictures",
            openapi_extra=BODY,
        )(self.predict)
        app.get("/health", summary="200 if every model answers, else 503")(self.health)
        app.get("/live", summary="200 as long as this server runs")(self.live)
        app.get("/metrics", summary="Figures for Prometheus")(self.figures)
        app.get("/docs", include_in_schema=False)(self.docs)
        app.get("/", include_in_schema=False)(self.page)
        app.get("/page/{file}", include_in_schema=False)(self.page)
        app.exception_handler(HTTPException)(_http_problem)
        app.exception_handler(RequestValidationError)(_value_problem)
        app.exception_handler(Problem)(_told)
        app.exception_handler(Exception)(_unexpected)
        app.add_middleware(Guard, hosts=hosts)
        self.app = app

    # The page and the documentation

    async def page(self, file: str = "index.html") -> Response:
        """A file of the page."""
        path = PAGE / file
        if path.suffix not in KINDS or path.parent != PAGE or not path.is_file():
            raise HTTPException(404)
        return FileResponse(path, media_type=KINDS[path.suffix])

    async def docs(self, request: Request) -> HTMLResponse:
        """The calls as a plain page; /openapi.json is the same for programs."""
        rows = "".join(
            f"<tr><td>{method.upper()}</td><td><code>{path}</code></td><td>{one['summary']}</td></tr>"
            for path, methods in self.app.openapi()["paths"].items()
            for method, one in methods.items()
        )
        text = (PAGE / "docs.html").read_text()
        address = str(request.base_url).rstrip("/")
        return HTMLResponse(text.replace("{{rows}}", rows).replace("{{address}}", address))

    # The models

    async def list_models(self) -> list[dict[str, Any]]:
        """Every model that takes requests, ready or not."""
        models = sorted(self.backend.models.items())
        return [_summary(model) for _, model in models if model.takes_requests]

    async def show_model(self, name: str) -> dict[str, Any]:
        """Classes, size of the input, where it comes from, and how well it did."""
        model = self._model(name)
        assert model.metadata is not None
        promised = model.metadata
        return _summary(model) | {
            "classes": promised.classes,
            "versions": model.versions,
            "image_size": promised.image_size,
            "fit": promised.fit,
            "trained_on": promised.data,
            "metrics": promised.metrics,
            "data_hash": promised.data_hash,
            "git_commit": promised.git_commit,
            "run_id": promised.run_id,
        }

    def _model(self, name: str) -> Model:
        able = [one.name for one in self.backend.models.values() if one.takes_requests]
        if name not in able:
            there = f"There are: {listing(sorted(able)) or 'none'}"
            raise Problem(404, "No such model", f"no model '{name}'{nearest(name, able)} {there}")
        return self.backend.models[name]

    # Predictions

    async def predict(
        self,
        request: Request,
        name: str,
        score: Annotated[
            float, Query(ge=0, le=1, description="From which on a box is told of.")
        ] = CONFIDENT,
        top: Annotated[
            int | None, Query(ge=1, description="How many of the likeliest classes; all if none.")
        ] = None,
        wanted: Annotated[
            str | None, Query(alias="class", description="Of a generator: which class.")
        ] = None,
        seed: Annotated[int, Query(ge=0, lt=2**32, description="Of a generator.")] = 0,
        count: Annotated[int, Query(ge=1, le=MOST, description="Of a generator.")] = 1,
    ) -> Response:
        """The answer for one picture, or `{"answers": [...]}` for several of them."""
        status = 500
        try:
            model = self._model(name)
            assert model.metadata is not None
            async with self._held_body(request) as body, self._in_time():
                start = time.perf_counter()
                if model.metadata.task == "generation":
                    asked = {"class": wanted, "seed": seed, "count": count} | _json(request, body)
                    response = await self._generate(request, model, asked)
                else:
                    parts = _pictures(request, body)
                    response = await self._answer(request, model, parts, score, top)
                milliseconds = 1000 * (time.perf_counter() - start)
            response.headers["Server-Timing"] = f"total;dur={milliseconds:.1f}"
            status = 200
            return response
        except Problem as problem:
            status = problem.status
            raise
        finally:
            self.answered[name if name in self.backend.models else "", status] += 1

    def _held_body(self, request: Request) -> "_Body":
        return _Body(self, request)

    def _in_time(self) -> "_InTime":
        return _InTime(self.limits.answer_seconds)

    async def _answer(
        self,
        request: Request,
        model: Model,
        pictures: list[tuple[str, bytes]],
        score: float,
        top: int | None,
    ) -> Response:
        assert model.metadata is not None
        promised = model.metadata
        if _wants_png(request):
            if len(pictures) > 1:
                raise Problem(422, "Several pictures", "Accept: image/png is for one picture")
            _, picture = pictures[0]
            outputs, size = await self._ask(model, picture)
            drawn = partial(answers.picture_of, promised, outputs, picture, size, score)
            return Response(await self._in_thread(drawn), media_type="image/png")

        async def one(picture: bytes) -> dict[str, Any]:
            outputs, size = await self._ask(model, picture)
            told = partial(answers.describe, promised, outputs, size, score, top)
            return await self._in_thread(told)

        if len(pictures) == 1:
            return JSONResponse(await one(pictures[0][1]))
        found: list[dict[str, Any]] = []
        results = await asyncio.gather(*(one(part) for _, part in pictures), return_exceptions=True)
        for (file, _), result in zip(pictures, results, strict=True):
            if isinstance(result, Problem) and result.status == 422:  # it fails alone
                found.append({"file": file, "error": result.detail})
            elif isinstance(result, BaseException):
                raise result
            else:
                found.append({"file": file} | result)
        return JSONResponse({"answers": found})

    async def _ask(self, model: Model, picture: bytes) -> tuple[answers.Outputs, answers.Size]:
        """The outputs of the model for one picture, and the size of the picture."""
        assert model.metadata is not None
        promised = model.metadata

        def decode() -> tuple[Any, answers.Size]:
            most = self.limits.max_picture_pixels
            square = images.load(picture, promised.image_size, max_pixels=most, fit=promised.fit)
            plain = promised.task == "classification"  # has nothing to say of places
            size = (0, 0) if plain else images.dimensions(picture)
            return square.transpose(2, 0, 1)[None], size

        try:
            pixels, size = await self._in_thread(decode)
        except images.ImageError as error:
            raise Problem(422, "Not a usable picture", str(error)) from error
        outputs = await self._infer(model, {"IMAGES": pixels})
        return {name: array[0] for name, array in outputs.items()}, size

    async def _generate(self, request: Request, model: Model, asked: Mapping[str, Any]) -> Response:
        assert model.metadata is not None
        classes, label = model.metadata.classes, asked["class"]
        if label is None:
            label = classes[0]
        if label not in classes:
            close = nearest(str(label), classes)
            raise Problem(
                422, "No such class", f"class={label}{close} There are: {listing(classes)}"
            )
        for key, most in (("seed", 2**32 - 1), ("count", MOST)):
            if type(asked[key]) is not int or not 0 <= asked[key] - (key == "count") < most:
                raise Problem(422, "Not allowed", f"{key}={asked[key]}: a number up to {most}")
        seed, count = asked["seed"], asked["count"]
        wanted = Imagined([classes.index(label)] * count, classes, model.metadata.image_size, seed)
        parts = [
            wanted.inputs(range(start, min(start + model.batch, count)))
            for start in range(0, count, model.batch)
        ]
        outputs = await asyncio.gather(*(self._infer(model, part) for part in parts))
        made = np.concatenate([one["IMAGES"] for one in outputs])
        if _wants_png(request):
            if count > 1:
                raise Problem(422, "Several pictures", "Accept: image/png is for count=1")
            return Response(answers.made({"IMAGES": made[0]}), media_type="image/png")
        pictures = [answers.encoded(answers.made({"IMAGES": one})) for one in made]
        return JSONResponse({"class": label, "seed": seed, "pictures_png": pictures})

    async def _infer(self, model: Model, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        if model.state == "refused":
            raise Problem(503, "Not served", f"{model.name}: {model.reason}", retry=True)
        try:
            return await self.backend.infer(model.name, inputs)
        except CrowdedError as error:
            raise Problem(503, "Overloaded", f"{model.name}: {error}", retry=True) from error
        except LostError as error:
            raise Problem(503, "Being started", f"{model.name}: {error}", retry=True) from error
        except RefusedError as error:
            raise Problem(500, "The model failed", f"{model.name}: {error}") from error

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.threads, work)

    # For watchers

    async def health(self) -> JSONResponse:
        """Every model, and 200 only if there is one and all of them answer."""
        good, content = self.backend.health()
        return JSONResponse(content, 200 if good else 503)

    async def live(self) -> PlainTextResponse:
        """That somebody is here."""
        return PlainTextResponse("live\n")

    async def figures(self) -> Response:
        """Triton's counters, which models answer, and our own answers by status."""
        ours = [(name, status, n) for (name, status), n in sorted(self.answered.items())]
        return Response(await metrics.render(self.backend, ours), media_type=metrics.TEXT)


class Guard:
    """Refuses what another site's page may have sent, and locks our own page down.

    Args:
        app: what is guarded.
        hosts: names under which this server may be asked; None for any.
    """

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...] | None) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        headers = Headers(scope=scope)
        refused = None
        if self.hosts and urlsplit(f"//{headers.get('host', '')}").hostname not in self.hosts:
            # A name on the net may be made to lead here, so that its pages could read answers.
            refused = Problem(421, "Unknown host", f"this server is {listing(self.hosts)}")
        elif headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            refused = Problem(403, "Another site", "pages of other sites may not use this server")
        if refused:
            await refused.response()(scope, receive, send)
            return

        async def locked(message: Any) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(LOCKED)
            await send(message)

        await self.app(scope, receive, locked)


class _Body:
    """The body of a request, read within its limits; its bytes are counted until it is done."""

    def __init__(self, door: Door, request: Request) -> None:
        self.door, self.request, self.reserved = door, request, 0

    async def __aenter__(self) -> bytes:
        most = self.door.limits.max_request_bytes
        stated = self.request.headers.get("content-length", "")
        self.reserved = int(stated) if stated.isdecimal() else most
        too_large = Problem(413, "Too large", f"at most {most:,} bytes are taken")
        if self.reserved > most:
            self.reserved = 0
            raise too_large
        if self.door.held + self.reserved > HELD * most:
            self.reserved = 0
            raise Problem(503, "Overloaded", "too many large requests at once", retry=True)
        self.door.held += self.reserved
        body = bytearray()
        try:
            async with asyncio.timeout(self.door.limits.receive_seconds):
                async for chunk in self.request.stream():
                    body += chunk
                    if len(body) > most:
                        raise too_large
        except TimeoutError:
            self._release()
            raise Problem(408, "Too slow", "the body did not arrive in time") from None
        except BaseException:
            self._release()
            raise
        return bytes(body)

    async def __aexit__(self, *_: object) -> None:
        self._release()

    def _release(self) -> None:
        self.door.held -= self.reserved
        self.reserved = 0


class _InTime:
    """A time limit that becomes a problem."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.limit = asyncio.timeout(seconds)

    async def __aenter__(self) -> None:
        await self.limit.__aenter__()

    async def __aexit__(self, *how: Any) -> None:
        try:
            await self.limit.__aexit__(*how)
        except TimeoutError:
            raise _late(self.seconds) from None
        if how[0] is TimeoutError:  # of gRPC
            raise _late(self.seconds)


def _late(seconds: float) -> Problem:
    return Problem(504, "Too slow", f"no answer in {seconds:g} s; it is overloaded, or it hangs")


def _summary(model: Model) -> dict[str, Any]:
    assert model.metadata is not None
    return {
        "name": model.name,
        "task": model.metadata.task,
        "state": model.state,
        "reason": model.reason,
        "predict": f"/models/{model.name}/predict",
    }


def _wants_png(request: Request) -> bool:
    """Whether a PNG is asked for by name: browsers and curl accept anything."""
    return "image/png" in request.headers.get("accept", "")


def _pictures(request: Request, body: bytes) -> list[tuple[str, bytes]]:
    """The name and the bytes of each picture in the body."""
    kind = request.headers.get("content-type", "application/octet-stream")
    if not kind.lower().startswith((*KNOWN_KINDS[:3], "application/x-www-form-urlencoded")):
        raise Problem(
            415,
            "Another kind of body",
            f"Content-Type: {kind}; send the bytes of a picture as image/jpeg or the like, or "
            "several pictures as multipart/form-data",
        )
    if not body:
        raise Problem(422, "No picture", "the body is empty; curl sends one by --data-binary @FILE")
    if not kind.lower().startswith("multipart/"):  # curl calls any body a form
        return [("picture", body)]
    try:
        parts = [part for part in split_parts(kind, body) if part[1]]
    except ValueError as error:
        raise Problem(422, "Not a form", str(error)) from error
    if not 1 <= len(parts) <= MOST:
        raise Problem(422, "Not a form", f"1 to {MOST} pictures are taken, not {len(parts)}")
    return parts


def _json(request: Request, body: bytes) -> dict[str, Any]:
    """The settings of a generator in the body, if there is one."""
    if not body:
        return {}
    if len(body) > 2**16:
        raise Problem(413, "Too large", "class, seed and count do not take so many bytes")
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Problem(422, "Not JSON", f"the body: {one_line(error)}") from error
    if not isinstance(found, dict) or found.keys() - {"class", "seed", "count"}:
        raise Problem(422, "Not allowed", 'a generator takes {"class": ..., "seed": ...}')
    return found


async def _told(request: Request, problem: Any) -> JSONResponse:
    return problem.response()


async def _http_problem(request: Request, error: Any) -> JSONResponse:
    titles = {404: "/docs lists what there is", 405: "another method is needed; see /docs"}
    detail = titles.get(error.status_code, str(error.detail))
    return Problem(error.status_code, str(error.detail), detail).response()


async def _value_problem(request: Request, error: Any) -> JSONResponse:
    said = [f"{one['loc'][-1]}={one.get('input')}: {one['msg']}" for one in error.errors()]
    return Problem(422, "Not allowed", listing(said, separator="; ")).response()


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    log.error("%s %s", request.method, request.url.path, exc_info=error)
    return Problem(500, "A mistake of this server", "its log says more").response()
