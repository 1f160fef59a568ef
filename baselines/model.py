"""One object around diffusers' own classes: prompts and noise to videos, for training and for sampling."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from baselines.latents import latents_of
from baselines.objectives import velocity_of_v
from baselines.patch_codec import PatchCodec
from baselines.presets import Preset, is_patch_codec
from baselines.text import TextEncoder, build_text_encoder
from evalkit.errors import UsageError

LEAST_T = 0.05  # a velocity read from a clean prediction divides by t, by this at least (Li & He, 2025)
COMPILED = 64  # variants of a block: shapes of batches, adapters, with gradient and without
TRAIN_STEPS = 1000  # WanTransformer3DModel is told t times this


class VideoDiffusion:
    """A transformer that predicts velocities, a VAE or none, a text encoder and a scheduler.

    `network` is what is called for velocities: the transformer, or what a trainer wraps around it. With `dtype` other
    than float32 it runs under autocast. `weaker` is what guidance leads away from; None: no prompt.
    """

    def __init__(self, preset: Preset, transformer: nn.Module, text: TextEncoder, vae: nn.Module | None = None) -> None:
        from diffusers import FlowMatchEulerDiscreteScheduler

        self.preset, self.transformer, self.text = preset, transformer, text
        self.vae = None if vae is None else vae.eval().requires_grad_(False)
        self.latents = latents_of(self.vae)
        self.network: Callable[..., Any] = transformer
        self.scheduler = FlowMatchEulerDiscreteScheduler(shift=preset.shift)
        self.dtype = torch.float32
        self.weaker: VideoDiffusion | None = None
        check_frame_count(preset, preset.num_frames)

    @classmethod
    def build(cls, preset: Preset, seed: int = 0) -> VideoDiffusion:
        """With random weights, the same for the same seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            text = build_text_encoder(preset)  # first: it may not be there, and the others can take long
            return cls(preset, build_transformer(preset), text, build_vae(preset))

    @classmethod
    def from_pretrained(cls, preset: Preset, name: str) -> VideoDiffusion:
        """The weights of a diffusers pipeline (folder or hub name), at the clip size of `preset`.

        ValueError where the transformer is not of the preset's shape.
        """
        from diffusers import AutoencoderKLWan, WanTransformer3DModel

        from baselines.attention import FusedRotary

        transformer = WanTransformer3DModel.from_pretrained(name, subfolder="transformer", torch_dtype=torch.bfloat16)
        transformer.set_attn_processor(FusedRotary())
        wrong = {key: transformer.config[key] for key, value in preset.transformer.items()
                 if key in transformer.config and _plain(transformer.config[key]) != _plain(value)}
        if wrong:
            raise ValueError(f"{name}: its transformer is not of this preset: {wrong}")
        vae = AutoencoderKLWan.from_pretrained(name, subfolder="vae", torch_dtype=torch.float32)
        settings = {key: value for key, value in vae.config.items() if not key.startswith("_")}
        return cls(replace(preset, vae=settings), transformer, build_text_encoder(preset, name), vae)

    @property
    def device(self) -> torch.device:
        return next(self.transformer.parameters()).device

    def to(self, device: str | torch.device, dtype: torch.dtype | None = None) -> VideoDiffusion:
        """Move all parts; `dtype` is what the transformer computes in, by default bfloat16 on a GPU."""
        for part in (self.transformer, self.text, self.vae):
            if part is not None:
                part.to(device)
        self.dtype = dtype or (torch.float32 if self.device.type == "cpu" else torch.bfloat16)
        if self.dtype == torch.float32:
            self.transformer.float()  # pipelines come in bfloat16
        return self

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """(C, T, H, W) of the latents of one clip."""
        preset, latents = self.preset, self.latents
        return (latents.channels, (preset.num_frames - 1) // latents.time + 1, preset.height // latents.space,
                preset.width // latents.space)

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """(B, T, 3, H, W), uint8 or float in [0, 1], -> latents (B, C, t, h, w) of about unit variance.

        ValueError for another shape, or a number of frames that the VAE does not bring back.
        """
        if frames.ndim != 5 or frames.shape[2] != 3:
            raise ValueError(f"expected (B, T, 3, H, W), got {tuple(frames.shape)}")
        check_frame_count(self.preset, frames.shape[1])
        frames = frames.to(self.device)
        frames = frames.float() if frames.is_floating_point() else frames.float() / 255
        return self.latents.encode((2 * frames - 1).transpose(1, 2))

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, t, h, w) -> frames (B, T, 3, H, W) float32 in [0, 1]; differentiable."""
        return ((self.latents.decode(latents.float()).float().transpose(1, 2) + 1) / 2).clamp(0, 1)

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """(B, length, dim) states; each distinct prompt is encoded once."""
        distinct = list(dict.fromkeys(prompts))
        rows = torch.tensor([distinct.index(prompt) for prompt in prompts])
        return self.text(distinct)[rows.to(self.text.device)]

    def velocity(self, x_t: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """Predicted noise - x (B, C, t, h, w) in float32, for times t (B,) in [0, 1] and states of the prompts."""
        with self.autocast():
            out = self.network(x_t, t * TRAIN_STEPS, text, return_dict=False)[0].float()
        if self.preset.prediction == "velocity":
            return out
        if self.preset.prediction == "v":
            return velocity_of_v(out, x_t.float(), t)
        return (x_t.float() - out) / t.clamp_min(LEAST_T).reshape(-1, 1, 1, 1, 1)

    def compile(self, dynamic: bool | None = False) -> None:
        """torch.compile on a GPU: one block stands for all, of other models of the same shape too."""
        if self.device.type != "cuda":
            return
        config = torch._dynamo.config
        config.recompile_limit = max(config.recompile_limit, COMPILED)
        self.transformer.compile_repeated_blocks(dynamic=dynamic)
        if self.weaker is not None:
            self.weaker.compile(dynamic)

    def set_attention(self, backend: str) -> None:
        """Compute it by `fa4` (flash-attn-4) or by a backend of diffusers. UsageError where it is not there."""
        if self.weaker is not None:
            self.weaker.set_attention(backend)
        try:
            if backend != "fa4":
                self.transformer.set_attention_backend(backend)
                return
            from baselines.flash4 import check_device  # registers the operator

            check_device()
        except (ImportError, ValueError, RuntimeError) as error:
            install = '; pip install --pre "flash-attn-4[cu13]"' if isinstance(error, ImportError) else ""
            raise UsageError(f"--attention {backend}: {error}{install}") from error
        for processor in self.transformer.attn_processors.values():
            processor.flash4 = True

    def autocast(self) -> Any:
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    @contextmanager
    def unwrapped(self) -> Iterator[None]:
        """Within it, velocities come from the bare transformer, whatever a trainer wraps around it."""
        wrapped, self.network = self.network, self.transformer
        try:
            yield
        finally:
            self.network = wrapped

    def noise(self, seeds: Sequence[int]) -> Tensor:
        """(B, C, t, h, w) standard normal, each row by its own seed alone, the same on every device."""
        def draw(seed: int) -> Tensor:
            return torch.randn(self.latent_shape, generator=torch.Generator().manual_seed(seed))

        with ThreadPoolExecutor() as pool:  # drawing takes as long as a GPU takes to sample
            return torch.stack(list(pool.map(draw, seeds))).to(self.device)

    def guide_away_from(self, weaker: VideoDiffusion) -> None:
        """Let guidance lead away from a worse model instead of from no prompt (autoguidance, Karras et al., 2024).

        ValueError for a model of other latents or another text encoder.
        """
        mine, its = (replace(one.preset, transformer={}, prediction="velocity") for one in (self, weaker))
        states = [{} if one.vae is None else one.vae.state_dict() for one in (self, weaker)]
        if mine != its or any(not torch.equal(value.cpu(), states[1][name].cpu()) for name, value in states[0].items()):
            raise ValueError("expected a model of the same latents and text encoder, such as an earlier checkpoint of "
                             "the same training")
        self.weaker = weaker

    def sample(self, prompts: Sequence[str], seeds: Sequence[int], steps: int = 20, guidance: float = 3.0,
               gradient_steps: int = 0, temperature: float = 1.0, guided_above: float = 0.0,
               guidance_to: float = 0.0, motion: float = 1.0) -> Tensor:
        """Frames (B, T, 3, H, W) in [0, 1], a clip per prompt and seed, from noise of standard deviation `temperature`.

        guidance_to: where given, each clip's guidance is drawn evenly from `guidance` to this, by its seed. See
        `sample_latents`.
        """
        alone = {prompt: self.encode_prompts([prompt]) for prompt in dict.fromkeys(prompts)}  # whatever the others are
        text = torch.cat([alone[prompt] for prompt in prompts])
        scale = self._guidances(seeds, guidance, guidance_to) if guidance_to else guidance
        latents = self.sample_latents(text, temperature * self.noise(seeds), steps, scale, gradient_steps,
                                      guided_above, motion)
        with torch.set_grad_enabled(gradient_steps > 0):
            return self.decode(latents)

    def _guidances(self, seeds: Sequence[int], low: float, high: float) -> Tensor:
        """(B, 1, 1, 1, 1), each by its own seed alone."""
        drawn = [np.random.default_rng([seed % 2**64, 29]).uniform(low, high) for seed in seeds]
        return torch.tensor(drawn, dtype=torch.float32, device=self.device).reshape(-1, 1, 1, 1, 1)

    def sample_latents(self, text: Tensor, noise: Tensor, steps: int, guidance: float | Tensor,
                       gradient_steps: int = 0, guided_above: float = 0.0, motion: float = 1.0) -> Tensor:
        """Euler steps from `noise` to latents, with guidance, classifier-free or away from `weaker`, where it is not 1;
        one for all clips, or (B, 1, 1, 1, 1).

        It acts from the start down to time `guided_above` (limited interval; Kynkäänniemi et al., 2024), and `motion`
        times as much on what changes over time as on the means over a clip's latents, where contrast is. Gradient flows
        through the last `gradient_steps` steps only (DRaFT-K). ValueError for a negative number.
        """
        if steps < 1 or not 0 <= gradient_steps <= steps:
            raise ValueError(f"expected at least 1 step, with gradient through 0 to all, got {steps}, {gradient_steps}")
        self.scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps).tolist(), device=self.device)
        times = (self.scheduler.timesteps / TRAIN_STEPS).tolist()
        guided = isinstance(guidance, Tensor) or guidance != 1
        nothing = self.encode_prompts([""]).expand_as(text) if guided and self.weaker is None else None
        x = noise
        for k, timestep in enumerate(self.scheduler.timesteps):
            with torch.set_grad_enabled(k >= steps - gradient_steps):
                t = (timestep / TRAIN_STEPS).expand(len(x))
                here = guidance if times[k] > guided_above else 1.0
                v = self._guided(x, t, text, nothing, here, motion)
                x = self.scheduler.step(v, timestep, x, return_dict=False)[0]
        return x

    def _guided(self, x: Tensor, t: Tensor, text: Tensor, nothing: Tensor | None, guidance: float | Tensor,
                motion: float = 1.0) -> Tensor:
        if not isinstance(guidance, Tensor) and guidance == 1:
            return self.velocity(x, t, text)
        if self.weaker is not None:
            away, towards = self.weaker.velocity(x, t, text), self.velocity(x, t, text)
        else:
            away, towards = self.velocity(x.repeat(2, 1, 1, 1, 1), t.repeat(2), torch.cat([nothing, text])).chunk(2)
        guided = away + guidance * (towards - away)
        if motion == 1:
            return guided
        more = guided - towards
        return guided + (motion - 1) * (more - more.mean(2, keepdim=True))


def build_transformer(preset: Preset) -> nn.Module:
    """diffusers' WanTransformer3DModel with random weights; its last layer is 0, so that training starts calmly."""
    from diffusers import WanTransformer3DModel

    from baselines.attention import FusedRotary

    transformer = WanTransformer3DModel(**preset.transformer)
    transformer.set_attn_processor(FusedRotary())
    nn.init.zeros_(transformer.proj_out.weight)
    nn.init.zeros_(transformer.proj_out.bias)
    return transformer


def build_vae(preset: Preset) -> nn.Module | None:
    """diffusers' AutoencoderKLWan with random weights, a PatchCodec fitted to nothing, or None: pixels are the latents.
    """
    if preset.vae is None:
        return None
    if is_patch_codec(preset):
        return PatchCodec(**{key: value for key, value in preset.vae.items() if key != "kind"})
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan(**preset.vae)


def check_frame_count(preset: Preset, num_frames: int) -> None:
    """ValueError for a number of frames that would come back from the VAE, or out of the patches, as another one."""
    if preset.vae is not None and num_frames % 4 != 1:
        below = (num_frames - 1) // 4 * 4 + 1
        raise ValueError(f"expected 4k + 1 frames, which the VAE brings back whole, got {num_frames}; take "
                         f"{max(below, 1)} or {below + 4}")
    patch = preset.transformer["patch_size"][0]
    if preset.vae is None and num_frames % patch:
        raise ValueError(f"expected a multiple of {patch} frames, got {num_frames}")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value
