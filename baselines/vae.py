"""Latent spaces: a small autoencoder of diffusers' AutoencoderKLWan class, trained, or a PatchCodec, fitted."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from baselines.checkpoints import Checkpoint, load_vae, save_vae
from baselines.data import FAILURES, ClipStore, captioned, epoch_rows
from baselines.model import VideoDiffusion, build_transformer, build_vae
from baselines.presets import find_preset, is_patch_codec
from baselines.stage import Batch, ClosedForm, Shard, Stage
from baselines.text import HashedWords
from baselines.train import LoopConfig
from evalkit.devices import choose_device
from evalkit.errors import UsageError

MEASURED = 64  # clips from which the statistics of latents are taken
AT_ONCE, HELD_OUT = 32, 10  # of a codec: clips that are read together; one in so many tells how well it does
PRESETS: dict[str, dict[str, Any]] = {"ucf101": {}, "webvid": {"steps": 4000, "batch_size": 4, "lr": 5e-4}}


@dataclass(frozen=True)
class Config(LoopConfig):
    """`evalkit baseline vae`. A PatchCodec is fitted in closed form, where steps and their flags count nothing."""

    out: str = "runs/vae"
    preset: str = "ucf101"
    data: str = ""  # videos, spelt as for evalkit run
    steps: int = 1500  # of an AutoencoderKLWan
    batch_size: int = 32
    lr: float = 1e-3
    warmup: int = 100
    decay: str = "cosine"
    ema: float = 0.995
    kl: float = 1e-4  # weight of the divergence from a standard normal, per latent number
    whitening: float = 0.5  # of a PatchCodec's latents: see its `fit`
    edges: float = 0.5  # weight of differences between neighbours in space and time, which keep detail and motion
    cache: str = ""  # folder of read videos; default: encoded, in the run's folder
    max_failures: int = 0


class Reconstruction(nn.Module):
    """frames in [-1, 1] (B, 3, T, H, W) -> L1 error, that of differences, and the divergence per latent number."""

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, pixels: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        posterior = self.vae.encode(pixels).latent_dist
        decoded = self.vae.decode(posterior.mean + posterior.std * noise).sample
        edges = [(decoded.diff(dim=axis) - pixels.diff(dim=axis)).abs().mean() for axis in (2, 3, 4)]
        kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
        return (decoded - pixels).abs().mean(), torch.stack(edges).mean(), kl


class Autoencoding(Stage):
    """Bring clips back through the bottleneck."""

    name = "vae"

    def __init__(self, model: VideoDiffusion, store: ClipStore, config: Config) -> None:
        self.model, self.store, self.config = model, store, config
        self._whole = Reconstruction(model.vae.requires_grad_(True))
        self._network: nn.Module = self._whole

    def module(self) -> nn.Module:
        return self._whole

    def install(self, network: nn.Module) -> None:
        self._network = network

    def parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.model.vae.named_parameters())

    def batches(self, start: int, shard: Shard) -> Iterator[Batch]:
        step, rows = start, shard.rows(self.config.batch_size)
        while True:
            index = epoch_rows(len(self.store.items), step, self.config.batch_size, self.config.seed)
            mine = [index[row] for row in rows]
            yield Batch({"frames": self.store.clips(mine)["frames"]}, [self.store.items[k].name for k in mine], rows)
            step += 1

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        pixels = (2 * (batch["frames"].float() / 255) - 1).transpose(1, 2)
        noise = batch.draws.noise(batch.rows, self.model.latent_shape)
        with self.model.autocast():
            error, edges, kl = self._network(pixels, noise)
        return {"loss": error + self.config.edges * edges + self.config.kl * kl, "error": error, "kl": kl}

    def save(self, folder: Path, step: int, weights: Mapping[str, Tensor]) -> Checkpoint:
        """With the mean and spread of each channel of the latents, by the weights that are saved."""
        own = {name: p.detach().clone() for name, p in self.parameters().items()}
        self.model.vae.load_state_dict(weights)
        preset = self.model.preset
        self.model.preset = replace(preset, vae=dict(preset.vae) | self._statistics())
        card = save_vae(self.model, folder, step, weights)
        self.model.vae.load_state_dict(own)
        return card

    @torch.no_grad()
    def _statistics(self) -> dict[str, list[float]]:
        rows = list(range(min(MEASURED, len(self.store.items))))
        latents = torch.cat([self._latents([row]) for row in rows]).transpose(0, 1).flatten(1)  # (C, all)
        return {"latents_mean": latents.mean(1).tolist(), "latents_std": latents.std(1).clamp_min(1e-3).tolist()}

    def _latents(self, rows: list[int]) -> Tensor:
        frames = self.store.clips(rows)["frames"].float() / 255
        return self.model.vae.encode((2 * frames - 1).transpose(1, 2)).latent_dist.mode().float().cpu()


class Fitting(ClosedForm):
    """The principal components of the clips' patches, as a checkpoint."""

    name = "vae"

    def __init__(self, model: VideoDiffusion, store: ClipStore, whitening: float) -> None:
        self.model, self.store, self.whitening = model, store, whitening

    @torch.no_grad()
    def solve(self, folder: Path) -> tuple[Checkpoint, dict[str, float]]:
        count, codec = len(self.store.items), self.model.vae
        fitted = [row for row in range(count) if row % HELD_OUT] or [0]
        explained = codec.fit((pixels for _, pixels in self._read(fitted)), self.whitening)
        card = save_vae(self.model, folder, 0, codec.state_dict())
        load_vae(self.model, folder)  # judged as it was written, in half precision
        errors = torch.cat([(self.model.decode(self.model.encode(frames)) - frames.float() / 255).square().flatten(1)
                            .mean(1) for frames, _ in self._read(range(0, count, HELD_OUT))])
        psnr = -10 * errors.mean().log10()
        return card, {"explained variance": round(explained, 5), "held-out PSNR (dB)": round(float(psnr), 3)}

    def _read(self, rows: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """uint8 frames and pixels in [-1, 1], on the model's device."""
        for start in range(0, len(rows), AT_ONCE):
            frames = self.store.clips(rows[start: start + AT_ONCE])["frames"]
            yield frames, (2 * (frames.float() / 255) - 1).transpose(1, 2)


def build(config: Config, progress: Callable[[str, int, int], None] = lambda *_: None) -> Autoencoding | Fitting:
    """The stage that a configuration asks for. UsageError where there are no videos, or the preset has no VAE."""
    preset = find_preset(config.preset)
    if not preset.vae:
        raise UsageError(f"--preset {config.preset} has no VAE of ours to train; those that do: {', '.join(PRESETS)}")
    if config.compile or config.checkpointing or config.shard:
        raise UsageError("--compile, --checkpointing and --shard are for transformers: this class of VAE has none")
    if not config.data:
        raise UsageError("expected --data with videos, spelt as for evalkit run")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        vae = build_vae(preset)
    unused = build_transformer(replace(preset, transformer=dict(preset.transformer) | {"num_layers": 1}))
    pixels = VideoDiffusion(preset, unused, HashedWords(1, 1), vae).to(choose_device(config.device))
    cache = config.cache or f"{config.out}/encoded"
    store = ClipStore(pixels, captioned(config.data), cache, as_pixels=True)
    store.prepare(config.max_failures, Path(cache) / FAILURES, progress)
    if is_patch_codec(preset):
        return Fitting(pixels, store, config.whitening)
    return Autoencoding(pixels, store, config)
