"""Low-rank adapters (Hu et al., 2021) through peft. With the adapter off, a policy is its own ref_model."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

NAME = "policy"
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
TARGETS = {"attention": ATTENTION, "all": (*ATTENTION, "ffn.net.0.proj", "ffn.net.2")}


@dataclass(frozen=True)
class Lora:
    """Rank, the scale alpha / rank of what the adapter adds, and the layers that get one (ends of their names)."""

    rank: int = 32
    alpha: float = 32.0
    targets: tuple[str, ...] = TARGETS["all"]


def add_adapter(transformer: nn.Module, lora: Lora, seed: int = 0) -> None:
    """Freeze the transformer and put a trainable adapter beside its layers, which at first adds nothing.

    The weights as they are become ref_model: earlier adapters must have been merged. ValueError where one is there.
    """
    from peft import LoraConfig

    if is_adapted(transformer):
        raise ValueError("expected a transformer without an adapter: merge the one it has first")
    transformer.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer.add_adapter(LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=list(lora.targets)), NAME)
    for parameter in adapter_parameters(transformer).values():
        parameter.data = parameter.data.float()  # small steps are lost in bfloat16


def is_adapted(transformer: nn.Module) -> bool:
    """Whether it has an adapter that is not merged."""
    return any("lora_" in name for name, _ in transformer.named_parameters())


def adapter_parameters(transformer: nn.Module) -> dict[str, nn.Parameter]:
    """The adapter's parameters by name, without the adapter's own name in it."""
    return {name.replace(f".{NAME}.", "."): parameter for name, parameter in transformer.named_parameters()
            if "lora_" in name}


@contextmanager
def reference(transformer: nn.Module) -> Iterator[None]:
    """Within it, the transformer is ref_model: as it was before the adapter. Only for use without gradient."""
    if not is_adapted(transformer):
        raise ValueError("expected a transformer with an adapter: without one there is no ref_model")
    transformer.disable_adapters()
    try:
        yield
    finally:
        transformer.enable_adapters()


@torch.no_grad()
def load_adapter(transformer: nn.Module, values: dict[str, Tensor]) -> None:
    """Fill the adapter; ValueError where names or shapes are not its own."""
    mine = adapter_parameters(transformer)
    wrong = set(mine) ^ set(values) or {name for name in mine if mine[name].shape != values[name].shape}
    if wrong:
        raise ValueError(f"not the adapter of this transformer: {len(wrong)} tensors differ, first {sorted(wrong)[0]}")
    for name, parameter in mine.items():
        parameter.copy_(values[name])


def merge_adapter(transformer: nn.Module, scale: float = 1.0) -> None:
    """Add `scale` times what the adapter says to the weights and take it away; 0 leaves ref_model."""
    transformer.fuse_lora(lora_scale=scale)
    transformer.unload_lora()
