"""A reward behind HTTP, for trainers that keep it in another process: JSON or safetensors in, never pickle.

GET /health -> {"status": "ok", "reward": name, "needs_prompts": …, "needs_fps": …, "min_frames": …}.
POST /compute -> {"reward": name, "rewards": [B numbers], "components": {name: [B numbers]}}, from either
* application/x-safetensors: a tensor "frames" (B, T, 3, H, W), or for unequal videos "frames.0", "frames.1", …, each
  (T, 3, H, W); uint8, or floats in [0, 1]; in the metadata "prompts", a JSON list, and "fps" (see `pack`);
* application/json: {"videos": …, "prompts": [B strings], "fps": number or [B numbers]}, where videos is base64 of such
  a safetensors file, or a list of B nested lists (T, 3, H, W): all integers are 0..255, else floats in [0, 1].
Errors are {"error": why} with 400 (what the reward refuses, too), 401 (token), 411, 413 (too large), 415 or 500.
"""
from __future__ import annotations

import base64
import hmac
import ipaddress
import json
import math
import sys
import threading
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
from torch import Tensor

from rewards.base import Reward

MAX_BYTES = 2**30  # of one request's body: 49 frames of 480 x 832 are 59 MB as uint8, thrice that as nested lists
TIMEOUT_S = 60.0  # for a client that stops talking
DRAIN = 2**26  # bytes of a refused body that are read all the same: a client that still writes would not see the answer
JSON, SAFETENSORS = "application/json", "application/x-safetensors"


