"""The arena over HTTP: a page, the next question, a vote, the videos by opaque ids, what the votes say so far."""
from __future__ import annotations

import hmac
import ipaddress
import threading
from pathlib import Path
from random import SystemRandom
from typing import Annotated, Any, Literal

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from leaderboards.arena_results import make_chooser, summarise
from leaderboards.arena_store import AlreadyAnswered, ArenaStore, Task, UnknownTask

PAGES = Path(__file__).parent / "arena"
MAX_BYTES = 2**16  # of a request
COOKIE = "evalkit-arena"
POLICY = ("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self'; "
          "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
HEADERS = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
           "Cross-Origin-Resource-Policy": "same-origin"}
KINDS = {".webm": "video/webm"}  # the others are mp4


def _printable(name: str) -> str:
    name = " ".join(name.split())
    if not name or not name.isprintable():
        raise ValueError("expected a name of printable characters")
    return name


Rater = Annotated[str, Field(max_length=64), AfterValidator(_printable)]


class Asks(BaseModel):
    """Who wants the next question."""

    model_config = ConfigDict(extra="forbid")
    rater: Rater


class Answered(BaseModel):
    """A vote. answers: dimension -> left, right, tie or bad; empty: skipped. seconds: from seeing to sending."""

    model_config = ConfigDict(extra="forbid")
    rater: Rater
    token: Annotated[str, Field(max_length=40)]
    answers: dict[str, Literal["left", "right", "tie", "bad"]]
    seconds: Annotated[float, Field(ge=0, le=86400, allow_inf_nan=False)]


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name: whom it lets in is not known
        return False


def make_app(store: ArenaStore, token: str | None = None, gold_every: int = 10, title: str = "Arena",
             seed: int | None = None) -> FastAPI:
    """The web app. With `token`, a browser opens /?token=TOKEN once and keeps it as a cookie; others send a Bearer.

    Without, requests must name this machine as their host, so that no page from elsewhere reaches it by a name of its
    own (DNS rebinding).
    """
    app = FastAPI(title=title, docs_url=None, redoc_url=None, openapi_url=None)
    chooser, random, lock = make_chooser(store, gold_every, seed), SystemRandom(), threading.Lock()

    def choose(standing: dict[int, tuple[int, float]], asked: set[int]) -> int | None:
        with lock:  # its generator is not made for threads
            return chooser(standing, asked)

    @app.middleware("http")
    async def guard(request: Request, go_on: Any) -> Response:
        response = _refusal(request, token) or await go_on(request)
        response.headers.update({"Cache-Control": "no-store"} | dict(response.headers) | HEADERS)
        return response

    @app.get("/")
    @app.get("/results")
    def page(request: Request) -> Response:
        if token and "token" in request.query_params:  # out of the address bar and the history
            answer = RedirectResponse(request.url.path, status_code=303)
            answer.set_cookie(COOKIE, token, httponly=True, samesite="lax", secure=request.url.scheme == "https",
                              max_age=90 * 86400)
            return answer
        return FileResponse(PAGES / "arena.html", headers={"Cache-Control": "no-cache"})

    @app.get("/arena.{kind}")
    def asset(kind: Literal["js", "css"]) -> Response:
        return FileResponse(PAGES / f"arena.{kind}", headers={"Cache-Control": "no-cache"})

    @app.get("/favicon.ico")
    def favicon() -> Response:
        return Response(status_code=204)

    @app.get("/video/{video}")
    def show(video: str) -> Response:
        found = store.videos.get(video)
        if found is None or not Path(found.playable).is_file():
            raise HTTPException(404, "there is no such video")
        kind = KINDS.get(Path(found.playable).suffix.lower(), "video/mp4")
        return FileResponse(found.playable, media_type=kind, headers={"Cache-Control": "private, max-age=86400"})

    @app.post("/api/next")
    def ask(asks: Asks) -> dict[str, Any]:
        task = store.next_task(asks.rater, choose, lambda: random.random() < 0.5)
        answered = store.count(asks.rater)
        return {"title": title, "dimensions": store.dimensions, "answered": answered,
                "left": len(store.pairs) - answered, "task": task and _shown(store, task)}

    @app.post("/api/vote")
    def vote(answered: Answered) -> dict[str, Any]:
        try:
            new = store.answer(answered.token, answered.rater, answered.answers, answered.seconds)
        except UnknownTask as error:
            raise HTTPException(404, str(error)) from error
        except AlreadyAnswered as error:
            raise HTTPException(409, str(error)) from error
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
        return {"stored": True, "new": new}

    @app.get("/api/summary")
    def summary() -> dict[str, Any]:
        return {"title": title} | summarise(store, chooser)

    return app


def _shown(store: ArenaStore, task: Task) -> dict[str, str]:
    """What a rater may know of a question: nothing that tells which model is where, or that it is a gold question."""
    pair = store.pairs[task.pair]
    left, right = (pair.a, pair.b) if task.a_left else (pair.b, pair.a)
    return {"token": task.token, "prompt": pair.a.prompt, "left": f"/video/{left.id}", "right": f"/video/{right.id}"}


def _refusal(request: Request, token: str | None) -> Response | None:
    """Why a request is not answered, or None."""
    if not token and not is_loopback((request.url.hostname or "").strip("[]")):
        return JSONResponse({"error": "expected this machine as the host, e.g. 127.0.0.1 or localhost"}, 421)
    if token and not _knows(request, token):
        return JSONResponse({"error": "expected the token of this arena: open /?token=TOKEN once"}, 401)
    if request.method == "POST":
        length = request.headers.get("content-length", "")
        if not length.isascii() or not length.isdecimal() or int(length) > MAX_BYTES:
            return JSONResponse({"error": f"expected a body of at most {MAX_BYTES} bytes and its length"}, 413)
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return JSONResponse({"error": "expected JSON"}, 415)  # what other sites' pages cannot send unasked
    return None


def _knows(request: Request, token: str) -> bool:
    given = (request.headers.get("authorization", "").removeprefix("Bearer "), request.cookies.get(COOKIE, ""),
             request.query_params.get("token", "") if request.url.path in ("/", "/results") else "")
    return any(hmac.compare_digest(one.encode("utf-8", "replace"), token.encode()) for one in given)
