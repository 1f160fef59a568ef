"""Which factors of the world are asked for, and the answers that there are."""
from __future__ import annotations

from evalkit.data.scene import (
    CAMERA_SPEEDS,
    CAMERAS,
    COLOURS,
    DIRECTIONS,
    GRADES,
    LIGHTS,
    PACES,
    PATHS,
    PATTERNS,
    SHAPES,
    SIZES,
    TEXTURES,
)

YES_NO = ("no", "yes")
CLASSES: dict[str, tuple[str, ...]] = {
    "shape": SHAPES, "colour": tuple(COLOURS), "size": tuple(SIZES), "texture": TEXTURES, "path": PATHS,
    "direction": tuple(DIRECTIONS), "pace": tuple(PACES), "count": ("1", "2", "3"), "ground": tuple(COLOURS),
    "pattern": PATTERNS, "horizon": YES_NO, "camera": CAMERAS, "camera_speed": ("none", *CAMERA_SPEEDS),
    "light": LIGHTS, "grade": GRADES, "lines": YES_NO, "post": YES_NO, "cut": YES_NO,
    "cut_ground": ("none", *COLOURS), "cut_pattern": ("none", *PATTERNS),
}
