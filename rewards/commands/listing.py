"""evalkit rewards list."""
from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def main(args: argparse.Namespace) -> int:
    import json

    from rewards.registry import available_rewards, reward_class

    found = {name: reward_class(name) for name in available_rewards()}
    if args.json:
        print(json.dumps({name: {"range": list(cls.range), "needs_prompts": cls.needs_prompts,
                                 "needs_fps": cls.needs_fps, "min_frames": cls.min_frames,
                                 "extractors": list(cls.extractor_keys), "summary": cls.summary}
                          for name, cls in found.items()}, indent=1))
        return 0
    for name, cls in found.items():
        needs = [what for what, needed in (("prompts", cls.needs_prompts), ("fps", cls.needs_fps)) if needed]
        print(f"{name:24}{cls.summary}" + (f" (needs {' and '.join(needs)})" if needs else ""))
    return 0
