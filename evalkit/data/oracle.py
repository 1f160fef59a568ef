"""The oracle: what is in a clip of the made-up world, read back from pixels alone, and whether a prompt holds of it.

A network of its own (trained on the world, used by no reward and no metric, sharing nothing with one), so that it can
judge what those improved. `python benchmarks/oracle.py` prints its accuracy, clean and damaged.
"""
from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from evalkit.clips import ClipSpec
from evalkit.data.captions import parse
from evalkit.data.corruptions import available_corruptions
from evalkit.data.defect_reader import DefectReader
from evalkit.data.oracle_network import OracleNetwork
from evalkit.data.scene import FPS, NUM_FRAMES, SIZE
from evalkit.devices import at_once
from evalkit.features.preprocess import to_square
from evalkit.mini.classes import CLASSES

# Two seconds from the start, the central square: what the world renders, whatever the file's own rate and size.
ORACLE_CLIP = ClipSpec(num_frames=NUM_FRAMES, min_frames=NUM_FRAMES, placement="start", fps=FPS, size=SIZE, crop=SIZE)
BATCH = {"cpu": 16, "cuda": 256}  # clips at a time


@dataclass(frozen=True)
class Reading:
    """What the oracle sees in one clip.

    factors: every factor of captions.FACTORS -> its likeliest value ("others" lists what is beside the subject);
    confidence: factor -> probability of that value; speed of the subject in short sides a second; defects: corruption
    -> probability that it is there; severities: corruption -> 0..5, read as if it were.
    """

    factors: dict[str, str]
    confidence: dict[str, float]
    speed: float
    defects: dict[str, float]
    severities: dict[str, float]

    def agrees(self, prompt: str) -> dict[str, bool]:
        """Claims of a prompt of the world -> whether the clip shows them. ValueError as captions.parse."""
        return {factor: self.factors[factor] == value for factor, value in parse(prompt).items()}

    def broken(self, threshold: float = 0.5) -> list[str]:
        """The defects more likely there than `threshold`, likeliest first."""
        found = [name for name, probability in self.defects.items() if probability > threshold]
        return sorted(found, key=lambda name: -self.defects[name])


@lru_cache(maxsize=1)
def load_oracle() -> tuple[OracleNetwork, DefectReader]:
    """The shipped networks, frozen, on the CPU: one reads the scene, the other what is broken."""
    from evalkit.mini.weights import load_shipped

    network, reader = build_oracle(), DefectReader(len(available_corruptions()))
    load_shipped(network, "oracle")
    load_shipped(reader, "defects")
    return network.eval().requires_grad_(False), reader.eval().requires_grad_(False)


def build_oracle() -> OracleNetwork:
    """The network with random weights. Its heads for defects serve its training: `DefectReader` reads them better."""
    defects = len(available_corruptions())
    asked = {name: len(values) for name, values in CLASSES.items() if name not in ("shape", "colour")}
    return OracleNetwork(asked | {"defects": defects, "severity": defects, "speed": 1},
                         shapes=len(CLASSES["shape"]), colours=len(CLASSES["colour"]))


@torch.no_grad()
def read_frames(frames: Tensor, networks: tuple[OracleNetwork, DefectReader] | None = None) -> list[Reading]:
    """A reading of each of (B, 16, 3, H, W) frames, uint8 or float in [0, 1], at 8 frames a second.

    Frames of other sizes are brought to 64 x 64, which leaves traces: defects are read well of clips made at 64 pixels.
    ValueError for another shape or number of frames.
    """
    if frames.ndim != 5 or frames.shape[1:3] != (NUM_FRAMES, 3):
        raise ValueError(f"oracle: expected (B, {NUM_FRAMES}, 3, H, W), got {tuple(frames.shape)}")
    network, reader = load_oracle() if networks is None else networks
    device = next(network.parameters()).device
    readings: list[Reading] = []
    for chunk in frames.split(at_once(BATCH, device)):
        chunk = chunk.to(device)
        chunk = to_square(chunk.float() if chunk.is_floating_point() else chunk.float() / 255, SIZE)
        readings += _readings({name: answer.float().cpu() for name, answer in (network(chunk) | reader(chunk)).items()})
    return readings


def _readings(answers: dict[str, Tensor]) -> list[Reading]:
    names, asked = available_corruptions(), [name for name in CLASSES if name in answers]
    likeliest = {name: answers[name].softmax(-1).max(-1) for name in (*asked, "shapes", "colours")}
    best = {name: found.indices.tolist() for name, found in likeliest.items()}  # lists: a tensor's entries are slow
    sure = {name: found.values.tolist() for name, found in likeliest.items()}
    speeds, defects = answers["speed"][:, 0].tolist(), answers["defects"].sigmoid().tolist()
    severities = (5 * answers["severity"]).clamp(0, 5).tolist()
    found = []
    for row, speed in enumerate(speeds):
        factors = {name: CLASSES[name][best[name][row]] for name in asked}
        confidence = {name: sure[name][row] for name in asked}
        things = [(CLASSES["shape"][shape], CLASSES["colour"][colour])
                  for shape, colour in zip(best["shapes"][row], best["colours"][row], strict=True)]
        chances = [a * b for a, b in zip(sure["shapes"][row], sure["colours"][row], strict=True)]
        count = int(factors["count"])
        factors["shape"], factors["colour"] = things[0]
        confidence |= {"shape": sure["shapes"][row][0], "colour": sure["colours"][row][0]}
        factors["others"] = ", ".join(sorted(f"{colour} {shape}" for shape, colour in things[1:count]))
        confidence["others"] = min([confidence["count"], *chances[1:count]])
        found.append(Reading(factors, confidence, speed, dict(zip(names, defects[row], strict=True)),
                             dict(zip(names, severities[row], strict=True))))
    return found


def read_video_file(path: str, fps: float | None = None) -> Reading:
    """A reading of the first two seconds of a video. VideoError where it is shorter or cannot be read."""
    from evalkit.data.video import VideoError, read_clips

    clips = read_clips(path, [ORACLE_CLIP], fps=fps)[ORACLE_CLIP]
    if isinstance(clips, VideoError):
        raise clips
    return read_frames(clips[0].frames[None])[0]