class BadRequest(Exception):
    """What the client sent cannot be answered; status is the HTTP status."""

    def __init__(self, why: str, status: int = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(why)
        self.status = status


def pack(frames: Tensor | Sequence[Tensor], prompts: Sequence[str] | None = None,
         fps: float | Sequence[float] | None = None) -> bytes:
    """The body of a safetensors request: frames (B, T, 3, H, W), or a list of unequal (T, 3, H, W)."""
    from safetensors.torch import save

    clips = {"frames": frames} if isinstance(frames, Tensor) else {f"frames.{k}": one for k, one in enumerate(frames)}
    metadata = {name: json.dumps(value) for name, value in (("prompts", prompts), ("fps", fps)) if value is not None}
    return save({name: clip.detach().cpu().contiguous() for name, clip in clips.items()}, metadata or None)


def make_server(reward: Reward, host: str = "127.0.0.1", port: int = 8000, token: str | None = None,
                max_bytes: int = MAX_BYTES, device: str | torch.device | None = None) -> ThreadingHTTPServer:
    """A server that is bound and not yet serving; `serve_forever()` starts it, port 0 takes a free one.

    With `token`, /compute wants the header "Authorization: Bearer TOKEN". device: where frames are put; None: where
    the reward's weights lie. ValueError where `host` is not this machine alone and there is no token; OSError where
    the port is taken.
    """
    if not token and not is_loopback(host):
        raise ValueError(f"host {host!r} can be reached from other machines: expected a token")
    device = device or reward.device or "cpu"
    lock = threading.Lock()  # around the model: requests are read at once and judged one after the other

    def compute(clips: Tensor | list[Tensor], prompts: Any, fps: Any) -> dict[str, Any]:
        with lock, torch.no_grad():
            found = reward.measure_any(_put(clips, device), prompts, fps)
        told = {"reward": reward.name, "rewards": found.value.float().tolist(),
                "components": {name: part.float().tolist() for name, part in found.components.items()}}
        if not all(map(math.isfinite, told["rewards"])):
            raise RuntimeError("the reward is not a finite number")
        return told

    class Bound(_Handler):
        pass

    Bound.reward, Bound.compute, Bound.token, Bound.max_bytes = reward, staticmethod(compute), token, max_bytes
    server = ThreadingHTTPServer((host, port), Bound)
    server.daemon_threads = True  # a client that hangs does not keep the process alive
    return server


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name: whom it lets in is not known
        return False


def _put(clips: Tensor | list[Tensor], device: Any) -> Tensor | list[Tensor]:
    return clips.to(device) if isinstance(clips, Tensor) else [clip.to(device) for clip in clips]


class _Handler(BaseHTTPRequestHandler):
    reward: Reward
    compute: Callable[..., dict[str, Any]]
    token: str | None
    max_bytes: int
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "evalkit", ""
    timeout = TIMEOUT_S
    unread = 0  # bytes of this request's body that still come

    def do_GET(self) -> None:
        if self.path != "/health":
            self._fail(HTTPStatus.NOT_FOUND, "there are GET /health and POST /compute")
            return
        self._answer(HTTPStatus.OK, {"status": "ok", "reward": self.reward.name, "min_frames": self.reward.min_frames,
                                     "needs_prompts": self.reward.needs_prompts, "needs_fps": self.reward.needs_fps})

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        self.unread = int(length) if length.isascii() and length.isdecimal() else -1
        try:
            self._answer(HTTPStatus.OK, self.compute(*self._read_request()))
        except BadRequest as error:
            self._fail(error.status, str(error))
        except ValueError as error:  # what the reward refuses
            self._fail(HTTPStatus.BAD_REQUEST, str(error))
        except (TimeoutError, ConnectionError):  # the client is gone
            self.close_connection = True
        except Exception as error:  # a server goes on with the next request; the reason is told and logged
            print(f"evalkit rewards serve: {type(error).__name__}: {error}", file=sys.stderr)
            self._fail(HTTPStatus.INTERNAL_SERVER_ERROR, f"{type(error).__name__}: {error}")

    def _read_request(self) -> tuple[Tensor | list[Tensor], list[str] | None, Any]:
        if self.path != "/compute":
            raise BadRequest("there are GET /health and POST /compute", HTTPStatus.NOT_FOUND)
        given = self.headers.get("Authorization", "").removeprefix("Bearer ").encode("latin-1", "replace")
        if self.token and not hmac.compare_digest(given, self.token.encode()):
            raise BadRequest('expected the header "Authorization: Bearer TOKEN" with the token of this server',
                             HTTPStatus.UNAUTHORIZED)
        kind = self.headers.get_content_type()
        readers = {JSON: _from_json, SAFETENSORS: _from_safetensors}
        if kind not in readers or self.headers.get("Content-Encoding"):
            raise BadRequest(f"expected Content-Type {JSON} or {SAFETENSORS} without Content-Encoding, got {kind}",
                             HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
        length = self.unread
        if length < 0:
            raise BadRequest("expected the header Content-Length", HTTPStatus.LENGTH_REQUIRED)
        if length > self.max_bytes:
            raise BadRequest(f"expected at most {self.max_bytes} bytes, got {length}: send fewer videos at once",
                             HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        body, self.unread = self.rfile.read(length), 0
        if len(body) < length:
            raise BadRequest(f"expected {length} bytes, got {len(body)}")
        clips, prompts, fps = readers[kind](body)
        if prompts is not None and not (isinstance(prompts, list) and all(isinstance(one, str) for one in prompts)):
            raise BadRequest("prompts: expected a list of strings, one per video")
        return _scaled(clips), prompts, _rates(fps, len(clips))

    def _answer(self, status: int, told: dict[str, Any]) -> None:
        body = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Type", JSON)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def _fail(self, status: int, why: str) -> None:
        self.close_connection = True  # what is left of a body could not be told from the next request
        left = min(self.unread, DRAIN)
        try:
            while left > 0 and (read := len(self.rfile.read(min(left, 2**20)))):
                left -= read
            self._answer(status, {"error": why})
        except (TimeoutError, ConnectionError):
            pass  # nobody is left to be told

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the standard library refuses (an unknown method, a bad request line), as JSON, too."""
        self._fail(code, message or HTTPStatus(code).phrase)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing per request: a trainer sends thousands."""


def _from_safetensors(body: bytes) -> tuple[Tensor | list[Tensor], Any, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(body)
        size = int.from_bytes(body[:8], "little")  # the header's length; `load` has checked it, and drops metadata
        metadata = json.loads(body[8:8 + size]).get("__metadata__", {})
        prompts, fps = (json.loads(metadata[name]) if name in metadata else None for name in ("prompts", "fps"))
    except (SafetensorError, ValueError, KeyError) as error:
        raise BadRequest(f"not a safetensors file with prompts and fps as JSON in its metadata: {error}") from error
    names = [f"frames.{k}" for k in range(len(tensors))]
    if set(tensors) == {"frames"}:
        if tensors["frames"].ndim != 5:
            raise BadRequest(f"frames: expected (B, T, 3, H, W), got {tuple(tensors['frames'].shape)}")
        return tensors["frames"], prompts, fps
    if not tensors or set(tensors) != set(names):
        raise BadRequest(f'expected a tensor "frames", or "frames.0", "frames.1", …, got {", ".join(sorted(tensors))}')
    return [tensors[name] for name in names], prompts, fps


def _from_json(body: bytes) -> tuple[Tensor | list[Tensor], Any, Any]:
    try:
        told = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"not JSON: {error}") from error
    if not isinstance(told, dict) or set(told) - {"videos", "prompts", "fps"} or "videos" not in told:
        got = sorted(told) if isinstance(told, dict) else type(told).__name__
        raise BadRequest(f"expected an object with videos and at times prompts and fps, got {got}")
    prompts, fps, videos = told.get("prompts"), told.get("fps"), told["videos"]
    if isinstance(videos, str):
        try:
            clips, in_file, fps_in_file = _from_safetensors(base64.b64decode(videos, validate=True))
        except ValueError as error:
            raise BadRequest(f"videos: not base64: {error}") from error
        return clips, in_file if prompts is None else prompts, fps_in_file if fps is None else fps
    if not isinstance(videos, list) or not videos:
        raise BadRequest("videos: expected base64 of a safetensors file, or a list of videos, each (T, 3, H, W)")
    try:
        clips = [torch.tensor(video) for video in videos]
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise BadRequest(f"videos: expected nested lists of numbers, (T, 3, H, W): {error}") from error
    if any(clip.dtype == torch.int64 and clip.numel() and not 0 <= clip.min() <= clip.max() <= 255 for clip in clips):
        raise BadRequest("videos: expected integers from 0 to 255, or floats from 0 to 1")
    return [clip.to(torch.uint8) if clip.dtype == torch.int64 else clip for clip in clips], prompts, fps


def _scaled(clips: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
    """uint8 as floats in [0, 1]; all else is left to the reward's own checks."""
    if isinstance(clips, list):
        return [_scaled(clip) for clip in clips]
    return clips.float() / 255 if clips.dtype == torch.uint8 else clips


def _rates(fps: Any, count: int) -> float | Tensor | None:
    given = fps if isinstance(fps, list) else [fps]
    if fps is None:
        return None
    if not all(isinstance(one, (int, float)) and not isinstance(one, bool) and 0 < one < math.inf for one in given):
        raise BadRequest(f"fps: expected a positive number, or one per video, got {fps!r}")
    if isinstance(fps, list) and len(fps) != count:
        raise BadRequest(f"fps: expected one number or {count}, got {len(fps)}")
    return torch.tensor(fps, dtype=torch.float32) if isinstance(fps, list) else float(fps)
