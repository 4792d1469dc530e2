"""Front door: the HTTP server for people (a page), programs (REST), health checks and metrics.

The door decodes images with the function that training uses, runs the model, and answers with
names and units. If the model is also open in this process, a single thread does all of this. Errors
are problem documents (RFC 9457) that say what to do.
"""

import asyncio
import base64
import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse
from omegaconf import DictConfig
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from nano_cv.data import images
from nano_cv.data.imagined import Imagined
from nano_cv.errors import listing, nearest, one_line
from nano_cv.evaluation import answers
from nano_cv.evaluation.card import make_card
from nano_cv.evaluation.engines import Arrays
from nano_cv.evaluation.exported import Onnx
from nano_cv.metadata import TAGGING
from nano_cv.serving import metrics
from nano_cv.serving.backend import (
    Backend,
    CrowdedError,
    GoneError,
    LostError,
    Model,
    RefusedError,
    predict_here,
    stopped_if_cancelled,
)
from nano_cv.serving.multipart import split_parts

log = logging.getLogger(__name__)
Made = TypeVar("Made")
PAGE = Path(__file__).parent / "page"
FACTS = ["classes", "image_size", "fit", "metrics", "coverage", "data_hash", "git_commit", "run_id"]
HOSTS = ("127.0.0.1", "localhost", "::1")  # names by which this machine calls itself
HOST = re.compile(r"(\[[0-9a-f:]+\]|[^:]+)(:[0-9]*)?")  # name or address, and port
MAX_BODIES = 8  # number of largest bodies that may be in memory at once
MAX_MADE, AT_ONCE = 16, 4  # pictures that a generator makes for a request, and at a time
GENERATOR_BYTES = 4096  # largest body for a generator, which holds only a few settings
NO_PICTURE = "a generator takes no picture, but JSON with a class and a seed"
KINDS_OF_BODIES = (
    *("image/", "application/octet-stream", "multipart/form-data"),
    "application/x-www-form-urlencoded",  # what curl sends for any body
)
# Only our own files may run, so a file name or class name on the page cannot become a program.
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


class Settings(BaseModel):
    """Settings of a request to a generator: class, seed, and number of images."""

    model_config = ConfigDict(extra="forbid", strict=True)
    label: str | None = Field(None, alias="class", description="For a generator: the class.")
    seed: int = Field(0, ge=0, lt=2**32, description="For a generator: seed of the noise.")
    count: int = Field(1, ge=1, le=MAX_MADE, description="For a generator: how many pictures.")


class UrlSettings(Settings):
    """Settings in the URL of a request, where numbers are texts."""

    model_config = ConfigDict(extra="ignore", strict=False)  # `_check_options` knows unknown names
    confidence: float | None = Field(
        None, ge=0, le=1, description="Least score of boxes or several labels."
    )
    top: int | None = Field(None, ge=1, description="How many likeliest classes; all by default.")


BINARY = {"type": "string", "format": "binary"}
FORM = {"type": "object", "properties": {"file": {"type": "array", "items": BINARY}}}
BODY = {
    "requestBody": {
        "description": "A picture's bytes, or several pictures as a form; a generator's settings.",
        "content": {
            "image/*": {"schema": BINARY},
            "multipart/form-data": {"schema": FORM},
            "application/json": {"schema": Settings.model_json_schema()},
        },
    },
    "responses": {"200": {"description": "The model's answer.", "content": {"image/png": {}}}},
}
ERRORS: Any = {
    "default": {
        "description": "An error, with what to do. /docs lists the calls.",
        "content": {"application/problem+json": {}},
    }
}
OPTIONS = {  # settings in the URL that a model of a task takes
    "classification": ("top",),
    TAGGING: ("top", "confidence"),
    "detection": ("confidence",),
    "generation": ("class", "seed", "count"),
}


class Markdown(PlainTextResponse):
    """Markdown, in the answer and in /openapi.json."""

    media_type = "text/markdown"


