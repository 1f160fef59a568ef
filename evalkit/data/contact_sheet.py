"""A scene as one picture: frames over time with the state written beside them."""
from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np

from evalkit.data.captions import REGISTERS, caption, claims
from evalkit.data.corruptions import corrupt
from evalkit.data.scene import FPS, NUM_FRAMES, Scene
from evalkit.data.synthetic import render_scene

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE, COLUMNS, ROWS, GAP, TEXT = 192, 4, 2, 6, 460  # pixels, and frames
INK, FAINT, PAPER = (28, 30, 34), (110, 114, 120), (250, 250, 248)


def draw_scene(scene: Scene, defect: tuple[str, int] | None = None) -> Image:
    """Eight frames in reading order, each with its second, and to their right captions and every factor.

    defect: name and severity of a corruption that is put on the clip first.
    """
    from PIL import Image, ImageDraw, ImageFont

    frames = render_scene(scene, size=SIDE)
    if defect is not None:
        frames = corrupt(frames, *defect, seed=scene.seed, fps=FPS)
    picked = [round(k * (NUM_FRAMES - 1) / (ROWS * COLUMNS - 1)) for k in range(ROWS * COLUMNS)]
    font, bold = ImageFont.load_default(size=13), ImageFont.load_default(size=16)
    lines = _lines(scene, defect)
    height = max(ROWS * (SIDE + 22 + GAP), 18 * len(lines)) + 2 * GAP
    sheet = Image.new("RGB", (COLUMNS * (SIDE + GAP) + TEXT + 3 * GAP, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    for place, index in enumerate(picked):
        x, y = GAP + place % COLUMNS * (SIDE + GAP), GAP + place // COLUMNS * (SIDE + 22 + GAP)
        sheet.paste(Image.fromarray(np.ascontiguousarray(frames[index].permute(1, 2, 0).numpy())), (x, y))
        draw.text((x, y + SIDE + 3), f"{index / FPS:.2f} s", FAINT, font)
    left = COLUMNS * (SIDE + GAP) + 3 * GAP
    for number, (name, text) in enumerate(lines):
        y = GAP + 18 * number
        draw.text((left, y), name, FAINT if text else INK, font if text else bold)
        draw.text((left + 105, y), text, INK, font)
    return sheet


def _lines(scene: Scene, defect: tuple[str, int] | None) -> list[tuple[str, str]]:
    """(name, text) of every line; a heading has no text."""
    found = [(f"seed {scene.seed}" + (f", {defect[0]} at severity {defect[1]}" if defect else ""), "")]
    for register in REGISTERS:
        wrapped = textwrap.wrap(caption(scene, register), 50)
        found += [(register if number == 0 else " ", line) for number, line in enumerate(wrapped)]
    return [*found, (" ", " "), *((name, value) for name, value in claims(scene).items() if value)]
