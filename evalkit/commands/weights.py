"""evalkit weights: where network weights come from, their sha256 and licence, and where they lie."""
from __future__ import annotations

import argparse

from evalkit.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.add_argument("action", choices=["list", "fetch", "verify"])
    parser.add_argument("name", nargs="?", help="a name from `evalkit weights list` (verify: all that are here)")
    parser.add_argument("--from", dest="from_path", metavar="FILE", help="fetch from a file that you have already")


def main(args: argparse.Namespace) -> int:
    from evalkit.features import weights

    if args.action == "list":
        _print_list(weights)
        return 0
    if args.action == "fetch" and args.name is None:
        raise UsageError("fetch: expected a name from `evalkit weights list`")
    try:
        if args.action == "fetch":
            print(weights.fetch_weights(args.name, from_path=args.from_path))
            return 0
        names = [args.name] if args.name else [one.name for one in weights.list_weights() if one.path]
        for name in names:
            print(f"{name}: {weights.verify_weights(name)}")
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error
    return 0


def _print_list(weights) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console()
    for one in weights.list_weights():
        where = Text(str(one.path), "green") if one.path else Text(f"evalkit weights fetch {one.name}", "yellow")
        console.print(Text.assemble((one.name, "bold"), f"  for {one.used_by}; {one.licence}; ",
                                    f"sha256 {one.sha256[:12] or 'recorded at the first fetch'}"), soft_wrap=True)
        console.print(Text.assemble("    ", where, "" if one.path else f"  ({one.source})"), soft_wrap=True)
