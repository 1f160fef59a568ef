"""A suite: prompts, protocol and metrics in one small file, and the naming by which its videos are found."""
from __future__ import annotations

import tomllib
import unicodedata
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from evalkit.data.datasets import UnmatchedPrompts, find_videos
from evalkit.data.items import VideoItem

_KEYS = ("name", "summary", "metrics", "protocol", "samples_per_prompt", "naming", "prompts")


@dataclass(frozen=True)
class SuitePrompt:
    """A prompt with what the benchmark says about it."""

    text: str
    index: int = 0  # the number that file names use
    categories: tuple[str, ...] = ()  # dimensions or categories, as the benchmark spells them
    samples: int | None = None  # videos of this prompt where it is not the suite's number
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Suite:
    """What to score and how. Without prompts, a suite applies to any set of videos.

    naming: templates of a video's path below the folder, without suffix, in the fields prompt, index, sample and
    category (`{prompt:.180}` cuts, `{index:04d}` pads); several where a benchmark allows several, the first preferred.
    """

    name: str
    summary: str
    metrics: tuple[str, ...]
    prompts: tuple[SuitePrompt, ...] = ()
    protocol: str = "default"
    samples_per_prompt: int = 1
    naming: tuple[str, ...] = ("{prompt}-{sample}", "{index:04d}-{sample}")

    def file_names(self, prompt: SuitePrompt, sample: int) -> list[str]:
        """Where sample `sample` of `prompt` may lie: relative paths without suffix, the preferred one first."""
        text = prompt.text.replace("/", "_")  # a file name cannot hold it
        names = (template.format(prompt=text, index=prompt.index, sample=sample, category=category)
                 for template in self.naming for category in prompt.categories or ("",))
        return list(dict.fromkeys(names))


def available_suites() -> dict[str, Suite]:
    """The suites that come with evalkit, by name."""
    paths = sorted(path.name for path in files("evalkit.suites").iterdir() if path.name.endswith(".toml"))
    return {name.removesuffix(".toml"): load_suite(name.removesuffix(".toml")) for name in paths}


def load_suite(name_or_path: str | Path) -> Suite:
    """A suite that comes with evalkit, one of the user's own (a .toml file), or `vbench:VBench_full_info.json`.

    Raises ValueError for an unknown name (naming those that exist) and for a file that is no suite.
    """
    from evalkit.suites.importers import IMPORTERS, import_suite

    text = str(name_or_path)
    kind, colon, path = text.partition(":")
    if colon and kind in IMPORTERS:
        return import_suite(kind, path)
    if text.endswith(".toml"):
        if not Path(text).is_file():
            raise ValueError(f"found no suite {text}")
        return _parse(Path(text).read_text(encoding="utf-8"), text)
    shipped = files("evalkit.suites") / f"{text}.toml"
    if "/" in text or not shipped.is_file():
        known = sorted(path.name.removesuffix(".toml") for path in files("evalkit.suites").iterdir()
                       if path.name.endswith(".toml"))
        raise ValueError(f"unknown suite {text!r}; there are: {', '.join(known)}, any .toml file, and "
                         + ", ".join(f"{kind}:PATH" for kind in IMPORTERS))
    return _parse(shipped.read_text(encoding="utf-8"), shipped.name)


def match_videos(suite: Suite, folder: Path | str) -> list[VideoItem]:
    """The videos of the suite's prompts as they lie in `folder`, in the suite's order.

    Each has its prompt, the sample's number as seed, and the prompt's categories (parted by "; ") in extra. A
    sample without a file is an item under its preferred name, which fails when it is read. One file that serves
    several prompts is one item. Videos in the folder that belong to no prompt are counted in an `UnmatchedPrompts`
    warning. Raises ValueError where the folder holds no video of the suite, or the suite has no prompts.
    """
    if not suite.prompts:
        raise ValueError(f"suite {suite.name!r} has no prompts of its own; give it any videos")
    folder = Path(folder)
    present = {_without_suffix(item): item for item in find_videos(folder)}
    items: dict[str, VideoItem] = {}
    found: set[str] = set()
    for prompt in suite.prompts:
        for sample in range(prompt.samples or suite.samples_per_prompt):
            names = [unicodedata.normalize("NFC", name) for name in suite.file_names(prompt, sample)]
            here = [name for name in names if name in present]
            found.update(here)
            for name in here or names[:1]:
                items[name] = _item(name, folder, present.get(name), prompt, sample, items.get(name))
    if not found:
        raise ValueError(f"none of the {len(present)} videos in {folder} is named as suite {suite.name!r} prescribes, "
                         f"for example {next(iter(items))}.mp4")
    if len(found) < len(present):
        stray = next(name for name in present if name not in found)
        warnings.warn(UnmatchedPrompts(f"{len(present) - len(found)} of the {len(present)} videos in {folder} belong "
                                       f"to no prompt of suite {suite.name!r}, first {stray}"), stacklevel=2)
    return list(items.values())


