"""Where to compute."""
from __future__ import annotations

import os
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
