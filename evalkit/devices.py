"""Where to compute."""
from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Literal

import torch

from evalkit.errors import UsageError


def choose_device(device: str | Literal["auto"]) -> str:
    """"cpu" or "cuda:N": what "auto" or "cuda" stand for here; UsageError where this machine does not have it."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdecimal()) or (kind == "cpu" and index):
        raise UsageError(f"--device: expected auto, cpu, cuda or cuda:N, got {device!r}")
    if kind == "cuda" and int(index) >= torch.cuda.device_count():
        raise UsageError(f"--device {device}: this machine has {torch.cuda.device_count()} CUDA devices; "
                         "use --device cpu, or one of those")
    return device


def at_once(sizes: Mapping[str, int], device: torch.device) -> int:
    """How many rows to compute together: the entry of the device's kind, and the CPU's for kinds without one.

    A processor is fastest on what fits its cache, a GPU where launches are few.
    """
    return sizes.get(device.type, sizes["cpu"])
