"""Muon (Jordan et al., 2024) for the matrices of the blocks, AdamW for the rest, as one optimizer."""
from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from baselines.sharding import piece, whole

QUINTIC = (3.4445, -4.7750, 2.0315)  # a step of Newton-Schulz that takes singular values near 1 quickly, not exactly
FASTER = 10  # rate of the matrices over that of the rest
AT_ONCE = 1 << 28  # numbers of matrices that are turned together: 1 GiB, which is whole where weights are sharded


class Muon(torch.optim.AdamW):
    """What torch.optim.Muon computes, for many matrices of one shape at once: a few launches, not a thousand a step.

    `lr` is that of AdamW's part.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], lr: float, weight_decay: float, momentum: float = 0.95,
                 **adamw: Any) -> None:
        matrices = [p for name, p in parameters.items() if is_hidden_matrix(name, p)]
        if not matrices:
            raise ValueError("expected matrices within blocks, got none; use AdamW")
        decayed = [p for name, p in parameters.items() if p.ndim > 1 and not is_hidden_matrix(name, p)]
        others = [p for p in parameters.values() if p.ndim <= 1]
        super().__init__([{"params": matrices, "lr": FASTER * lr, "momentum": momentum}]
                         + [{"params": some, "weight_decay": decay, "momentum": 0.0}
                            for some, decay in ((decayed, weight_decay), (others, 0.0)) if some],
                         lr=lr, weight_decay=weight_decay, **adamw)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One step; the matrices' gradients are gone after it."""
        group = self.param_groups[0]
        alike: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
        for parameter in group["params"]:
            if parameter.grad is not None:
                alike[parameter.shape].append(parameter)
        settings = {key: group[key] for key in ("lr", "weight_decay", "momentum")}
        for parameters in alike.values():
            count = max(1, AT_ONCE // parameters[0].numel())
            for start in range(0, len(parameters), count):
                self._turn(parameters[start: start + count], **settings)
        for parameter in group["params"]:
            parameter.grad = None  # AdamW leaves out what has none
        return super().step(closure)

    def _turn(self, parameters: list[nn.Parameter], lr: float, weight_decay: float, momentum: float) -> None:
        gradients = [parameter.grad for parameter in parameters]
        means = [self._mean_of(parameter) for parameter in parameters]
        torch._foreach_lerp_(means, gradients, 1 - momentum)
        ahead = torch.stack([whole(one) for one in torch._foreach_lerp(gradients, means, momentum)])
        rows, columns = parameters[0].shape
        torch._foreach_mul_(parameters, 1 - lr * weight_decay)
        updates = orthogonal(ahead).to(parameters[0].dtype).unbind()
        pieces = [piece(update, parameter) for update, parameter in zip(updates, parameters, strict=True)]
        torch._foreach_add_(parameters, pieces, alpha=-lr * max(1, rows / columns) ** 0.5)

    def _mean_of(self, parameter: nn.Parameter) -> Tensor:
        state = self.state[parameter]
        if not state:  # a step is what AdamW looks for when it is loaded
            state.update(momentum_buffer=torch.zeros_like(parameter), step=torch.zeros(()))
        return state["momentum_buffer"]


def orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """(N, rows, columns) with singular values brought to about 1 by Newton-Schulz steps, on a GPU in bfloat16."""
    x, (a, b, c) = matrices.to(torch.float32 if matrices.device.type == "cpu" else torch.bfloat16), QUINTIC
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim == 2 and "blocks." in name
