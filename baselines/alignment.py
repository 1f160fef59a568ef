"""What the stages after pretraining share: the model they start at, what holds it, and who judges it meanwhile."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from baselines.adapters import TARGETS, Lora, add_adapter
from baselines.checkpoints import load_model, read_card
from baselines.evaluation import HeldOut
from baselines.model import VideoDiffusion
from baselines.presets import find_preset
from baselines.train import LoopConfig
from baselines.world import world_prompts
from evalkit.devices import choose_device
from evalkit.errors import UsageError

LARGE: dict[str, Any] = {"rank": 32, "eval_every": 0}
WAN: dict[str, Any] = LARGE | {"targets": "attention", "attention": "_native_cudnn", "compile": True}


@dataclass(frozen=True)
class AlignConfig(LoopConfig):
    """What all stages after pretraining share."""

    preset: str = "tiny"
    source: str = ""  # the checkpoint to start at
    pretrained: str = ""  # or the folder or name of a diffusers pipeline
    rank: int = 8  # of the adapter; 0: the whole transformer learns (sft alone)
    alpha: float = 0.0  # of the adapter; 0: the rank
    targets: str = "all"  # the layers that it adapts: all, or those of attention, which takes less memory and time
    no_text: float = 0.1  # share of clips trained without their prompt, for guidance
    level: str = "simple"  # of the world's scenes in held-out prompts: simple or full
    register: str = "terse"  # of their captions
    eval_prompts: int = 64  # of the world, two samples each; other presets are judged after training
    guidance: float = 3.0  # of samples
    sample_steps: int = 20
    held_out: str = ""  # a reward, never in the loss, that stops the run where it falls; default: the world's oracle
    max_failures: int = 0  # videos or pairs that may be unusable
    cache: str = ""  # folder of encoded videos; default: encoded, in the run's folder


def open_model(config: AlignConfig, rank: int) -> tuple[VideoDiffusion, Lora | None]:
    """The model that a stage starts at, with a fresh adapter of `rank` (0: none). UsageError where there is none."""
    if bool(config.source) == bool(config.pretrained):
        raise UsageError("expected either --from CHECKPOINT or --pretrained PIPELINE")
    if config.source:
        card = read_card(config.source)
        wanted = find_preset(config.preset)
        if dict(card.preset.transformer) != dict(wanted.transformer):
            raise UsageError(f"{config.source} is not a checkpoint of preset {config.preset}: give its own --preset")
        model = load_model(config.source)
    else:
        model = VideoDiffusion.from_pretrained(find_preset(config.preset), config.pretrained)
    if config.targets not in TARGETS:
        raise UsageError(f"--targets: expected one of {', '.join(TARGETS)}, got {config.targets!r}")
    lora = Lora(rank, config.alpha or float(rank), TARGETS[config.targets]) if rank else None
    if lora is not None:
        add_adapter(model.transformer, lora, config.seed)
    else:
        model.transformer.float()  # small steps are lost in bfloat16
    return model.to(choose_device(config.device)), lora


def placed(stage: Any, config: AlignConfig, lora: Lora | None) -> Any:
    """The stage, told what its checkpoints stand on."""
    stage.lora = lora
    if lora is not None:
        stage.base, stage.pretrained = config.source or None, config.pretrained or None
    return stage


def held_out_of(config: AlignConfig, model: VideoDiffusion, proxy: str = "") -> HeldOut | None:
    """What judges the run while it trains; None where nobody asks. UsageError for a reward judged by itself."""
    if not config.eval_every:
        return None
    if proxy and proxy == config.held_out:
        raise UsageError(f"--held-out {proxy}: expected another reward than the one that is optimized")
    if model.preset.text != "mini_clip":
        raise UsageError("--eval-every: prompts of the made-up world are judged, which this preset does not speak")
    prompts = world_prompts(config.eval_prompts, "test", config.level, config.register)
    return HeldOut(prompts, config.sample_steps, config.guidance, proxy=open_reward(proxy) if proxy else None,
                   held_out=open_reward(config.held_out) if config.held_out else None)


def open_reward(name: str) -> Any:
    """A reward by name, or the folder of a learned preference. UsageError where it is neither, or lacks weights."""
    from rewards.commands.score import open_reward as found

    return found(name).requires_grad_(False)
