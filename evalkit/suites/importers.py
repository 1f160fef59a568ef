"""Others' prompt files as suites: VBench, VBench-2.0, EvalCrafter, T2V-CompBench, FETV, with their file naming."""
from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evalkit.data.manifests import read_lines
from evalkit.suites.base import Suite, SuitePrompt

_PER_VIDEO = ("clip_alignment", "farm", "temporal_flicker", "cinematic_composition", "artifacts", "dynamic_degree",
              "frame_consistency")
_VBENCH = ("vbench_subject_consistency", "vbench_background_consistency", "vbench_temporal_flickering",
           "vbench_dynamic_degree", "vbench_aesthetic_quality")
_DIVERSITY_SAMPLES = 20  # VBench-2.0 asks for 20 videos a prompt in its dimension Diversity, 3 elsewhere
_COMPBENCH = ("1_consistent_attr", "2_dynamic_attr", "3_spatial_relationship", "4_motion_binding",
              "5_action_binding", "6_interaction", "7_numeracy")


def import_suite(kind: str, path: Path | str) -> Suite:
    """The suite in a benchmark's own prompt file (T2V-CompBench: the folder of its seven .txt files).

    kind: one of IMPORTERS. Dimensions and categories are kept per prompt; `naming` is what the benchmark prescribes.
    Raises ValueError for an unknown kind, a missing file, or one of another layout.
    """
    if kind not in IMPORTERS:
        raise ValueError(f"unknown kind of suite {kind!r}; there are: {', '.join(IMPORTERS)}")
    if not Path(path).exists():
        raise ValueError(f"{kind}: found no prompt file {path}")
    return IMPORTERS[kind](Path(path))


def _vbench(path: Path) -> Suite:
    prompts = tuple(_vbench_prompt(entry, i, path) for i, entry in enumerate(_json_list(path)))
    return Suite("vbench", "VBench (Huang et al., 2024): 16 dimensions, 5 videos a prompt",
                 (*_VBENCH, *_PER_VIDEO, "diversity"), prompts, samples_per_prompt=5,
                 naming=("{prompt}-{sample}", "{category}/{prompt}-{sample}"))


def _vbench2(path: Path) -> Suite:
    prompts = tuple(_vbench_prompt(entry, i, path, diversity=_DIVERSITY_SAMPLES)
                    for i, entry in enumerate(_json_list(path)))
    return Suite("vbench2", "VBench-2.0 (Zheng et al., 2025): 18 dimensions, 3 videos a prompt, 20 for Diversity",
                 (*_PER_VIDEO, "diversity"), prompts, samples_per_prompt=3,
                 naming=("{category}/{prompt:.180}-{sample}", "{prompt:.180}-{sample}"))


def _vbench_prompt(entry: Any, index: int, path: Path, diversity: int | None = None) -> SuitePrompt:
    text, dimensions = _fields(entry, index, path, ("prompt_en", str), ("dimension", list))
    hint = entry.get("auxiliary_info")
    extra = {} if hint is None else {"auxiliary_info": hint if isinstance(hint, str) else json.dumps(hint)}
    return SuitePrompt(text, index, tuple(dimensions), diversity if "Diversity" in dimensions else None, extra)


def _evalcrafter(path: Path) -> Suite:
    """prompt700.txt, or metadata.json with attributes per prompt; videos `0000.mp4` to `0699.mp4`."""
    if path.suffix == ".json":
        table = _json(path)
        if not isinstance(table, dict) or not all(key.isdecimal() for key in table):
            raise ValueError(f"{path}: expected EvalCrafter's metadata.json, an object with keys 0000, 0001, ...")
        prompts = tuple(_evalcrafter_prompt(entry, int(key), path) for key, entry in table.items())
    else:
        prompts = tuple(SuitePrompt(text, i) for i, text in enumerate(read_lines(path)))
    return Suite("evalcrafter", "EvalCrafter (Liu et al., 2024): 700 prompts, one video each", _PER_VIDEO, prompts,
                 naming=("{index:04d}",))


def _evalcrafter_prompt(entry: Any, index: int, path: Path) -> SuitePrompt:
    text, attributes = _fields(entry, index, path, ("prompt", str), ("attributes", dict))
    return SuitePrompt(text.strip(), index, tuple(attributes), extra={k: str(v) for k, v in attributes.items()})


def _t2v_compbench(path: Path) -> Suite:
    """Videos `consistent_attr/0001.mp4` to `0100.mp4`, and so on: a folder per category, counted from 1."""
    missing = [name for name in _COMPBENCH if not (path / f"{name}.txt").is_file()]
    if missing:
        raise ValueError(f"T2V-CompBench: expected {', '.join(f'{name}.txt' for name in _COMPBENCH)} in {path}, "
                         f"found no {missing[0]}.txt")
    prompts = tuple(SuitePrompt(text, number, (name.partition("_")[2],)) for name in _COMPBENCH
                    for number, text in enumerate(read_lines(path / f"{name}.txt"), 1))
    return Suite("t2v_compbench", "T2V-CompBench (Sun et al., 2025): 7 categories of 100 prompts, one video each",
                 _PER_VIDEO, prompts, naming=("{category}/{index:04d}",))


def _fetv(path: Path) -> Suite:
    """One JSON object per line; videos `0.mp4` to `618.mp4` by line, with leading zeros or without."""
    entries = []
    for number, line in enumerate(read_lines(path), 1):
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: expected a JSON object: {error.msg}") from error
    prompts = tuple(_fetv_prompt(entry, i, path) for i, entry in enumerate(entries))
    return Suite("fetv", "FETV (Liu et al., 2023): 619 prompts by content, attribute and complexity, one video each",
                 _PER_VIDEO, prompts, naming=("{index}", "{index:04d}"))


def _fetv_prompt(entry: Any, index: int, path: Path) -> SuitePrompt:
    text, content, control = _fields(entry, index, path, ("prompt", str), ("major content", dict),
                                     ("attribute control", dict))
    groups = {"content": content, "attribute": control}
    categories = [f"{group}/{aspect}: {value}" for group, aspects in groups.items()
                  for aspect, values in aspects.items() for value in values or ()]
    complexity = [f"complexity: {value}" for value in entry.get("prompt complexity") or ()]
    extra = {key: str(entry[key]) for key in ("video_id", "source", "unusual type") if entry.get(key)}
    return SuitePrompt(text.strip(), index, (*categories, *complexity), extra=extra)


def _fields(entry: Any, index: int, path: Path, *wanted: tuple[str, type]) -> list[Any]:
    """The entry's values under the wanted keys, checked for their types."""
    for key, kind in wanted:
        if not isinstance(entry, dict) or not isinstance(entry.get(key), kind):
            got = ", ".join(entry) if isinstance(entry, dict) else type(entry).__name__
            raise ValueError(f"{path}, entry {index}: expected {key!r} as {kind.__name__}, got {got}")
    return [entry[key] for key, _ in wanted]


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError, IsADirectoryError) as error:
        raise ValueError(f"{path}: expected a JSON file: {error}") from error


def _json_list(path: Path) -> list[Any]:
    entries = _json(path)
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path}: expected a list of prompts, got {type(entries).__name__}")
    return entries


IMPORTERS: dict[str, Callable[[Path], Suite]] = {
    "vbench": _vbench,
    "vbench2": _vbench2,
    "evalcrafter": _evalcrafter,
    "t2v_compbench": _t2v_compbench,
    "fetv": _fetv,
}