class Problem(Exception):  # noqa: N818  # RFC 9457 calls it so
    """Error that the client receives as a problem document; status 503 asks to try again."""

    def __init__(self, status: int, title: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.title, self.detail = status, title, detail

    def response(self, headers: Mapping[str, str] | None = None) -> JSONResponse:
        """Return the problem document of RFC 9457 as an HTTP response, with further `headers`."""
        content = {"title": self.title, "status": self.status, "detail": self.detail}
        if self.status == 503 and self.title != "Not served":  # a refused model stays so
            headers = {"Retry-After": "1"}
        return JSONResponse(content, self.status, headers, media_type="application/problem+json")


class Door:
    """FastAPI application that answers HTTP requests with the models of a backend."""

    def __init__(self, backend: Backend, config: DictConfig) -> None:
        self.backend = backend
        # Reading a DictConfig takes 20 µs each time.
        self.limits = SimpleNamespace(**{str(key): value for key, value in config.items()})
        hosts = [*(config.hosts or ()), *(HOSTS if config.host in HOSTS else ())]
        self.hosts = tuple(str(name).lower() for name in hosts)  # empty: any
        self.held = 0  # bytes of all request bodies in memory
        self.answered: Counter[tuple[str, int]] = Counter()  # answers by model and HTTP status
        cores = os.cpu_count() or 1
        self.threads = ThreadPoolExecutor(cores, "decode")
        # All forms together use one thread fewer than there are: other requests find one.
        self.of_forms = asyncio.Semaphore(max(1, cores - 1))
        # One request at a time for each generator: if all ran at once, all would end too late.
        self.of_generators = defaultdict[str, asyncio.Semaphore](lambda: asyncio.Semaphore(1))
        app = FastAPI(
            title="nano-cv",
            summary="Ask computer-vision models about pictures.",
            version="1",
            docs_url=None,  # FastAPI's own page loads scripts from other sites
            redoc_url=None,
            redirect_slashes=False,  # curl shows nothing of a redirect
            responses=ERRORS,
        )
        app.get("/models", summary="All models")(self.list_models)
        app.get("/models/{name}", summary="What a model promises")(self.show_model)
        card, about = "/models/{name}/card", "The model card, as Markdown"
        app.get(card, summary=about, response_class=Markdown)(self.show_card)
        path, summary = "/models/{name}/predict", "Ask a model about pictures, or for pictures"
        # FastAPI's route only describes the call in /openapi.json. This one answers, 0.1 ms sooner.
        app.add_route(path, self.take_predict, methods=["POST"])
        app.post(path, summary=summary, openapi_extra=BODY)(self.predict)
        app.get("/health", summary="200 if every model answers, else 503")(self.health)
        app.get("/live", summary="200 as long as this server runs")(self.live)
        app.get("/metrics", summary="Figures for Prometheus")(self.figures)
        app.get("/docs", include_in_schema=False)(self.docs)
        app.get("/", include_in_schema=False)(lambda: FileResponse(PAGE / "index.html"))
        app.mount("/page", StaticFiles(directory=PAGE))
        for kind in (*FAILURES, *OF_BACKEND, Exception):
            app.exception_handler(kind)(_tell)
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, but not to other sites' pages, except if a link there is followed."""
        headers = Headers(scope=scope)
        refused = None
        host = HOST.fullmatch(headers.get("host", "").lower())
        followed = scope.get("method") == "GET" and headers.get("sec-fetch-mode") == "navigate"
        if self.hosts and (host and host[1].strip("[]")) not in self.hosts:
            # DNS rebinding: a site whose name resolves to this machine could read our answers.
            advice = "open it by one of these names, or add yours: serve.py hosts=[NAME]"
            detail = f"this server is {listing(self.hosts)}; {advice}"
            refused = Problem(421, "Unknown host", detail)
        elif headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not followed:
            refused = Problem(403, "Another site", "pages of other sites may not use this server")
        if scope.get("method") == "HEAD":  # uvicorn sends no body for it
            scope = {**scope, "method": "GET"}

        async def send_locked(message: Any) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(LOCKED)
                if scope["path"].endswith("/predict"):
                    name = scope.get("path_params", {}).get("name")
                    known = name if name in self.backend.models else ""
                    self.answered[known, message["status"]] += 1
            await send(message)

        await (refused.response() if refused else self.app)(scope, receive, send_locked)

    async def docs(self, request: Request) -> HTMLResponse:
        """Return a plain page that lists the calls; /openapi.json lists them for programs."""
        rows = "".join(
            f"<tr><td>{method.upper()}</td><td><code>{path}</code></td><td>{op['summary']}</td></tr>"
            for path, methods in request.app.openapi()["paths"].items()
            for method, op in methods.items()
        )
        text = (PAGE / "docs.html").read_text()
        address = str(request.base_url).rstrip("/")
        return HTMLResponse(text.replace("{{rows}}", rows).replace("{{address}}", address))

    # The models

    async def list_models(self) -> list[dict[str, Any]]:
        """Return a summary of every model that takes requests, ready or not."""
        models = sorted(self.backend.models.items())
        return [_summary(model) for _, model in models if model.takes_requests]

    async def show_model(self, name: str) -> dict[str, Any]:
        """Return a model's classes, input size, origin and metrics."""
        model = self._model(name)
        promised = model.promised
        shown: dict[str, Any] = {"versions": model.versions, "trained_on": promised.data}
        shown["card"] = f"/models/{name}/card"
        if promised.task in ("detection", TAGGING):
            shown["thresholds"] = dict(zip(promised.classes, promised.confidences, strict=True))
        return _summary(model) | shown | {key: getattr(promised, key) for key in FACTS}

    async def show_card(self, name: str) -> Markdown:
        """Return the model card: metrics, data, origin and limits, and how to call the model."""
        model = self._model(name)
        return Markdown(make_card(model.promised, model.figures))

    def _model(self, name: str) -> Model:
        able = [model.name for model in self.backend.models.values() if model.takes_requests]
        known = self.backend.models.get(name)
        if known and known.state == "refused":
            raise Problem(503, "Not served", f"{name}: {known.reason}")
        if name not in able and self.backend.state in ("starting", "draining"):
            raise Problem(503, "Not serving", f"the server is {self.backend.state}; try again")
        if name not in able:
            hint = f"There are: {listing(sorted(able)) or 'none'}"
            raise Problem(404, "No such model", f"no model '{name}'{nearest(name, able)} {hint}")
        return self.backend.models[name]

    # Predictions

    async def take_predict(self, request: Request) -> Response:
        """Read the path and the settings in the URL, and answer with `predict`."""
        asked = UrlSettings.model_validate(dict(request.query_params))
        return await self.predict(request, request.path_params["name"], asked)

    async def predict(
        self, request: Request, name: str, asked: Annotated[UrlSettings, Query()]
    ) -> Response:
        """Return the answer for a single image, or `{"answers": [...]}` for several images."""
        model = self._model(name)
        _check_options(request, model.promised.task)
        generates = model.promised.task == "generation"
        most = GENERATOR_BYTES if generates else self.limits.max_request_bytes
        seconds = self.limits.answer_seconds
        try:
            async with self._body(request, most) as body, asyncio.timeout(seconds):
                if generates:
                    return await self._generate(request, model, _settings_of(asked, body))
                return await self._answer(request, model, _pictures(request, body), asked)
        except TimeoutError:
            why = f"the model is {model.state}: {model.reason}" if model.reason else "try again"
            raise Problem(504, "Too slow", f"no answer in {seconds:g} s; {why}") from None

    @asynccontextmanager
    async def _body(self, request: Request, most: int) -> AsyncIterator[bytes]:
        """Yield a body of at most `most` bytes, which `held` counts meanwhile."""
        stated = request.headers.get("content-length", "")
        of_generators = f"; {NO_PICTURE}" if most == GENERATOR_BYTES else ""
        too_large = Problem(413, "Too large", f"at most {most:,} bytes are taken{of_generators}")
        if stated.isdecimal() and int(stated) > most:
            raise too_large
        body = bytearray()
        try:
            try:
                async with asyncio.timeout(self.limits.receive_seconds):
                    async for chunk in request.stream():
                        if len(body) + len(chunk) > most:
                            raise too_large
                        if self.held + len(chunk) > MAX_BODIES * self.limits.max_request_bytes:
                            raise Problem(503, "Overloaded", "too many large requests at once")
                        self.held += len(chunk)
                        body += chunk
            except TimeoutError:
                raise Problem(408, "Too slow", "the body did not arrive in time") from None
            except ClientDisconnect:  # nobody reads this answer, but `/metrics` counts it
                raise Problem(400, "Broken off", "the body ended early") from None
            yield bytes(body)
        finally:
            self.held -= len(body)

    async def _answer(
        self, request: Request, model: Model, pictures: list[tuple[str, bytes]], asked: UrlSettings
    ) -> Response:
        ask = partial(self._ask, model, asked.confidence)
        if _wants_png(request):
            if len(pictures) > 1:
                raise Problem(422, "Several pictures", "Accept: image/png is for one picture")
            draw = partial(answers.picture_of, picture=pictures[0][1])
            return Response(await ask(pictures[0][1], draw), media_type="image/png")
        ask_one = partial(ask, tell=partial(answers.describe, top=asked.top))
        if len(pictures) == 1:
            return JSONResponse(await ask_one(pictures[0][1]))

        async def named(file: str, picture: bytes) -> dict[str, Any]:
            try:
                async with self.of_forms:
                    await _check_awaited(request)
                    return {"file": file} | await ask_one(picture)
            except images.ImageError as error:
                return {"file": file, "error": str(error).removeprefix("picture: ")}  # others go on

        tasks = [asyncio.create_task(named(*part)) for part in pictures]
        try:
            return JSONResponse({"answers": await asyncio.gather(*tasks)})
        finally:
            for task in tasks:  # the others, if one has failed or the time is over
                task.cancel()

    async def _ask(
        self, model: Model, confidence: float | None, picture: bytes, tell: Callable[..., Made]
    ) -> Made:
        """Run a model on an image; return what `tell` makes of the outputs and the image's size."""
        engine = self.backend.engines.get(model.name)
        promised = (engine.metadata if engine else model.promised).at_confidence(confidence)

        def decode() -> tuple[Arrays, answers.Size]:
            most = self.limits.max_picture_pixels
            square = images.load(picture, promised.image_size, max_pixels=most, fit=promised.fit)
            # These answers have no pixel positions.
            plain = promised.task in ("classification", TAGGING)
            size = (0, 0) if plain else images.dimensions(picture)
            return {"IMAGES": square.transpose(2, 0, 1)[None]}, size

        def tell_of(outputs: Arrays, size: answers.Size) -> Made:
            return tell(promised, {name: array[0] for name, array in outputs.items()}, size=size)

        def answer(engine: Onnx, options: Any) -> Made:
            pixels, size = decode()
            return tell_of(predict_here(engine, pixels, options), size)

        if engine:  # decoding to answer in a single thread
            with stopped_if_cancelled() as options:
                return await self._in_thread(partial(answer, engine, options))
        pixels, size = await self._in_thread(decode)
        outputs = await self.backend.infer(model.name, pixels)
        return await self._in_thread(partial(tell_of, outputs, size))

    async def _generate(self, request: Request, model: Model, wanted: Settings) -> Response:
        classes = model.promised.classes
        label = classes[0] if wanted.label is None else wanted.label
        if label not in classes:
            hint = f"class={label}{nearest(label, classes)} There are: {listing(classes)}"
            raise Problem(422, "No such class", hint)
        if _wants_png(request) and wanted.count > 1:
            raise Problem(422, "Several pictures", "Accept: image/png is for count=1")
        labels = [classes.index(label)] * wanted.count
        inputs = Imagined(labels, classes, model.promised.image_size, wanted.seed).inputs
        made: list[bytes] = []
        async with self.of_generators[model.name]:
            for start in range(0, wanted.count, AT_ONCE):
                await _check_awaited(request)
                numbers = range(start, min(start + AT_ONCE, wanted.count))
                tasks = (self.backend.infer(model.name, inputs([number])) for number in numbers)
                for outputs in await asyncio.gather(*tasks):
                    made.append(images.encode_png(outputs["IMAGES"][0].transpose(1, 2, 0)))
        if _wants_png(request):
            return Response(made[0], media_type="image/png")
        pictures = [base64.b64encode(png).decode() for png in made]
        return JSONResponse({"class": label, "seed": wanted.seed, "pictures_png": pictures})

    async def _in_thread(self, work: Callable[[], Made]) -> Made:
        return await asyncio.get_running_loop().run_in_executor(self.threads, work)

    # Health and metrics

    async def health(self) -> JSONResponse:
        """Return the state of every model, with status 200 if all (at least one) answer."""
        good, content = self.backend.health()
        return JSONResponse(content, 200 if good else 503)

    async def live(self) -> PlainTextResponse:
        """Return status 200 as long as this process answers."""
        return PlainTextResponse("live\n")

    async def figures(self) -> Response:
        """Return metrics for Prometheus; see `metrics.render`."""
        return Response(await metrics.render(self.backend, self.answered), media_type=metrics.TEXT)


def _summary(model: Model) -> dict[str, Any]:
    return {
        "name": model.name,
        "task": model.promised.task,
        "state": model.state,
        "reason": model.reason,
        "predict": f"/models/{model.name}/predict",
    }


def _wants_png(request: Request) -> bool:
    """Return whether the request names PNG and not JSON; curl accepts anything."""
    accept = request.headers.get("accept", "").lower()
    return "image/png" in accept and "application/json" not in accept


async def _check_awaited(request: Request) -> None:
    """Give up the work for a client that has gone, as others wait for theirs."""
    if await request.is_disconnected():
        raise Problem(400, "Broken off", "nobody waits for the answer")


def _check_options(request: Request, task: str) -> None:
    """Refuse settings in the URL that mean nothing to a model of this task."""
    able = OPTIONS.get(task, ())
    for key, value in request.query_params.items():
        if key not in able:
            takes = f"A model for {task} takes {listing(able) or 'no settings in the URL'}"
            raise Problem(422, "Not for this model", f"{key}={value}{nearest(key, able)} {takes}")


def _pictures(request: Request, body: bytes) -> list[tuple[str, bytes]]:
    """Return the name and the encoded bytes of each image in the body."""
    kind = request.headers.get("content-type", "application/octet-stream")
    if not kind.lower().startswith(KINDS_OF_BODIES):
        advice = "send a picture as image/jpeg or the like, or several as multipart/form-data"
        raise Problem(415, "Another kind of body", f"Content-Type: {kind}; {advice}")
    parts = [("picture", body)]
    if kind.lower().startswith("multipart/"):
        try:
            parts = split_parts(kind, body)
        except ValueError as error:
            raise Problem(422, "Not a form", str(error)) from error
    # Browsers send a nameless empty file where none was chosen.
    parts = [(name, content) for name, content in parts if content or (name and parts[1:])]
    if not parts:
        advice = "the body has no picture; curl sends one by --data-binary @FILE"
        raise Problem(422, "No picture", advice)
    return parts


def _settings_of(asked: UrlSettings, body: bytes) -> Settings:
    """Return a generator's settings: from a JSON body, or else from the URL."""
    values = asked.model_dump(by_alias=True, include={"label", "seed", "count"})
    try:
        values = {**values, **(from_json(body) if body else {})}
    except (ValueError, TypeError) as error:
        raise Problem(422, "Not JSON", f"the body: {one_line(error)}; {NO_PICTURE}") from error
    return Settings.model_validate(values)


OF_BACKEND: Mapping[type[Exception], tuple[int, str]] = {
    RefusedError: (500, "The model failed"),
    GoneError: (404, "No such model"),
    CrowdedError: (503, "Overloaded"),
    LostError: (503, "Being started"),
}
FAILURES = (Problem, images.ImageError, RequestValidationError, ValidationError, HTTPException)


async def _tell(request: Request, error: Exception) -> JSONResponse:
    """Return the problem document of an error: one of `FAILURES`, or a mistake of ours."""
    match error:
        case Problem():
            problem = error
        case images.ImageError():
            form = "form-urlencoded" in request.headers.get("content-type", "")
            advice = "; curl -d changes bytes: send a picture by --data-binary @FILE" * form
            problem = Problem(422, "Not a usable picture", f"{error}{advice}")
        case RequestValidationError() | ValidationError():
            texts = (
                f"{fault['loc'][-1]}={repr(fault.get('input'))[:100]}: {fault['msg']}"
                for fault in error.errors()
            )
            problem = Problem(422, "Not allowed", listing(texts, separator="; "))
        case HTTPException():
            hints = {404: "/docs lists what there is", 405: "another method is needed; see /docs"}
            detail = hints.get(error.status_code, error.detail)
            problem = Problem(error.status_code, error.detail, detail)
        case _ if type(error) in OF_BACKEND:
            problem = Problem(*OF_BACKEND[type(error)], f"{request.path_params['name']}: {error}")
        case _:
            log.error("%s %s", request.method, request.url.path, exc_info=error)
            problem = Problem(500, "A mistake of this server", "its log says more")
    return problem.response(getattr(error, "headers", None))
