"""evalkit rewards serve."""
from __future__ import annotations

import argparse
import os

from evalkit.errors import UsageError

VARIABLE = "EVALKIT_REWARDS_TOKEN"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Answer POST /compute and GET /health over HTTP: JSON or safetensors, see rewards/server.py."
    parser.add_argument("reward", metavar="NAME|FOLDER",
                        help="of `evalkit rewards list`, or a folder of `evalkit rewards train`")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default 127.0.0.1: this machine)")
    parser.add_argument("--port", type=int, default=8000, help="default 8000; 0 takes a free one")
    parser.add_argument("--token", help=f"that clients must send; needed for other hosts than this machine (default: "
                                        f"the environment variable {VARIABLE}, which `ps` does not show)")
    parser.add_argument("--max-mb", type=int, default=1024, metavar="MB", help="largest request (default 1024)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")


def main(args: argparse.Namespace) -> int:
    from evalkit.devices import choose_device
    from rewards.commands.score import open_reward
    from rewards.server import is_loopback, make_server

    token = args.token or os.environ.get(VARIABLE) or None
    if not token and not is_loopback(args.host):
        raise UsageError(f"--host {args.host} can be reached from other machines: give --token, or {VARIABLE}")
    if not 0 <= args.port < 2**16:
        raise UsageError(f"--port: expected 0 to 65535, got {args.port}")
    if args.max_mb < 1:
        raise UsageError(f"--max-mb: expected at least 1, got {args.max_mb}")
    device = choose_device(args.device)
    reward = open_reward(args.reward).to(device)
    try:
        server = make_server(reward, args.host, args.port, token, args.max_mb * 2**20, device)
    except OSError as error:
        raise UsageError(f"cannot listen at {args.host} port {args.port}: {error.strerror or error}") from error
    with server:
        host, port = server.server_address[:2]
        print(f"{reward.name} on {device}: http://{host}:{port}/compute, stop with Ctrl-C", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("stopped")
    return 0
