"""The attacks every reward must survive: how to please it without a better video; defects are those of evalkit."""
from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import entry_points

import torch
from torch import Tensor

from evalkit.data.corruptions import CORRUPTIONS, corrupt

GROUP = "evalkit.hacks"
PLAIN = 3  # the severity of most: a defect that nobody overlooks
Score = Callable[[Tensor], Tensor]  # float (1, T, 3, H, W) in [0, 1] -> (1,), with gradient
PATCH = 4  # the patch's side is a fourth of the short side: 1/16 of a square picture
PATCH_STEPS, PATCH_STEP = 6, 0.15  # of signed gradient, each this long in [0, 1]: black reaches white


@dataclass(frozen=True)
class Hack:
    """hack(frames, seed, fps) -> frames: uint8 (T, 3, H, W) with T >= 2 in and out, the same for the same seed.

    summary: what it does to a clip. why: what a reward that falls for it teaches a model. white_box: the function
    takes a fourth argument, `score`, the attacked reward of one clip, and follows its gradient.
    """

    name: str
    summary: str
    why: str
    function: Callable[..., Tensor]
    white_box: bool = False

    def __call__(self, frames: Tensor, seed: int, fps: float, score: Score | None = None) -> Tensor:
        """The hacked twin. ValueError for frames of another kind, a missing score, and a twin that is no such clip."""
        if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[1] != 3 or len(frames) < 2:
            raise ValueError(f"frames: expected uint8 (T, 3, H, W) of at least 2 frames, got {frames.dtype} "
                             f"{tuple(frames.shape)}")
        if self.white_box and score is None:
            raise ValueError(f"{self.name}: expected the score that it attacks, got None")
        twin = self.function(frames, seed, fps, score) if self.white_box else self.function(frames, seed, fps)
        if not isinstance(twin, Tensor) or twin.dtype != torch.uint8 or twin.shape != frames.shape:
            got = f"{twin.dtype} {tuple(twin.shape)}" if isinstance(twin, Tensor) else type(twin).__name__
            raise ValueError(f"{self.name}: expected uint8 {tuple(frames.shape)} from the hack, got {got}")
        return twin


def _dialled(defect: str, why: str, severity: int = PLAIN, name: str = "") -> Hack:
    def function(frames: Tensor, seed: int, fps: float) -> Tensor:
        return corrupt(frames, defect, severity, seed=seed, fps=fps)

    return Hack(name or defect, f"{CORRUPTIONS[defect].summary} Severity {severity}.", why, function)


def one_good_frame(frames: Tensor, seed: int, fps: float) -> Tensor:
    """All frames but the middle one become white noise."""
    generator = torch.Generator().manual_seed(seed)
    junk = torch.randint(0, 256, frames.shape, generator=generator, dtype=torch.uint8).to(frames.device)
    middle = len(frames) // 2
    junk[middle] = frames[middle]
    return junk


