"""Reward models: differentiable numbers of a clip, each the metric of the same name.

`from rewards import load_reward; reward = load_reward("farm")`.
"""
from rewards.registry import available_rewards, load_reward

__all__ = ["available_rewards", "load_reward"]
