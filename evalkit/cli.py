"""The command line: a thin skin over the Python interface. Each command's module is imported only when it is called."""
from __future__ import annotations

import argparse
import errno
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from evalkit.errors import UsageError

# name -> (module with `add_arguments(parser)` and `main(args) -> exit code`, one line for --help)
COMMANDS = {
    "quickstart": ("evalkit.commands.quickstart", "a complete scored example: no data, no network, 2 to 4 minutes"),
    "run": ("evalkit.commands.run", "score a folder of videos"),
    "reference": ("evalkit.commands.reference", "build a reference set's statistics, shareable without footage"),
    "compare": ("evalkit.commands.compare", "two runs, paired per prompt, with significance and a gate"),
    "cite": ("evalkit.commands.cite", "methods sentence, LaTeX row and BibTeX of a run"),
    "list": ("evalkit.commands.list", "metrics, features, datasets, suites, protocols: what exists"),
    "import": ("evalkit.commands.import_results", "read another benchmark's result file"),
    "world": ("evalkit.commands.world", "the made-up world: render, show, read back, train its networks"),
    "weights": ("evalkit.commands.weights", "list, fetch and verify network weights"),
    "doctor": ("evalkit.commands.doctor", "what works on this machine, what is missing, how to get it"),
}

UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)

EXIT_USAGE, EXIT_FAILURES, EXIT_REGRESSION = 2, 3, 4


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 2 (cannot be done as asked), 3 (videos failed) or 4 (regression)."""
    # Before torch is loaded: threads that wait for each other soon sleep. Spinning, two commands on few cores crawl.
    os.environ.setdefault("GOMP_SPINCOUNT", "300")
    arguments = list(sys.argv[1:] if argv is None else argv)
    plugins = {entry.name: entry for entry in entry_points(group="evalkit.commands")}
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview(plugins))
        return 0
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"evalkit {version('video-evalkit')}")
        return 0
    name, rest = arguments[0], arguments[1:]
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    try:
        add_arguments, run = _find(name, plugins)
        parser = argparse.ArgumentParser(prog=f"evalkit {name}", formatter_class=argparse.RawDescriptionHelpFormatter)
        add_arguments(parser)
        return run(parser.parse_args(rest)) or 0
    except UsageError as error:
        print(f"evalkit {name}: {error}", file=sys.stderr)
        return EXIT_USAGE
    except BrokenPipeError:
        return 0
    except KeyboardInterrupt:
        print("\nstopped; what is finished so far is kept: the same command resumes", file=sys.stderr)
        return 130
    except OSError as error:
        if error.errno not in (*UNWRITABLE, errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"evalkit {name}: {error}", file=sys.stderr)
        return EXIT_USAGE if error.errno in UNWRITABLE else 1


def _find(name: str, plugins: dict[str, EntryPoint]) -> tuple[Callable, Callable]:
    if name in COMMANDS:
        module = import_module(COMMANDS[name][0])
    elif name in plugins:
        module = plugins[name].load()
    else:
        raise UsageError(f"unknown command; there are: {', '.join([*COMMANDS, *plugins])}")
    return module.add_arguments, module.main


def _overview(plugins: dict[str, EntryPoint]) -> str:
    lines = [f"  {name:<12} {summary}" for name, (_, summary) in COMMANDS.items()]
    lines += [f"  {name:<12} (from {entry.dist.name})" for name, entry in plugins.items() if name not in COMMANDS]
    return "\n".join(["usage: evalkit COMMAND …     (evalkit COMMAND --help tells more)", "",
                      "Measure video generation models: every number with its interval and protocol.", "", *lines])


if __name__ == "__main__":
    sys.exit(main())
