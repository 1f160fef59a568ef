"""evalkit baseline: pretrain a video model, fine-tune and align it, and sample from it."""
from __future__ import annotations

import argparse
from importlib import import_module

ACTIONS = {  # name -> (module in baselines.commands, what it does)
    "vae": ("training", "learn the latent space of presets that have one"),
    "pretrain": ("training", "learn to make videos, of the made-up world or of any captioned set"),
    "sft": ("training", "fine-tune on curated clips, or on what a reward selects"),
    "dpo": ("training", "fit preferences between pairs of videos"),
    "reward-gradient": ("training", "climb a differentiable reward"),
    "nft": ("training", "climb any reward online (DiffusionNFT)"),
    "best-of-n": ("best_of_n", "sample n for each prompt, keep what a reward likes best, fine-tune on it"),
    "sample": ("sampling", "make videos of prompts"),
    "ladder": ("ladder", "all of it, scored, with the trade-off report"),
    "pairs": ("sampling", "sample, and let a reward or the world's truth choose"),
}


class _Action(argparse.ArgumentParser):
    """Adds its arguments when it is used: they stand beside the loops, which import torch."""

    module = ""

    def parse_known_args(self, args=None, namespace=None):
        command = import_module(f"baselines.commands.{self.module}")
        command.add_arguments(self, self.prog.rpartition(" ")[2])
        self.set_defaults(run=command.main)
        return super().parse_known_args(args, namespace)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    actions = parser.add_subparsers(dest="action", required=True, metavar="|".join(ACTIONS), parser_class=_Action)
    for name, (module, what) in ACTIONS.items():
        actions.add_parser(name, help=what, description=what).module = module


def main(args: argparse.Namespace) -> int:
    return args.run(args)
