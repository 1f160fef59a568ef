"""FSDP: every process holds its piece of parameters, gradients, averages and optimizer state; what is saved is whole.

Pieces are DTensors, which the optimizer, the averages and an adapter's copies compute with as with any tensor.
"""
from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from evalkit.errors import UsageError


def check_sharding() -> None:
    """UsageError where there is one process alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        raise UsageError("--shard: expected several processes to share the weights, got one; start them by `torchrun "
                         "--nproc-per-node N -m evalkit baseline ...`, or leave --shard out")


def shard_transformer(transformer: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Leave this process its piece of every parameter, in place; blocks are gathered one by one to compute in `dtype`.

    All processes must hold the same weights, and call the transformer equally often from now on. UsageError for weights
    of several precisions where torch is too old for them.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    if torch.__version__ < (2, 9) and len({parameter.dtype for parameter in transformer.parameters()}) > 1:
        raise UsageError("--shard: adapters beside weights in half precision need torch 2.9, this is "
                         f"{torch.__version__}; install a newer one, or leave --shard out")
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")  # which nothing writes to
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    # Autocast would keep a half-precision copy of every gathered matrix until its backward pass. Inputs stay as they
    # are: times and rotations need float32.
    half = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    policy = MixedPrecisionPolicy() if dtype == torch.float32 else half
    for block in transformer.blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    # By default the root stays gathered after its pass: weights written to its pieces would have no effect on the next.
    fully_shard(transformer, mesh=mesh, reshard_after_forward=True)


def whole(tensor: Tensor) -> Tensor:
    """A tensor without gradient, put together where it is in pieces: then all processes must call this."""
    from torch.distributed.tensor import DTensor

    return tensor.detach().full_tensor() if isinstance(tensor, DTensor) else tensor.detach()


def gathered(state: Any, keep: bool) -> Any:
    """A dictionary, nested or not, of whole tensors, those that were in pieces on the CPU: one GPU may not hold them.

    All processes must call this; only those that `keep` are given what was in pieces.
    """
    from torch.distributed.tensor import DTensor

    if isinstance(state, Mapping):
        return {name: gathered(value, keep) for name, value in state.items()}
    if not isinstance(state, DTensor):
        return state
    value = whole(state)
    return value.cpu() if keep else None


def piece(value: Tensor, like: Tensor | None) -> Tensor:
    """This process's piece of a whole tensor where `like` is in pieces, else the tensor itself."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor):
        return value
    # cloned, since the piece is a view of the whole
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None).clone()


def optimizer_pieces(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """This process's pieces of a whole state of the optimizer, as of its parameters."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return state | {"state": {k: {name: piece(value, parameters[k] if value.ndim else None)  # a step is a number
                                  for name, value in one.items()} for k, one in state["state"].items()}}