def adversarial_patch(frames: Tensor, seed: int, fps: float, score: Score) -> Tensor:
    """One square patch, the same in every frame, found by projected gradient ascent on the reward.

    It lies at a random place and starts as what it covers in the middle frame; of the steps the best is kept, as
    8-bit video would store it. ValueError where the score has no gradient.
    """
    height, width = frames.shape[-2:]
    side = max(1, min(height, width) // PATCH)
    generator = torch.Generator().manual_seed(seed)
    top, left = (int(torch.randint(0, n - side + 1, (), generator=generator)) for n in (height, width))
    here = (..., slice(top, top + side), slice(left, left + side))
    clean = frames.float() / 255
    patch, best, kept = clean[len(frames) // 2][here].clone(), -float("inf"), frames
    for step in range(PATCH_STEPS + 1):
        patch = ((patch * 255).round() / 255).requires_grad_()
        pasted = clean.clone()
        pasted[here] = patch
        with torch.enable_grad():
            value = score(pasted[None]).sum()
        if not value.requires_grad:
            raise ValueError("adversarial_patch: expected a reward with a gradient, got one without")
        if step and value.item() > best:  # step 0 is only covered, not attacked yet
            best, kept = value.item(), (pasted.detach() * 255).round().to(torch.uint8)
        if step < PATCH_STEPS:
            slope = torch.autograd.grad(value, patch)[0].nan_to_num()
            patch = (patch.detach() + PATCH_STEP * slope.sign()).clamp(0, 1)
    return kept


_STILL = "pays for standing still: what does not move cannot flicker, jerk or tear"
_MEAN = "pays for mixing frames: neighbours that share pixels look consistent"
_TASTE = "pays without end for a property of which a picture wants some"
_DIRT = "does not see plain damage, so that nothing keeps a model from it"
OURS = (
    _dialled("static", _STILL, severity=5),  # severity 5 is the still; below it is judder
    _dialled("repeat", _STILL, severity=1, name="repeat_x2"),
    _dialled("repeat", _STILL, severity=3, name="repeat_x4"),
    _dialled("slow_motion", "pays for less motion, down to none"),
    _dialled("crossfade", _MEAN),
    _dialled("temporal_blur", _MEAN),
    _dialled("ghosting", _MEAN),
    _dialled("blur", "pays for smoothness: blur removes what could look wrong", name="spatial_blur"),
    _dialled("over_sharpen", _TASTE),
    _dialled("over_saturation", _TASTE),
    _dialled("over_exposure", _TASTE),
    _dialled("desaturation", "pays for grey, in which no colour can be wrong"),
    _dialled("grid", "takes a regular pattern for detail"),
    _dialled("border", "pays for covering part of the picture"),
    _dialled("caption_overlay", "takes writing on the picture for sharpness, contrast or content"),
    _dialled("luma_flicker", _DIRT),
    _dialled("colour_flicker", _DIRT),
    _dialled("noise", "takes noise for detail"),
    _dialled("blocks", _DIRT),
    _dialled("camera_jitter", "takes trembling for motion"),
    _dialled("shuffle", "looks at frames one by one: their order is free"),
    _dialled("reverse", "looks at frames or unordered pairs: the arrow of time is free"),
    _dialled("vanish", "does not see that a thing is gone", name="object_vanishes"),
    Hack("one_good_frame", one_good_frame.__doc__ or "", "looks at one frame only", one_good_frame),
    Hack("adversarial_patch", (adversarial_patch.__doc__ or "").splitlines()[0],
         "has a gradient towards pixels that mean nothing", adversarial_patch, white_box=True),
)
# Those that a reward of steadiness and looks has to see; the others are a matter of taste, or of a white box.
MUST_SEE = ("static", "repeat_x2", "repeat_x4", "crossfade", "temporal_blur", "spatial_blur", "luma_flicker",
            "colour_flicker", "noise", "camera_jitter", "shuffle", "object_vanishes", "ghosting", "blocks")


@lru_cache(maxsize=1)
def available_hacks() -> dict[str, Hack]:
    """Every hack by name: ours, then those that installed packages announce as `evalkit.hacks`.

    Such an entry point is a Hack, or a callable (frames, seed, fps) -> frames, or (frames, seed, fps, score).
    ValueError where it is neither or takes a name that is in use.
    """
    found = {hack.name: hack for hack in OURS}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        if entry.name in found:
            raise ValueError(f"{entry.value}: expected a new name for a hack, got {entry.name!r}, which there is")
        found[entry.name] = as_hack(entry.name, entry.load())
    return found


def as_hack(name: str, made: Hack | Callable[..., Tensor]) -> Hack:
    """A plug-in as a Hack called `name`. ValueError where it is no Hack and cannot be called as one."""
    if isinstance(made, Hack):
        return made if made.name == name else Hack(name, made.summary, made.why, made.function, made.white_box)
    taken = len(inspect.signature(made).parameters) if callable(made) else 0
    if taken not in (3, 4):
        raise ValueError(f"hack {name!r}: expected a Hack or a callable (frames, seed, fps[, score]), got {made!r}")
    summary = (inspect.getdoc(made) or name).splitlines()[0]
    return Hack(name, summary, "", made, white_box=taken == 4)


def pick_hacks(names: Iterable[str] | None = None) -> dict[str, Hack]:
    """Those called `names`, in that order; all for None. ValueError for an unknown name, naming those there are."""
    known = available_hacks()
    names = list(known) if names is None else list(dict.fromkeys(names))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"unknown hack {', '.join(map(repr, unknown))}; there are: {', '.join(known)}")
    return {name: known[name] for name in names}
