"""Reward heads of Qwen2-VL judges, and their published checkpoints made into safe folders, once, without a download.

  hf download KwaiVGI/VideoReward
  hf download Qwen/Qwen2-VL-2B-Instruct --include "*.json" "*.txt"
  python -m rewards.reward_head video_reward --template prompt_template.py:DETAILED_PROMPT_WITH_SPECIAL_TOKEN

--template is the wording that the model was trained with, read (never run) from a file of the authors' repository:
FILE.txt, or FILE.py:NAME or NAME+NAME. Without it this project's own wording is asked, and scores are not the
published ones.
"""
from __future__ import annotations

import argparse
import ast
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evalkit.features.weights import MissingWeights, load_state
from evalkit.results import write_atomic
from rewards.vlm import find_model, load_tokenizer, put_it_there

HEAD, SETTINGS = "reward_head.safetensors", "reward.json"


@dataclass(frozen=True)
class Settings:
    """How a judge is asked and its answer read; reward.json in its folder."""

    reward: str  # the reward that reads this folder
    tokens: tuple[str, ...]  # special tokens of the template at which the head reads
    template: str  # with {prompt}
    pixels: tuple[int, int]  # least and most, of a frame
    mean: tuple[float, ...] = ()  # of each token's number, to be taken off
    std: tuple[float, ...] = ()


VIDEO_TEMPLATE = """Rate a generated video from 0 (worst) to 10 (best) on three points, each on its own.

Visual quality, of the frames: are they sharp, rich in detail, well lit and composed; are bodies and places possible?
The rating of visual quality: <|VQ_reward|>

Motion quality, of what changes: is it steady, smooth, natural and large enough; does everything keep its looks?
The rating of motion quality: <|MQ_reward|>

Text alignment: are subjects, actions, surroundings, style and camera those of the prompt?
The prompt: {prompt}
The rating of text alignment: <|TA_reward|>
"""
IMAGE_TEMPLATE = """Rate a generated picture from 0 (worst) to 10 (best), as people would like it: is it sharp, rich in
detail, well composed and possible, and does it show the subjects, attributes, style and surroundings of the prompt?

The prompt: {prompt}
The rating of this picture: <|Reward|>
"""
PUBLISHED = {
    "video_reward": Settings("video_reward", ("<|VQ_reward|>", "<|MQ_reward|>", "<|TA_reward|>"), VIDEO_TEMPLATE,
                             (128 * 28**2, 448**2), (3.6757, 1.1646, 2.8105), (2.2476, 1.3811, 2.5121)),
    "hpsv3": Settings("hpsv3", ("<|Reward|>",), IMAGE_TEMPLATE, (256 * 28**2, 256 * 28**2)),
}
SOURCES = {"video_reward": ("KwaiVGI/VideoReward", "model_config.json", "Qwen/Qwen2-VL-2B-Instruct"),
           "hpsv3": ("MizzenAI/HPSv3", "HPSv3.safetensors", "Qwen/Qwen2-VL-7B-Instruct")}
PREPARE = {name: f"make the folder once with: hf download {source}; hf download {base} --include '*.json' '*.txt'; "
                 f"python -m rewards.reward_head {name}" for name, (source, _, base) in SOURCES.items()}


def load_settings(folder: Path, reward: str) -> Settings:
    """reward.json of `folder`; ValueError where it is none, or of another reward."""
    path = folder / SETTINGS
    try:
        told = json.loads(path.read_text())
        found = Settings(**{key: tuple(value) if isinstance(value, list) else value for key, value in told.items()})
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not what python -m rewards.reward_head writes: {error}") from error
    if found.reward != reward:
        raise ValueError(f"{path}: expected the settings of {reward}, got those of {found.reward!r}")
    return found


def build_head(state: Mapping[str, Tensor], width: int) -> nn.Module:
    """The head of these tensors: linear layers, a ReLU between them. ValueError where they do not fit together."""
    names = sorted({key.rpartition(".")[0] for key in state}, key=lambda name: int(name or 0))
    layers: list[nn.Module] = []
    for name in names:
        prefix = f"{name}." if name else ""
        rows, columns = state[f"{prefix}weight"].shape
        if columns != width:
            raise ValueError(f"reward head: expected a layer of {width} inputs, got {columns}")
        linear = nn.Linear(columns, rows, bias=f"{prefix}bias" in state)
        linear.load_state_dict({key: state[f"{prefix}{key}"].float() for key in linear.state_dict()})
        layers += [nn.ReLU(), linear]
        width = rows
    if not layers:
        raise ValueError("reward head: expected at least one linear layer, got none")
    return nn.Sequential(*layers[1:])


def load_head(folder: Path, width: int) -> nn.Module:
    """The head of `folder`, float32 and frozen. MissingWeights where there is none."""
    if not (folder / HEAD).is_file():
        raise MissingWeights(f"found no {folder / HEAD}; make the folder again with python -m rewards.reward_head")
    return build_head(load_state(folder / HEAD), width).eval().requires_grad_(False)


