"""evalkit leaderboard arena: people compare pairs of videos in the browser."""
from __future__ import annotations

import argparse
import os
from pathlib import Path

from evalkit.errors import UsageError

VARIABLE = "EVALKIT_ARENA_TOKEN"
EPILOG = """Two videos of one prompt play side by side; which model is left is drawn and recorded, and not shown. Raters
answer for each dimension: left is better, right is better, tie, both bad. Which pair comes next is what tells most
about the models. Stop with Ctrl-C: every vote that the page has taken is in the database, and the same command, or one
with --out alone, goes on. Without a question for "overall", a vote's overall preference is the side that more of its
dimensions prefer. /results shows the strengths of the models, the agreement of the raters, and their fatigue.

examples:
  evalkit leaderboard arena samples-a/ samples-b/ --out votes.db
  evalkit leaderboard arena base=runs/base/samples dpo=runs/dpo/samples --gold good/ bad/ --out votes.db
  evalkit leaderboard arena --out votes.db --export pairs.jsonl     # for rewards train and baseline dpo
  evalkit leaderboard arena --out votes.db --runs runs/             # scores arena_* into runs/MODEL: leaderboard add
  EVALKIT_ARENA_TOKEN=… evalkit leaderboard arena a/ b/ --out postgresql+psycopg://host/votes --host 0.0.0.0
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog, parser.formatter_class = EPILOG, argparse.RawDescriptionHelpFormatter
    parser.add_argument("samples", nargs="*", metavar="[NAME=]SAMPLES",
                        help="videos of each model, as evalkit run takes them; none: those that --out has")
    parser.add_argument("--out", required=True, metavar="FILE|URL",
                        help="the votes: a file of SQLite, or an SQLAlchemy URL whose driver is installed")
    parser.add_argument("--prompts", metavar="FILE", help="whose prompt which video shows (default: the folder's "
                                                          "prompts.jsonl, or what the data set says)")
    parser.add_argument("--dimensions", metavar="NAMES", help="what is asked, of visual,motion,text,overall (default "
                                                              "visual,motion,text; fixed when --out is made)")
    parser.add_argument("--gold", nargs=2, default=(), metavar=("BETTER", "WORSE"),
                        help="videos whose answer is known, as questions mixed in to see who pays attention")
    parser.add_argument("--gold-file", metavar="FILE", help="the same, as pairs.jsonl")
    parser.add_argument("--gold-every", type=int, default=10, metavar="N", help="about one in N questions (default 10)")
    parser.add_argument("--title", default="Which video is better?", help="of the page")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default 127.0.0.1: this machine)")
    parser.add_argument("--port", type=int, default=8020, help="default 8020; 0 takes a free one")
    parser.add_argument("--token", help=f"that raters must know; needed for other hosts than this machine (default: "
                                        f"the environment variable {VARIABLE}, which `ps` does not show)")
    parser.add_argument("--export", metavar="FILE", help="write the votes as pairs.jsonl, and serve nothing")
    parser.add_argument("--runs", metavar="DIR", help="write each model's scores into DIR/MODEL, and serve nothing")
    parser.add_argument("--min-gold", type=float, default=0.0, metavar="SHARE",
                        help="leave out, in --export and --runs, raters with fewer right gold answers, or none")


def main(args: argparse.Namespace) -> int:
    from evalkit.progress import shown_progress
    from leaderboards.arena_samples import fill

    _check(args)
    store = _open_store(args)
    if args.samples or args.gold or args.gold_file:
        with shown_progress("videos") as advance:
            fill(store, args.samples, args.prompts, args.gold, args.gold_file, media_folder(args.out),
                 lambda stage, n, of: advance(stage, n, of, None))
    if not store.pairs:
        raise UsageError(f"{args.out} has no pairs yet: give the samples of two models")
    return _export(args, store) if args.export or args.runs else _serve(args, store)


def media_folder(out: str) -> Path:
    """Where copies of videos that browsers would not play lie: beside a file of SQLite, else in the user's cache."""
    from evalkit.data.archives import media_folder as cached

    where = out.removeprefix("sqlite:///")
    return cached() / "arena" if "://" in where else Path(f"{where}.media").resolve()


def _check(args: argparse.Namespace) -> None:
    from leaderboards.arena_app import is_loopback
    from leaderboards.arena_store import DIMENSIONS

    args.token = args.token or os.environ.get(VARIABLE) or None
    args.dimensions = args.dimensions.split(",") if args.dimensions else None
    if args.dimensions and (set(args.dimensions) - set(DIMENSIONS) or len({*args.dimensions}) < len(args.dimensions)):
        raise UsageError(f"--dimensions: expected some of {','.join(DIMENSIONS)}, got {','.join(args.dimensions)}")
    if not args.token and not is_loopback(args.host):
        raise UsageError(f"--host {args.host} can be reached from other machines: give --token, or {VARIABLE}")
    if len(args.samples) == 1:
        raise UsageError("expected the samples of two models or more, got one")
    if not 0 <= args.port < 2**16:
        raise UsageError(f"--port: expected 0 to 65535, got {args.port}")
    if args.gold_every < 2 or not 0 <= args.min_gold <= 1:
        raise UsageError("expected --gold-every of at least 2, and --min-gold from 0 to 1")


def _open_store(args: argparse.Namespace):
    from sqlalchemy.exc import ArgumentError, DatabaseError, InvalidRequestError

    from leaderboards.arena_store import ArenaStore

    if not args.samples and "://" not in args.out and not Path(args.out).is_file():
        raise UsageError(f"found no votes at {args.out}; give the samples of two models to begin")
    try:
        return ArenaStore(args.out, args.dimensions)
    except (ArgumentError, DatabaseError, InvalidRequestError, ImportError) as error:
        raise UsageError(f"--out {args.out} cannot be opened: {str(error).splitlines()[0]}") from error


def _export(args: argparse.Namespace, store) -> int:
    from leaderboards.arena_results import export_pairs, export_runs

    if args.export:
        print(f"{export_pairs(store, Path(args.export), args.min_gold)} rows written to {args.export}")
    if args.runs:
        for path in export_runs(store, Path(args.runs), args.min_gold):
            print(f"arena scores written to {path}")
    return 0


def _serve(args: argparse.Namespace, store) -> int:
    import socket
    from urllib.parse import quote

    import uvicorn

    from leaderboards.arena_app import make_app

    app = make_app(store, args.token, args.gold_every, args.title)
    family = socket.AF_INET6 if ":" in args.host else socket.AF_INET
    try:
        bound = socket.create_server((args.host, args.port), family=family)
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # handed down to connections; asyncio sets it only
        # on sockets of its own, and without it each answer waits 40 ms for the client's acknowledgement
    except OSError as error:
        raise UsageError(f"cannot listen at {args.host} port {args.port}: {error.strerror or error}") from error
    host = f"[{args.host}]" if ":" in args.host else args.host
    key = f"?token={quote(args.token)}" if args.token else ""
    print(f"{len(store.pairs)} pairs: http://{host}:{bound.getsockname()[1]}/{key}, results at /results, stop with "
          "Ctrl-C", flush=True)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False,  # its log would hold the token
                                           timeout_graceful_shutdown=3))
    server.run(sockets=[bound])
    print("stopped; every vote is kept")
    return 0
