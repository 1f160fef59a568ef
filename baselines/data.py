"""Captioned videos as training data: read once, encoded once, kept by content; those that cannot be read are listed."""
from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baselines.buckets import Bucket, Buckets, Mixed, buckets_of, clip_bucket, schedule, step_shares
from baselines.model import VideoDiffusion
from baselines.patch_codec import PatchCodec
from baselines.reading import content_of, of_one_video, read_exact, read_views
from baselines.stage import Batch, Shard, send
from baselines.views import CHANGES, COMBINATIONS, View, video_of, view_of, viewed
from evalkit.cache import Cache, cache_key
from evalkit.data.items import VideoItem
from evalkit.data.video_types import VideoError
from evalkit.errors import UsageError
from evalkit.results import write_atomic
from evalkit.workers import available_cores, map_in_threads

FAILURES, SHAPES = "failures.json", "shapes.json"
ONE_SHAPE = Mixed()
READ_AHEAD = 4 << 30  # bytes of frames that wait for the encoder at most, on a host
TOGETHER = 64  # videos that a thread reads at a time, at most
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class _Read:
    """A clip as it was encoded before, or frames to encode, and where in the cache to keep that.

    Neither, or nothing found in the cache: it shows what an earlier view of its video shows.
    """

    key: str = ""
    found: dict[str, Tensor] | None = None
    frames: Tensor | None = None

    @property
    def repeats(self) -> bool:
        return not self.found and self.frames is None

    @property
    def is_uncached(self) -> bool:
        return not self.key and self.frames is not None


