"""Which dialled defect shows which of the four labels of artifacts (2504.21334), and which were never trained on."""
from __future__ import annotations

from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from evalkit.data.corruptions import CORRUPTIONS, SEVERITIES, Dial, corrupt
from rewards.injected_defects import INJECTED

# Boundary and edge defects; texture and noise; anomalies of movement and joints; objects mismatched or gone.
INJECTORS = {
    "boundary": ("blur", "over_sharpen", "blocks", "ghosting", "temporal_blur", "colour_fringe", "wavy_edges",
                 "melting_edges", "broken_edges", "double_edges", "aliased"),
    "texture": ("noise", "banding", "grid", "luma_flicker", "colour_flicker", "mottle", "stripes", "stained",
                "scratches", "lost_tiles", "grain"),
    "movement": ("shuffle", "reverse", "crossfade", "camera_jitter", "dropped_frames", "freeze", "static", "repeat",
                 "slow_motion", "twisting_joint", "speed_jumps"),
    "object": ("vanish", "pop_up", "morph", "recolour", "blink"),
}
LABELS = tuple(INJECTORS)
# One of each label that no training ever shows, fixed before the first network was fitted.
HELD_OUT = {"boundary": "jagged", "texture": "speckle", "movement": "stutter", "object": "swap"}
# Changes of taste and of presentation: none of the four, and shown in training as such.
NEUTRAL = ("desaturation", "over_saturation", "over_exposure", "under_exposure", "contrast_loss", "border",
           "caption_overlay")
CELLS = 8  # along the short side
VISIBLE = 2.0  # code values by which the most changed cell must change in the most changed frame: else nothing is there


def label_of(name: str) -> str | None:
    """The label of a defect, trained or held out; None for a neutral one. ValueError for an unknown name."""
    for label, names in INJECTORS.items():
        if name in (*names, HELD_OUT[label]):
            return label
    if name in NEUTRAL:
        return None
    known = [*(name for names in INJECTORS.values() for name in names), *HELD_OUT.values(), *NEUTRAL]
    raise ValueError(f"unknown injector {name!r}; there are: {', '.join(known)}")


def inject(frames: Tensor, name: str, severity: int, *, seed: int = 0, fps: float | None = None) -> Tensor:
    """uint8 (T, 3, H, W) `frames` with the defect `name`: as `evalkit.data.corruptions.corrupt`, with our own too."""
    if name in CORRUPTIONS:
        return corrupt(frames, name, severity, seed=seed, fps=fps)
    label_of(name)
    corrupt(frames, "shuffle", 0)  # refuses wrong frames
    if severity not in (0, *SEVERITIES):
        raise ValueError(f"severity: expected 0 (unchanged) to 5, got {severity!r}")
    if len(frames) < 2:
        raise ValueError(f"{name}: expected at least 2 frames, got 1")
    if severity == 0:
        return frames.clone()
    rng = np.random.Generator(np.random.PCG64([seed, crc32(name.encode())]))
    result = INJECTED[name].function(frames, Dial(severity, rng, fps or 25.0))
    return result if result.dtype == torch.uint8 else result.clamp(0, 255).round_().to(torch.uint8)
