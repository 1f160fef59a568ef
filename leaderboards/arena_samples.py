"""From folders of samples to the arena's pairs: the k-th sample of a prompt of one model against that of another."""
from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

from evalkit.data.datasets import find_videos
from evalkit.data.items import VideoItem
from evalkit.errors import UsageError
from leaderboards.arena_media import make_playable, sha256
from leaderboards.arena_store import ArenaStore, Video

MANIFEST = "prompts.jsonl"  # as `evalkit baseline sample` and `evalkit world render` leave it
GOLD = ("gold, better", "gold, worse")  # models of the videos with known answers
Gold = Mapping[str, float]
Entry = tuple[Video, Video, Gold | None]


def read_samples(where: str, prompts: str | None = None) -> tuple[str, list[Video]]:
    """The model's name and its videos of `FOLDER` or `NAME=FOLDER` (anything that `evalkit run` takes).

    Prompts stand in the folder's prompts.jsonl, in `prompts`, or in the data set itself. UsageError where a video has
    no prompt or does not exist.
    """
    name, equals, place = where.partition("=")
    name, place = (name, place) if equals and not Path(where).exists() else (Path(where).resolve().name, where)
    if not name or name.startswith(".") or "/" in name:
        raise UsageError(f"expected NAME=FOLDER with a name that is no path, got {where!r}")
    manifest = Path(place) / MANIFEST
    try:
        items = find_videos(manifest if prompts is None and manifest.is_file() else place, prompts)
    except ValueError as error:
        raise UsageError(str(error)) from error
    bare = [item.name for item in items if not (item.prompt or "").strip()]
    if bare:
        raise UsageError(f"{place}: {len(bare)} of {len(items)} videos have no prompt ({', '.join(bare[:3])}); give "
                         f"--prompts, or a {MANIFEST} in the folder with the columns path and prompt")
    return name, [_video(name, item) for item in items]


def _video(model: str, item: VideoItem) -> Video:
    path = Path(item.source).resolve()
    if not path.exists():
        raise UsageError(f"found no video {path}")
    return Video(model, item.prompt.strip(), item.name, str(path), sha256(path), str(path), item.seed)


def pair_up(models: Mapping[str, Sequence[Video]], gold: Gold | None = None) -> Iterator[Entry]:
    """Every two models, every prompt that both have, sample by sample in the order of seeds, else of names."""
    grouped = {name: _by_prompt(videos) for name, videos in models.items()}
    for one, other in combinations(grouped.values(), 2):
        for prompt in one:
            for a, b in zip(one[prompt], other.get(prompt, []), strict=False):  # as many as both have
                if a.path != b.path:
                    yield a, b, gold


def _by_prompt(videos: Sequence[Video]) -> dict[str, list[Video]]:
    groups: dict[str, list[Video]] = defaultdict(list)
    for video in videos:
        groups[video.prompt].append(video)
    return {prompt: sorted(group, key=lambda video: (video.seed is None, video.seed or 0))
            for prompt, group in groups.items()}


def read_gold(path: Path, dimensions: Sequence[str]) -> Iterator[Entry]:
    """The pairs of a file like the one that `--export` writes; answers to one pair in several dimensions are joined.

    UsageError naming the line that cannot be used, or for a dimension that raters are not asked for.
    """
    found: dict[tuple[str, str], tuple[str, dict[str, float]]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            chosen, rejected = (str((path.parent / row[side]).resolve(strict=True)) for side in ("chosen", "rejected"))
            prompt, tie, dimension = row["prompt"].strip(), row.get("tie", False), row.get("dimension", "overall")
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise UsageError(f"{path}, line {number}: expected chosen, rejected and prompt, and both videos: "
                             f"{type(error).__name__}: {error}") from error
        if dimension not in (*dimensions, "overall"):
            raise UsageError(f"{path}, line {number}: raters are not asked for {dimension!r}; they are for "
                             f"{', '.join(dimensions)}")
        turned = (rejected, chosen) in found
        key = (rejected, chosen) if turned else (chosen, rejected)
        found.setdefault(key, (prompt, {}))[1][dimension] = 0.0 if tie else -1.0 if turned else 1.0
    for (a, b), (prompt, answers) in found.items():
        yield (*(Video(model, prompt, Path(place).name, place, sha256(Path(place)), place)
                 for model, place in zip(GOLD, (a, b), strict=True)), answers)


def fill(store: ArenaStore, samples: Sequence[str], prompts: str | None, gold: Sequence[str], gold_file: str | None,
         media: Path, progress: Callable[[str, int, int], Any] = lambda *_: None) -> None:
    """Bring the samples into the arena; what is there already stays as it is. `gold`: folders, a better and a worse.

    UsageError where two models have one name or no prompt in common, or a video cannot be shown.
    """
    models: dict[str, list[Video]] = {}
    for where in samples:
        name, videos = read_samples(where, prompts)
        if name in models or name in GOLD:
            raise UsageError(f"two models are named {name!r}: tell them apart by NAME={where}")
        models[name] = videos
    entries = list(pair_up(models))
    if samples and not entries:
        raise UsageError(f"{', '.join(models)} have no prompt in common: nothing can be compared")
    if gold:
        known = [[replace(video, model=model) for video in read_samples(where, prompts)[1]]
                 for model, where in zip(GOLD, gold, strict=True)]
        entries += pair_up(dict(zip(GOLD, known, strict=True)), {"overall": 1.0})
    if gold_file:
        entries += read_gold(Path(gold_file), store.dimensions)
    there = {(video.model, video.path) for video in store.videos.values() if Path(video.playable).is_file()}
    new = {video.path: video.digest for *two, _ in entries for video in two if (video.model, video.path) not in there}
    shown = make_playable(new, media, progress)
    store.add((*(replace(video, playable=shown.get(video.path, video.path)) for video in two), answers)
              for *two, answers in entries)