class ClipStore:
    """Clips by row: "frames" uint8 or, where the model works on latents, "latents"; and "text".

    All of the model's own size, or each of the one of `buckets` that it fits. Encoded when first asked for and kept in
    `folder`, so that a killed run goes on; what is small stays in memory.
    """

    def __init__(self, model: VideoDiffusion, items: Sequence[VideoItem], folder: str | Path,
                 in_memory: int = 4 << 30, as_pixels: bool = False, buckets: Buckets | None = None) -> None:
        self.model, self.items, self.cache = model, list(items), Cache(folder)
        self.failures: dict[str, str] = {}
        self.buckets = buckets
        self._shapes = [Bucket(model.preset.num_frames, model.preset.height, model.preset.width)] * len(self.items)
        self._encoder = "pixels" if model.vae is None or as_pixels else _hash_of(model.vae)
        self._is_cheap = self._encoder == "pixels" or isinstance(model.vae, PatchCodec)
        self._kept: dict[int, dict[str, Tensor]] = {}
        self._free = in_memory
        self._texts: dict[str, Tensor] = {}
        self._are_changed = any(view_of(item).change for item in self.items)

    def prepare(self, max_failures: int, report: Path | None = None, progress: Progress = lambda *_: None) -> None:
        """Encode all, and leave out, listed in `report`, those that cannot be; UsageError for more than allowed."""
        good, videos = [], of_one_video(self.items)
        workers, together = self._videos_at_once(len(videos), max(map(len, videos), default=1))
        parts = [videos[start: start + together] for start in range(0, len(videos), together)]
        found = chain.from_iterable(map(self._encode_together, map_in_threads(self._try_read, parts, workers)))
        for rows, reads in zip(videos, found, strict=True):
            for k, read in zip(rows, reads, strict=True):
                try:
                    if isinstance(read, Exception):
                        raise read
                    if read.repeats:
                        self._keep(read, {})
                    else:
                        self._shapes[k] = clip_bucket(self.model, **self._encoded(k, read))
                        good.append(k)
                except (VideoError, ValueError, OSError) as error:
                    self.failures[video_of(self.items[k])] = " ".join(str(error).split())
                progress("encoding", k + 1, len(self.items))
        if self.failures and report is not None:
            write_atomic(report, (json.dumps(self.failures, indent=1) + "\n").encode())
        if len(self.failures) > max_failures or not good:
            name, why = next(iter(self.failures.items()))
            raise UsageError(f"{len(self.failures)} of {len(videos)} videos cannot be used, more than "
                             f"--max-failures {max_failures} allows; the first: {name}: {why}")
        self.items, self._shapes = ([rows[k] for k in good] for rows in (self.items, self._shapes))
        self._kept = {new: self._kept[old] for new, old in enumerate(good) if old in self._kept}

    def _videos_at_once(self, count: int, views: int) -> tuple[int, int]:
        """Threads that read ahead, and how many of the videos each takes at a time: one by one, small clips wait."""
        preset, processes = self.model.preset, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        room = READ_AHEAD // processes // (2 * views * 3 * preset.num_frames * preset.height * preset.width)
        workers = max(1, min(available_cores(), room))
        return workers, max(1, min(TOGETHER, room // workers, count // (4 * workers)))

    def groups(self) -> dict[Bucket, list[int]]:
        """Rows by the shape of their clips, which is known once they are prepared: those of a batch are of one."""
        found: dict[Bucket, list[int]] = {}
        for k, shape in enumerate(self._shapes):
            found.setdefault(shape, []).append(k)
        return found

    def rows(self, index: Sequence[int]) -> dict[str, Tensor]:
        """The clips of these rows and their text, stacked, on the model's device.

        With changed clips among them also "no_text", which takes the text's place for guidance.
        """
        found = self.clips(index) | {"text": torch.stack([self._text(self.items[k].prompt or "") for k in index])}
        if self._are_changed:
            found["no_text"] = torch.stack([self._text(view_of(self.items[k]).change) for k in index])
        return found

    def clips(self, index: Sequence[int]) -> dict[str, Tensor]:
        """The same without text."""
        found = [self._encoded(k) for k in index]
        return {name: send(torch.stack([one[name] for one in found]), self.model.device) for name in found[0]}

    def frames(self, index: Sequence[int]) -> Tensor:
        """(B, T, 3, H, W) float in [0, 1] of these rows, as a reward sees them."""
        items = [self.items[k] for k in index]
        found = [frames for rows in of_one_video(items)
                 for frames in read_views(items[rows.start: rows.stop], self.model.preset)]
        return torch.stack(found).to(self.model.device).float() / 255

    def _encoded(self, k: int, read: _Read | None = None) -> dict[str, Tensor]:
        if k in self._kept:
            return self._kept[k]
        read = read or self._read([k])[0]
        found = read.found
        if found is None:
            found = self._encode(read.frames)
            self._keep(read, found)
        size = sum(value.nbytes for value in found.values())
        if size <= self._free:
            self._kept[k], self._free = found, self._free - size
        return found

    def _keep(self, read: _Read, encoded: dict[str, Tensor]) -> None:
        if read.key and read.found is None:
            self.cache.store_tensors(read.key, encoded)

    def _try_read(self, videos: Sequence[Sequence[int]]) -> list[list[_Read] | list[Exception]]:
        found: list[list[_Read] | list[Exception]] = []
        for rows in videos:
            try:
                found.append(self._read(rows))
            except (VideoError, ValueError, OSError) as error:
                found.append([error] * len(rows))
        return found

    def _read(self, rows: Sequence[int]) -> list[_Read]:
        """What can be done in threads for rows of one video: the cache's entries, or else its frames."""
        items = [self.items[k] for k in rows]
        preset, buckets = self.model.preset, self.buckets
        exact = read_exact(items, preset) if self._is_cheap and not buckets else None
        if exact is not None:
            return [_Read(frames=frames) for frames in exact]  # encoding is as fast as the cache
        shape = {"buckets": buckets.row()} if buckets else {  # with its content they say which one it is
            "frames": preset.num_frames, "size": [preset.height, preset.width]}
        content = content_of(items[0])
        keys = [cache_key(kind="clip", content=content, encoder=self._encoder, fps=preset.fps, rate=item.fps, **shape,
                          **({"view": view_of(item).row()} if view_of(item) != View() else {})) for item in items]
        found = [self.cache.load_tensors(key) for key in keys]
        missing = [k for k, one in enumerate(found) if one is None]
        frames = dict(zip(missing, read_views([items[k] for k in missing], preset, buckets), strict=True))
        return [_Read(key, one, frames.get(k)) for k, (key, one) in enumerate(zip(keys, found, strict=True))]

    def _encode_together(self, videos: list[list[_Read] | list[Exception]]) -> list[list[_Read] | list[Exception]]:
        """The same, with those clips encoded, at once, that the cache does not keep."""
        clips = [] if self._encoder == "pixels" else [
            read for video in videos for read in video if isinstance(read, _Read) and read.is_uncached]
        if not clips:
            return videos
        latents = self.model.encode(torch.stack([read.frames for read in clips])).half().cpu()
        encoded = {id(read): _Read(found={"latents": row.clone()}) for read, row in zip(clips, latents, strict=True)}
        return [[encoded.get(id(read), read) for read in video] for video in videos]

    def _encode(self, frames: Tensor) -> dict[str, Tensor]:
        if self._encoder == "pixels":
            return {"frames": frames.clone() if frames.untyped_storage().nbytes() > frames.nbytes else frames}
        return {"latents": self.model.encode(frames[None])[0].half().cpu()}

    def _text(self, prompt: str) -> Tensor:
        if prompt not in self._texts:
            self._texts[prompt] = self.model.encode_prompts([prompt])[0]
        return self._texts[prompt]


class VideoClips:
    """Batches of a store's clips, each of one shape: every clip once an epoch, in an order drawn anew for each.

    Clips of one shape have epochs of their own; all shapes advance alike, but for the `image_share` of steps.
    """

    def __init__(self, store: ClipStore, seed: int, weights: Tensor | None = None, image_share: float = 0.0) -> None:
        self.store, self.seed, self.weights = store, seed, weights
        shapes = store.groups()
        self.groups = list(shapes.values())
        self.shares = step_shares([len(group) for group in self.groups], [shape.num_frames == 1 for shape in shapes],
                                  image_share)

    def batches(self, start: int, shard: Shard, batch_size: int) -> Iterator[Batch]:
        rows = shard.rows(batch_size)
        for which, step in islice(schedule(self.shares, self.seed), start, None):
            group = self.groups[which]
            index = epoch_rows(len(group), step, batch_size, self.seed)
            mine = [group[index[row]] for row in rows]
            tensors = self.store.rows(mine)
            if self.weights is not None:
                tensors["weights"] = self.weights[mine].to(self.store.model.device)
            yield Batch(tensors, [self.store.items[k].name for k in mine], rows)


def epoch_rows(count: int, step: int, batch_size: int, seed: int) -> list[int]:
    """Which of `count` rows the batch of `step` holds, going through permutations one after the other."""
    places = range(step * batch_size, (step + 1) * batch_size)
    return [int(_order(count, place // count, seed)[place % count]) for place in places]


@lru_cache(maxsize=16)  # of every shape the current one, and the next
def _order(count: int, epoch: int, seed: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))


def open_clips(model: VideoDiffusion, where: str, cache: str, seed: int, max_failures: int = 0,
               progress: Progress = lambda *_: None, mixed: Mixed = ONE_SHAPE) -> VideoClips:
    """All captioned videos that `where` means, encoded. UsageError where there are none, or any has no prompt."""
    return VideoClips(open_store(model, where, cache, max_failures, progress, mixed), seed,
                      image_share=mixed.image_share)


def open_store(model: VideoDiffusion, where: str, cache: str, max_failures: int, progress: Progress,
               mixed: Mixed) -> ClipStore:
    """The clips themselves; `shapes.json` in `cache` counts those of each bucket."""
    items = captioned(where)
    if mixed.images:
        known = {item.name for item in items}
        items += [replace(item, name=f"images/{item.name}") if item.name in known else item
                  for item in captioned(mixed.images)]
    if mixed.changes:
        try:
            model.encode_prompts(CHANGES)
        except ValueError as error:
            raise UsageError(f"--changes: expected a text encoder that knows the words {', '.join(CHANGES)}, which "
                             "say what was done; this preset's does not") from error
    for item in items:  # before hours of encoding
        try:
            model.text.check([item.prompt or ""])
        except ValueError as error:
            raise UsageError(f"{item.name}: {error}") from error
    items = list(viewed(items, mixed.places, mixed.mirrored, COMBINATIONS if mixed.changes else ()))
    store = ClipStore(model, items, cache, buckets=buckets_of(model) if mixed.buckets else None)
    store.prepare(max_failures, Path(cache) / FAILURES, progress)
    if mixed.buckets:
        counts = {str(shape): len(rows) for shape, rows in store.groups().items()}
        write_atomic(Path(cache) / SHAPES, (json.dumps(counts, indent=1) + "\n").encode())
    return store


def captioned(where: str) -> list[VideoItem]:
    """The videos that `where` means, spelt as for `evalkit run`; UsageError where one has no prompt."""
    from evalkit.data.datasets import find_videos

    manifest = Path(where) / "prompts.jsonl"  # as `evalkit baseline sample` and `evalkit world render` leave it
    try:
        items = find_videos(manifest if manifest.is_file() else where)
    except ValueError as error:
        raise UsageError(str(error)) from error
    bare = [item.name for item in items if not item.prompt]
    if bare:
        raise UsageError(f"{where}: {len(bare)} of {len(items)} videos have no prompt ({', '.join(bare[:3])}); give a "
                         "manifest with the columns path and prompt, or a data set that has captions")
    return items


def _hash_of(network: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(name.encode() + value.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def select(items: Sequence[VideoItem], rewards: Sequence[float], how: str, keep: float) -> list[int]:
    """Rows by reward: "top", the share `keep` of all; "best", the best of each prompt; "all". UsageError otherwise."""
    order = sorted(range(len(items)), key=lambda k: -rewards[k])
    if how == "top":
        return sorted(order[: max(1, round(keep * len(items)))])
    if how == "best":
        best: dict[Any, int] = {}
        for k in order:
            best.setdefault(items[k].prompt, k)
        return sorted(best.values())
    if how in ("all", "weighted"):
        return list(range(len(items)))
    raise UsageError(f"--select: expected all, top, best or weighted, got {how!r}")