def _item(
    name: str, folder: Path, video: VideoItem | None, prompt: SuitePrompt, sample: int, before: VideoItem | None
) -> VideoItem:
    earlier = before.extra.get("categories", "").split("; ") if before else []
    categories = dict.fromkeys(category for category in (*earlier, *prompt.categories) if category)
    return VideoItem(
        source=video.source if video else folder / f"{name}.mp4",
        name=video.name if video else f"{name}.mp4",
        prompt=prompt.text,
        seed=sample,
        extra={**prompt.extra, **(before.extra if before else {}), "categories": "; ".join(categories)},
    )


def _without_suffix(item: VideoItem) -> str:
    """The item's name as templates make it; a frame folder has no suffix to lose, though prompts hold full stops."""
    name = item.name if Path(item.source).is_dir() else item.name.removesuffix(Path(item.name).suffix)
    return unicodedata.normalize("NFC", name)


def _parse(text: str, where: str) -> Suite:
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{where}: {error}") from error
    unknown = sorted(set(table) - set(_KEYS))
    if unknown or not {"name", "summary", "metrics"} <= set(table):
        raise ValueError(f"{where}: expected name, summary, metrics and optionally {', '.join(_KEYS[3:])}; "
                         f"got {', '.join(table) or 'nothing'}")
    wrong = [key for key in ("name", "summary", "protocol") if not isinstance(table.get(key, ""), str)]
    if wrong:
        raise ValueError(f"{where}: expected {wrong[0]} as text, got {table[wrong[0]]!r}")
    metrics = table["metrics"]
    if not isinstance(metrics, list) or not metrics or not all(isinstance(name, str) for name in metrics):
        raise ValueError(f"{where}: expected metrics as a list of names, got {metrics!r}")
    samples = table.get("samples_per_prompt", 1)
    if type(samples) is not int or samples < 1:
        raise ValueError(f"{where}: expected samples_per_prompt of at least 1, got {samples!r}")
    naming = table.get("naming", list(Suite.naming))
    _check_naming(naming, where)
    return Suite(table["name"], table["summary"], tuple(metrics), _parse_prompts(table.get("prompts", {}), where),
                 table.get("protocol", Suite.protocol), samples, tuple(naming))


def _check_naming(naming: Any, where: str) -> None:
    try:
        for template in naming if isinstance(naming, list) and naming else [None]:
            template.format(prompt="", index=0, sample=0, category="")
    except (AttributeError, KeyError, IndexError, ValueError) as error:
        raise ValueError(f"{where}: expected naming as a list of templates in {{prompt}}, {{index}}, {{sample}}, "
                         f"{{category}}, got {naming!r}") from error


def _parse_prompts(table: Any, where: str) -> tuple[SuitePrompt, ...]:
    """`[prompts]`: category = [prompt, ...]; numbered from 0 through all categories."""
    if not isinstance(table, dict) or not all(isinstance(texts, list) for texts in table.values()):
        raise ValueError(f"{where}: expected [prompts] as a table of lists, category = [\"prompt\", ...]")
    pairs = [(category, text) for category, texts in table.items() for text in texts]
    seen: set[str] = set()
    for category, text in pairs:
        if not isinstance(text, str) or not text.strip() or text in seen:
            raise ValueError(f"{where}: expected each prompt once, as text; got {text!r} in {category!r}")
        seen.add(text)
    return tuple(SuitePrompt(text, index, (category,)) for index, (category, text) in enumerate(pairs))
