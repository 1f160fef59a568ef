"""evalkit baseline vae, pretrain, sft, dpo, reward-gradient and nft."""
from __future__ import annotations

import argparse
import os
from importlib import import_module
from typing import Any

MODULES = {"pretrain": "pretrain", "sft": "sft", "dpo": "dpo", "reward-gradient": "reward_gradient", "nft": "nft",
           "vae": "vae"}


def add_arguments(parser: argparse.ArgumentParser, action: str) -> None:
    from baselines.flags import add_flags

    module = import_module(f"baselines.{MODULES[action]}")
    add_flags(parser, module.Config, module.PRESETS)


def main(args: argparse.Namespace) -> int:
    from baselines.flags import read_flags

    module = import_module(f"baselines.{MODULES[args.action]}")
    return run(module, read_flags(args, module.Config, module.PRESETS))


def run(module: Any, config: Any) -> int:
    """Train, and say where the checkpoint lies."""
    import json
    import os
    import warnings
    from pathlib import Path

    from baselines.train import CONFIG, SUMMARY, settle_folder, train
    from evalkit.errors import UsageError
    from evalkit.features.weights import MissingWeights
    from evalkit.progress import shown_progress

    warnings.filterwarnings("ignore", category=FutureWarning)  # of libraries about themselves
    settings = Path(config.out) / CONFIG
    is_new, stage = not settings.is_file(), None
    settle_folder(Path(config.out), config)
    try:
        with shown_progress("clips") as advance:
            stage = module.build(config, lambda name, done, of: advance(name, done, of, None))
        with shown_progress("steps") as advance:
            card = train(stage, config, lambda name, done, of: advance(name, done, of, None))
    except (ValueError, MissingWeights) as error:
        if is_new and stage is None:
            settings.unlink(missing_ok=True)  # nothing was begun: the next try may have other flags
        raise error if isinstance(error, UsageError) else UsageError(str(error)) from error
    except RuntimeError as error:
        if "out of memory" in str(error):
            raise UsageError(out_of_memory(config, stage)) from error
        raise
    if os.environ.get("RANK", "0") != "0":
        return 0
    summary = json.loads((Path(config.out) / SUMMARY).read_text())
    if summary["stopped"]:
        print(f"stopped early: {summary['stopped']}")
    if not summary["steps"]:  # learned at once
        print(", ".join(f"{name} {value:g}" for name, value in summary["evaluations"][0].items()))
    print(f"{config.out}: {card.stage}, step {card.step}, checkpoint {card.identity}")
    return 0


def out_of_memory(config: Any, stage: Any) -> str:
    """What takes memory, and the flags that help."""
    if stage is None:
        return "out of memory already while the model was loaded: take a smaller --preset, or --device cpu"
    parts = int(os.environ.get("WORLD_SIZE", "1")) if config.shard else 1
    whole = sum(p.nbytes for p in stage.model.transformer.parameters()) / 2**30 / parts
    learnt = sum(p.numel() for p in stage.parameters().values()) * 16 / 2**30 / parts
    return (f"out of memory: the weights take {whole:.1f} GiB, and gradients, optimizer and mean of those that learn "
            f"{learnt:.1f} GiB; the rest are activations. Try --accumulate {2 * config.accumulate} (the same result), "
            "--checkpointing 1, a smaller --batch-size, or " + ("more processes" if config.shard else
                                                                "--shard with torchrun"))
