"""A scene as one picture: frames over time, captions below them, and every factor of the state to their right."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from evalkit.data.captions import REGISTERS, caption, claims
from evalkit.data.corruptions import corrupt
from evalkit.data.scene import COLOURS, FPS, NUM_FRAMES, Scene, split_of
from evalkit.data.synthetic import render_scene

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

MARGIN, GAP, LINE, UNDER = 20, 8, 20, 22  # pixels: around, between frames, of a line of text, of a frame's time
NAMES, VALUES = 110, 210  # widths of the factors' columns
LEAST_WIDTH = 560  # of the captions, however few and small the frames are
INK, FAINT, RULE, ALARM, PAPER = (28, 30, 34), (120, 124, 130), (226, 226, 222), (190, 40, 30), (250, 250, 248)


def draw_scene(scene: Scene, defect: tuple[str, int] | None = None, num_frames: int = 8, size: int = 192) -> Image:
    """`num_frames` of the world's 16, evenly spread, in one or two rows, with all that is true of the scene.

    defect: name and severity of a corruption that is put on the clip first. size: pixels a side of each frame.
    ValueError for another number of frames, a size that is not positive, and as `corrupt`.
    """
    from PIL import Image, ImageDraw, ImageFont

    if not 1 <= num_frames <= NUM_FRAMES:
        raise ValueError(f"expected 1 to {NUM_FRAMES} frames, got {num_frames}")
    frames = render_scene(scene, size=size)
    if defect is not None:
        frames = corrupt(frames, *defect, seed=scene.seed, fps=FPS)
    fonts = {pixels: ImageFont.load_default(size=pixels) for pixels in (12, 14, 20)}
    columns = num_frames if num_frames <= 4 else (num_frames + 1) // 2
    width = max(columns * (size + GAP) - GAP, LEAST_WIDTH)
    told = {register: _wrapped(caption(scene, register), fonts[14], width) for register in REGISTERS}
    factors = {name.replace("_", " "): value or "none" for name, value in claims(scene).items()}
    top = MARGIN + 36
    below = top + (num_frames + columns - 1) // columns * (size + UNDER)
    bottom = max(below + sum(LINE * (len(lines) + 1) + GAP for lines in told.values()), top + LINE * len(factors))
    sheet = Image.new("RGB", (width + NAMES + VALUES + 4 * MARGIN, bottom + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    title = f"seed {scene.seed}, {split_of(scene.content)} split"
    draw.text((MARGIN, MARGIN - 4), title, INK, fonts[20])
    if defect is not None:
        beside = MARGIN + fonts[20].getlength(title) + 16
        draw.text((beside, MARGIN + 1), f"{defect[0]} at severity {defect[1]}", ALARM, fonts[14])
    for place, index in enumerate(np.linspace(0, NUM_FRAMES - 1, num_frames).round().astype(int).tolist()):
        x, y = MARGIN + place % columns * (size + GAP), top + place // columns * (size + UNDER)
        sheet.paste(Image.fromarray(np.ascontiguousarray(frames[index].permute(1, 2, 0).numpy())), (x, y))
        draw.text((x, y + size + 3), f"{index / FPS:.2f} s", FAINT, fonts[12])
    _draw_captions(draw, told, below, fonts)
    _draw_factors(draw, factors, width + 3 * MARGIN, top, fonts)
    return sheet


def _draw_captions(draw: ImageDraw, told: dict[str, list[str]], y: int, fonts: dict[int, Any]) -> None:
    for register, lines in told.items():
        draw.text((MARGIN, y + 3), register, FAINT, fonts[12])
        for number, line in enumerate(lines, 1):
            draw.text((MARGIN, y + LINE * number), line, INK, fonts[14])
        y += LINE * (len(lines) + 1) + GAP


def _draw_factors(draw: ImageDraw, factors: dict[str, str], x: int, y: int, fonts: dict[int, Any]) -> None:
    """A line for each, colours with a patch of their paint."""
    for name, value in factors.items():
        draw.text((x, y + 2), name, FAINT, fonts[12])
        if value in COLOURS:
            draw.rectangle((x + NAMES, y + 4, x + NAMES + 10, y + 14), COLOURS[value], RULE)
        draw.text((x + NAMES + 18 * (value in COLOURS), y), value, INK, fonts[14])
        draw.line((x, y + LINE - 1, x + NAMES + VALUES, y + LINE - 1), RULE)
        y += LINE


def _wrapped(text: str, font: Any, width: int) -> list[str]:
    """The words in lines of at most `width` pixels."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) > width and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
