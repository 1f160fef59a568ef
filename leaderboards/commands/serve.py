"""A built site on this machine alone; any web server, or the disk, does as well."""
from __future__ import annotations

import argparse
import re
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("site", type=Path, help="a folder that `evalkit leaderboard build` wrote")
    parser.add_argument("--port", type=int, default=8010, help="default 8010; 0 takes a free one")


def main(args: argparse.Namespace) -> int:
    server = make_server(args.site, args.port)
    print(f"http://127.0.0.1:{server.server_port}/, stop with Ctrl-C", flush=True)
    with server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("stopped")
    return 0


def make_server(site: Path, port: int) -> ThreadingHTTPServer:
    """A server of the site, bound to this machine. UsageError where there is no site, or the port is taken."""
    from evalkit.errors import UsageError
    from leaderboards.site import MARK

    if not (site / MARK).is_file():
        raise UsageError(f"{site} is no site: expected a folder that `evalkit leaderboard build` wrote")
    if not 0 <= port < 2**16:
        raise UsageError(f"--port: expected 0 to 65535, got {port}")
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), partial(_Handler, directory=str(site)))
    except OSError as error:
        raise UsageError(f"cannot listen at port {port}: {error.strerror or error}") from error


class _Handler(SimpleHTTPRequestHandler):
    def list_directory(self, path: Any) -> None:
        self.send_error(404)

    def send_head(self) -> Any:
        """Part of a file where one part is asked for: some browsers play no video without."""
        found = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "").strip())
        path = Path(self.translate_path(self.path))
        if not found or not any(found.groups()) or not path.is_file():
            return super().send_head()
        size = path.stat().st_size
        first, last = found.groups()
        start = int(first) if first else max(0, size - int(last))
        end = min(int(last), size - 1) if first and last else size - 1
        if not start <= end:
            self.send_error(416)
            return None
        with path.open("rb") as file:
            file.seek(start)
            part = file.read(end - start + 1)
        self.send_response(206)
        self.send_header("Content-Type", self.guess_type(str(path)))
        self.send_header("Content-Range", f"bytes {start}-{end}/{size}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        return BytesIO(part)

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-cache")  # a site that was built again shows at once
        super().end_headers()

    def log_message(self, *_: Any) -> None:
        """Silent: what a browser asks for is no news."""
