"""Features of a reference set: computed once, kept in one safetensors file, shareable without the footage."""
from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.data.video import decoder_version
from evalkit.metrics.base import SetMetric
from evalkit.results import differing_fields, protocol_id, write_atomic
from evalkit.scoring import VideoRow

FORMAT = "evalkit.reference/1"


def feature_protocol(metric: SetMetric, decoder: str, seed: int) -> dict[str, Any]:
    """What a set metric's features of one video depend on, the video aside."""
    protocol = metric.protocol()
    return {
        "decoder": decoder_version(decoder),
        "clips": protocol["clips"],
        "extractors": protocol["extractors"],
        "pool": type(metric).pool.__qualname__,
        "seed": seed if metric.spec.placement == "random" else None,
    }


def fingerprint(contents: Sequence[str]) -> str:
    """A hash of the set of videos: the same for any order."""
    return hashlib.sha256("\n".join(sorted(contents)).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class ReferenceFeatures:
    """Feature matrices (M, D) by the id of the protocol that they were extracted under."""

    features: Mapping[str, np.ndarray]
    fingerprints: Mapping[str, str]  # same keys: which videos they came from
    protocols: Mapping[str, dict[str, Any]]  # same keys
    source: str = ""

    @classmethod
    def from_rows(cls, metrics: Mapping[str, SetMetric], rows: Sequence[VideoRow], decoder: str,
                  seed: int) -> ReferenceFeatures:
        """Collect what scoring the reference videos gave, in data-set order."""
        features, fingerprints, protocols = {}, {}, {}
        for name, metric in metrics.items():
            used = [row for row in rows if name in row.features]
            protocol = feature_protocol(metric, decoder, seed)
            key = protocol_id(protocol)
            if used and key not in features:
                features[key] = np.concatenate([row.features[name] for row in used])
                fingerprints[key] = fingerprint([row.content for row in used])
                protocols[key] = protocol
        return cls(features, fingerprints, protocols)

    def find(self, metric: SetMetric, decoder: str, seed: int) -> tuple[np.ndarray, str] | None:
        """(features, fingerprint) for this metric's protocol, or None."""
        key = protocol_id(feature_protocol(metric, decoder, seed))
        return (self.features[key], self.fingerprints[key]) if key in self.features else None

    def why_not(self, metric: SetMetric, decoder: str, seed: int) -> str | None:
        """Why `find` gives None for this metric, and what to do about it; None where it gives features."""
        wanted = feature_protocol(metric, decoder, seed)
        if protocol_id(wanted) in self.features:
            return None
        nearest = min((differing_fields(held, wanted) for held in self.protocols.values()), key=len, default=[])
        differs = "; ".join(nearest) or "it is empty"
        return (f"the reference {self.source} has no features for this protocol ({differs}): "
                f"build it with `evalkit reference build … --metrics {metric.name}` and the same --protocol and --seed")

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file; what the numbers mean is in its header."""
        from safetensors.numpy import save

        header = {"format": FORMAT, "fingerprints": dict(self.fingerprints), "protocols": dict(self.protocols)}
        arrays = {key: np.ascontiguousarray(value) for key, value in self.features.items()}
        return write_atomic(path, save(arrays, metadata={"evalkit": json.dumps(header, sort_keys=True)}))

    @classmethod
    def load(cls, path: str | Path) -> ReferenceFeatures:
        """Read what `save` wrote. FileNotFoundError or ValueError, naming the file."""
        from safetensors import SafetensorError, safe_open

        if not Path(path).is_file():
            raise FileNotFoundError(f"no reference file {path}: make it with `evalkit reference build`")
        try:
            with safe_open(str(path), framework="numpy") as file:
                header = json.loads((file.metadata() or {})["evalkit"])
                if header["format"] != FORMAT:
                    raise ValueError(f"expected format {FORMAT!r}, got {header['format']!r}")
                features = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a dict)
            for key, matrix in features.items():
                if matrix.ndim != 2 or not np.isfinite(matrix).all() or key not in header["fingerprints"]:
                    raise ValueError(f"expected finite (M, D) features with a fingerprint under {key}")
            return cls(features, header["fingerprints"], header["protocols"], str(path))
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a file of `evalkit reference build`: {error}") from error
