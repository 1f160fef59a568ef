"""Every rung's samples of the same held-out prompts and seeds, and how far a rung has gone from its reference."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from baselines.checkpoints import load_model
from baselines.ladder_rungs import Config
from baselines.model import VideoDiffusion
from baselines.objectives import add_noise, sample_t, squared_error, velocity
from evalkit.data.captions import caption
from evalkit.data.scene import SPLITS, Scene, make_scene
from evalkit.data.synthetic import render_scenes

FIRST_SEED = 30_000_000  # of samples: no training draws them
REAL, REFERENCE = 400_000, 500_000  # first seeds of real clips within the test split, behind all prompts
COMPARED = 256  # clips on which a rung is compared with its reference
RENDERED = 64
CLOSE = 0.03  # of the distance that is to be matched


class HeldOutSamples:
    """Prompts with `samples` seeds each, side by side; what all rungs share is made once."""

    def __init__(self, config: Config, model: VideoDiffusion) -> None:
        self.config, self.device = config, model.device
        self.scenes = held_out_scenes(config.prompts)
        self.prompts = [prompt for prompt in self.scenes for _ in range(config.samples)]
        rows = {prompt: model.encode_prompts([prompt]) for prompt in self.scenes}  # alone, whatever the others are
        self.text = torch.cat([rows[prompt] for prompt in self.prompts])
        self._noise: dict[int, Tensor] = {}

    @torch.no_grad()
    def __call__(self, model: VideoDiffusion, count: int | None = None, guidance: float = 0.0,
                 steps: int = 0) -> Tensor:
        """uint8 (count, T, 3, H, W) on the device, of the first prompts; 0: as the ladder samples."""
        config, size = self.config, self.config.sample_batch
        count = len(self.prompts) if count is None else min(count, len(self.prompts))
        found = []
        for start in range(0, count, size):
            text = self.text[start: start + size]  # whole batches: a sample must not depend on how many are asked for
            latents = model.sample_latents(text, self._drawn(model, start, len(text)), steps or config.sample_steps,
                                           guidance or config.guidance)
            found.append((255 * model.decode(latents)).round().to(torch.uint8))
        return torch.cat(found)[:count]

    def _drawn(self, model: VideoDiffusion, start: int, count: int) -> Tensor:
        if start not in self._noise:
            self._noise[start] = model.noise(range(FIRST_SEED + start, FIRST_SEED + start + count)).cpu()
        return self._noise[start].to(self.device)

    def real(self) -> Tensor:
        """Clean clips of the same prompts."""
        contents = [content for content in self.scenes.values() for _ in range(self.config.samples)]
        first = SPLITS["test"] + REAL
        return self._render([make_scene(first + k, content, "simple") for k, content in enumerate(contents)])

    def reference(self) -> Tensor:
        """As many clean clips of other scenes, to measure distances from."""
        first = SPLITS["test"] + REFERENCE
        return self._render([make_scene(first + k, level="simple") for k in range(len(self.prompts))])

    def _render(self, scenes: Sequence[Scene]) -> Tensor:
        return torch.cat([render_scenes(scenes[k: k + RENDERED], device=str(self.device))
                          for k in range(0, len(scenes), RENDERED)])


def held_out_scenes(count: int) -> dict[str, int]:
    """Distinct terse captions of the world's test split -> the content that they tell: those of `world_prompts`."""
    found: dict[str, int] = {}
    seed = SPLITS["test"]
    while len(found) < count:
        found.setdefault(caption(make_scene(seed, level="simple")), seed)
        seed += 1
    return found


@torch.no_grad()
def distance(model: VideoDiffusion, ref_model: VideoDiffusion, frames: Tensor, text: Tensor) -> dict[str, float]:
    """How far a model has gone from its reference, on its own samples: uint8 (N, T, 3, H, W), `text` their states.

    kl: 1/2 E |v(x_t) - v_ref(x_t)|^2, a mean over numbers and over t and noise as in training. For a model that
    knows its own samples it equals implicit: 1/2 E (|v_ref(x_t) - v*|^2 - |v(x_t) - v*|^2), which is the expected
    log-ratio that the logit of Diffusion-DPO holds, in the units that beta multiplies; guidance parts the two.
    """
    generator, sums, count = torch.Generator().manual_seed(0), torch.zeros(2), 0
    with _exactly(model), _exactly(ref_model), torch.compiler.set_stance("force_eager"):  # few calls
        for start in range(0, min(len(frames), COMPARED), RENDERED):
            x = model.encode(frames[start: start + RENDERED])
            states = text[start: start + len(x)]
            t = sample_t(len(x), generator, model.preset.shift).to(x.device)
            noise = torch.randn(x.shape, generator=generator).to(x.device)
            x_t, target = add_noise(x, noise, t), velocity(x, noise)
            own, other = (one.velocity(x_t, t, states) for one in (model, ref_model))
            implicit = squared_error(other, target) - squared_error(own, target)
            sums += torch.stack([squared_error(own, other).sum(), implicit.sum()]).cpu() / 2
            count += len(x)
    kl, implicit = (sums / count).tolist()
    return {"kl": kl, "implicit": implicit}


@contextmanager
def _exactly(model: VideoDiffusion) -> Iterator[None]:
    """Within it a model computes in float32: the distance of two models near each other is small."""
    before, model.dtype = model.dtype, torch.float32
    try:
        yield
    finally:
        model.dtype = before


def matching_scale(folder: str, kl: float, held: HeldOutSamples, ref_model: VideoDiffusion,
                   load: Callable[..., VideoDiffusion] = load_model) -> float:
    """The scale of a folder's adapter at which it is as far as `kl` from the reference; 1 where it is nearer anyway.

    The distance grows as about the square of the scale.
    """
    scale = 1.0
    for _ in range(5):
        model = load(folder, scale).to(held.device)
        model.compile()
        frames = held(model, COMPARED)
        found = distance(model, ref_model, frames, held.text)["kl"]
        if found <= 0 or abs(found / kl - 1) < CLOSE or (scale == 1 and found < kl):
            break
        scale *= (kl / found) ** 0.5
    return round(scale, 4)