def merged(state: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """A peft state dict as plain weights: W + scale * B A (Hu et al., 2021), saved modules in their place."""
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        key = key.removeprefix("base_model.model.")
        if ".original_module." in key or ".lora_" in key:
            continue
        if key.endswith(".base_layer.weight"):
            stem = key.removesuffix(".base_layer.weight")
            down, up = (state[f"base_model.model.{stem}.lora_{part}.default.weight"] for part in "AB")
            value = (value.float() + scale * up.float() @ down.float()).to(value.dtype)
        found[key.replace(".base_layer.", ".").replace(".modules_to_save.default.", ".")] = value
    return found


def divided(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of `Qwen2VLModel` and of the head, from a checkpoint of any version of transformers."""
    head = {key.removeprefix("rm_head."): value for key, value in state.items() if key.startswith("rm_head.")}
    body = {}
    for key, value in state.items():
        if key.startswith(("rm_head.", "lm_head.")):
            continue
        key = key.removeprefix("model.")
        body[key if key.startswith(("visual.", "language_model.")) else f"language_model.{key}"] = value
    return body, head


def read_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Plain weights and the authors' configuration from a published folder; a pickle's tensors only, nothing is run."""
    path = folder / "model_config.json"
    config = json.loads(path.read_text()) if path.is_file() else {}
    files = [*sorted(folder.glob("*.safetensors")), *folder.glob("model.pth"),
             *sorted(folder.glob("checkpoint-*/model.pth"), key=lambda file: int(file.parent.name.split("-")[1]))]
    if not files:
        raise MissingWeights(f"{folder}: expected HPSv3.safetensors or checkpoint-*/model.pth, found neither")
    state = load_state(files[-1])
    lora = config.get("peft_lora_config", {})
    if not any(".lora_" in key for key in state):
        return merged(state, 0.0), config
    rank = lora["lora_r"]
    return merged(state, lora["lora_alpha"] / (math.sqrt(rank) if lora.get("use_rslora") else rank)), config


def read_template(source: str) -> str:
    """Text with {prompt} from FILE, or from the string constants NAME+NAME of FILE.py, which is not run.

    ValueError where there is no such constant or no place for the prompt.
    """
    path, _, names = source.partition(".py:")
    text = Path(f"{path}.py" if names else path).read_text()
    if names:
        wanted = names.split("+")
        told = {target.id: next((part.value for part in ast.walk(node.value) if isinstance(part, ast.Constant)), None)
                for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Assign)
                for target in node.targets if isinstance(target, ast.Name) and target.id in wanted}
        if lost := [name for name in wanted if not isinstance(told.get(name), str)]:
            raise ValueError(f"{source}: found no string called {', '.join(lost)}")
        text = "".join(told[name] for name in wanted)
    for theirs in ("{text_prompt}", "$t2v_prompt"):
        text = text.replace(theirs, "{prompt}")
    if "{prompt}" not in text:
        raise ValueError(f"{source}: expected text with {{prompt}}, {{text_prompt}} or $t2v_prompt")
    return text


def prepare(reward: str, source: Path, base: Path, out: Path, template: str | None = None) -> Settings:
    """Write the folder `out` that `load_reward(reward, model=out)` loads.

    source: the published checkpoint; base: configuration and tokenizer of the Qwen2-VL that it was made of. ValueError
    where the checkpoint does not fill that network.
    """
    from safetensors.torch import save
    from transformers import AutoConfig, Qwen2VLModel

    state, theirs = read_checkpoint(source)
    body, head = divided(state)
    settings = PUBLISHED[reward] if template is None else replace(PUBLISHED[reward], template=template)
    if scales := theirs.get("inference_config"):
        mean, std = ([scales[f"{name}_{part}"] for name in ("VQ", "MQ", "TA")] for part in ("mean", "std"))
        settings = replace(settings, mean=tuple(mean), std=tuple(std))
    tokenizer = load_tokenizer(base)
    tokenizer.add_tokens(list(settings.tokens), special_tokens=True)
    config = AutoConfig.from_pretrained(base, local_files_only=True, trust_remote_code=False)
    config.text_config.vocab_size = len(body["language_model.embed_tokens.weight"])
    build_head(head, config.text_config.hidden_size)
    with torch.device("meta"):
        model = Qwen2VLModel(config)
    try:
        model.load_state_dict(body, assign=True)
    except RuntimeError as error:
        raise ValueError(f"{source}: not a checkpoint of {base}: {str(error)[:500]}") from error
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    write_atomic(out / HEAD, save({key: value.contiguous() for key, value in head.items()}))
    write_atomic(out / SETTINGS, (json.dumps(asdict(settings), indent=1) + "\n").encode())
    return settings


def main(argv: Sequence[str] | None = None) -> int:
    """Find the published files, convert them, and say where the folder is."""
    parser = argparse.ArgumentParser(prog="python -m rewards.reward_head", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reward", choices=list(PUBLISHED))
    parser.add_argument("--source", metavar="DIR|HUB", help="the published checkpoint (default: that on the hub)")
    parser.add_argument("--base", metavar="DIR|HUB", help="the Qwen2-VL that it was made of: config.json, tokenizer")
    parser.add_argument("--template", metavar="FILE[.py:NAME+NAME]", help="the wording that it was trained with")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: where the reward looks for it")
    args = parser.parse_args(argv)
    source, needed, base = SOURCES[args.reward]
    try:
        folders = [find_model(name, file, f"get it with: hf download {name}")
                   for name, file in ((args.source or source, needed), (args.base or base, "config.json"))]
        out = args.out or Path(put_it_there(source))
        prepare(args.reward, *folders, out, None if args.template is None else read_template(args.template))
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    print(f"written to {out}: load_reward({args.reward!r}, model={str(out)!r})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
