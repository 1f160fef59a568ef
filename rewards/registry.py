"""Rewards by name, found through the entry points `evalkit.rewards`: ours and any that a user's package brings."""
from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rewards.base import Reward

GROUP = "evalkit.rewards"


def available_rewards() -> list[str]:
    """Names for `load_reward`, in alphabetical order."""
    return sorted(_found())


def load_reward(name: str, **options: Any) -> Reward:
    """The reward called `name` in eval mode, made with `options`: `load_reward("farm", aesthetic="laion")`.

    ValueError for an unknown name, naming those there are; MissingWeights where it needs weights that are not there.
    """
    return reward_class(name)(**options).eval()


def reward_class(name: str) -> type[Reward]:
    """The class of the reward, weights not loaded. ValueError for an unknown name or a class that is no reward."""
    from rewards.base import Reward

    found = _found()
    if name not in found:
        raise ValueError(f"expected a reward of {', '.join(sorted(found))}, got {name!r}")
    loaded = found[name].load()
    if not (isinstance(loaded, type) and issubclass(loaded, Reward)):
        raise ValueError(f"{found[name].value}: expected a subclass of rewards.base.Reward, got {loaded!r}")
    return loaded


def _found() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}
