"""The contract of a metric, and the registry through which built-in, reward-backed and users' metrics are found."""
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, ClassVar, Literal

from torch import Tensor

from evalkit.clips import ClipBatch, ClipSpec
from evalkit.features.base import Extractor, make_extractor


@dataclass(frozen=True)
class Measurement:
    """What one pass over a batch of clips found: the value, what it is made of, and its course over time."""

    value: Tensor  # (B,)
    components: Mapping[str, Tensor] = field(default_factory=dict)  # name -> (B,)
    curves: Mapping[str, Tensor] = field(default_factory=dict)  # name -> (B, T) or shorter, for the report's plots


class Metric(ABC):
    """What every metric declares. Subclass `PerClipMetric` or `SetMetric`, not this."""

    name: ClassVar[str]
    version: ClassVar[int] = 1  # raise on any change of the numbers
    higher_is_better: ClassVar[bool]
    unit: ClassVar[str] = ""  # "" is a pure number
    range: ClassVar[tuple[float, float]] = (float("-inf"), float("inf"))
    summary: ClassVar[str] = ""  # one line for `evalkit list`
    spec: ClassVar[ClipSpec] = ClipSpec()
    extractor_keys: ClassVar[tuple[str, ...]] = ()
    needs_prompts: ClassVar[bool] = False
    needs_fps: ClassVar[bool] = False
    needs_reference: ClassVar[Literal["", "set", "paired"]] = ""

    def extractors(self) -> list[Extractor]:
        """The extractors whose features `score` reads; MissingWeights where one cannot be built here."""
        return [make_extractor(key) for key in self.extractor_keys]

    def parameters_of_protocol(self) -> dict[str, Any]:
        """Constants beyond the declarations above that change the number; a subclass may add to them."""
        return {}

    def protocol(self) -> dict[str, Any]:
        """Everything of the metric that its number depends on; the runner adds decoder and reference."""
        return {
            "metric": self.name,
            "version": self.version,
            "clips": self.spec.protocol(),
            "extractors": [extractor.protocol() for extractor in self.extractors()],
            "parameters": self.parameters_of_protocol(),
        }


class PerClipMetric(Metric):
    """One number per clip, averaged over videos, its interval from a bootstrap clustered by prompt."""

    def score(self, generated: ClipBatch, reference: ClipBatch | None) -> Tensor:
        """(B,) scores. Implement this, or `measure` where there are components or curves to show."""
        return self.measure(generated, reference).value

    def measure(self, generated: ClipBatch, reference: ClipBatch | None) -> Measurement:
        """The score with its components and curves."""
        return Measurement(self.score(generated, reference))


@dataclass(frozen=True)
class SetScore:
    """A number for a whole set, or the reason why there is none."""

    value: float | None
    ci95: tuple[float, float] | None
    n: int
    reason: str | None = None
    floor: float | None = None  # the same number for real against disjoint real at the same n
    details: Mapping[str, Any] = field(default_factory=dict)


class SetMetric(Metric):
    """One number from the features of two sets (or of one, grouped by prompt: see `group_by_prompt`)."""

    needs_reference = "set"
    group_by_prompt: ClassVar[bool] = False
    minimum: ClassVar[int] = 128  # clips a side; fewer is an error, never a number

    def pool(self, features: Mapping[str, Any]) -> Tensor:
        """(B, D) set features from what the extractors returned; by default the only extractor's own (B, D)."""
        (value,) = features.values()
        return value.mean(dim=1) if value.ndim == 3 else value

    @abstractmethod
    def compute(self, generated: Tensor, reference: Tensor | None, prompts: list[str] | None, seed: int) -> SetScore:
        """The score from (N, D) and (M, D) float64 features; `prompts` where the metric groups by prompt."""


_METRICS: dict[str, type[Metric]] = {}


def register_metric(name: str) -> Callable[[type[Metric]], type[Metric]]:
    """Class decorator: makes the metric known as `name` to `evaluate`, the command line and every report."""

    def add(cls: type[Metric]) -> type[Metric]:
        if "higher_is_better" not in {key for base in cls.__mro__ for key in vars(base)}:
            raise TypeError(f"metric {name!r}: expected a class attribute higher_is_better")
        if name in _METRICS and _METRICS[name].__qualname__ != cls.__qualname__:
            raise ValueError(f"metric {name!r} is registered already, by {_METRICS[name].__module__}")
        cls.name = name
        _METRICS[name] = cls
        return cls

    return add


def available_metrics() -> dict[str, type[Metric]]:
    """Every metric by name: evalkit's own and those that installed packages announce as `evalkit.metrics`."""
    import evalkit.metrics.registry  # noqa: F401  (imports the modules that register themselves)

    for entry in sorted(entry_points(group="evalkit.metrics"), key=lambda entry: entry.name):
        entry.load()
    return dict(sorted(_METRICS.items()))


def make_metric(name: str) -> Metric:
    """The metric called `name`; ValueError names those that exist."""
    known = available_metrics()
    if name not in known:
        raise ValueError(f"unknown metric {name!r}; there are: {', '.join(known)}")
    return known[name]()
