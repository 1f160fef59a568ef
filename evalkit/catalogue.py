"""What exists, as data: `evalkit list` answers from `catalogue.json` without importing torch.

`python -m evalkit.catalogue` writes that file; a test holds it equal to the registries.
"""
from __future__ import annotations

import json
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

PATH = Path(__file__).with_name("catalogue.json")


def build_catalogue() -> dict[str, list[dict[str, Any]]]:
    """The registries' content: slow, for it imports everything that registers itself."""
    from evalkit.features.base import available_extractors
    from evalkit.metrics.base import available_metrics
    from evalkit.protocols import available_protocols

    metrics = [{
        "name": name,
        "summary": cls.summary or (cls.__doc__ or "").strip().split("\n")[0],
        "better": "higher" if cls.higher_is_better else "lower",
        "range": [None if abs(bound) == float("inf") else bound for bound in cls.range],
        "unit": cls.unit,
        "needs": [need for need, wanted in (("prompts", cls.needs_prompts), ("reference", cls.needs_reference == "set"),
                                            ("paired", cls.needs_reference == "paired")) if wanted],
        "extractors": list(cls.extractor_keys),
        "version": cls.version,
    } for name, cls in available_metrics().items()]
    features = [{"name": name, "summary": (factory.__doc__ or "").strip().split("\n")[0]}
                for name, factory in available_extractors().items()]
    protocols = [{"name": name, "summary": protocol.summary, "metrics": sorted(protocol.metrics)}
                 for name, protocol in available_protocols().items()]
    return {"metrics": metrics, "features": features, "protocols": protocols}


def read_catalogue() -> dict[str, list[dict[str, Any]]]:
    """The shipped catalogue; built anew where another installed package announces metrics of its own."""
    foreign = [entry for entry in entry_points(group="evalkit.metrics") if entry.dist.name != "video-evalkit"]
    return build_catalogue() if foreign else json.loads(PATH.read_text())


if __name__ == "__main__":
    PATH.write_text(json.dumps(build_catalogue(), indent=1, ensure_ascii=False) + "\n")
