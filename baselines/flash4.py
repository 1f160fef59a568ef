"""FlashAttention 4 as an operator that torch.compile takes whole.

Of attention forward and backward at the size of Wan2.1-1.3B it takes 84 % of cuDNN's time on an H200.
"""
from __future__ import annotations

from typing import Any

import torch
from flash_attn.cute import interface
from torch import Tensor


def check_device() -> None:
    """ValueError for a GPU before Hopper, on which there is no backward pass."""
    found = torch.cuda.get_device_capability()
    if found < (9, 0):
        raise ValueError(f"expected a GPU of compute capability 9.0 or later, got {found[0]}.{found[1]}")


@torch.library.custom_op("evalkit::flash4", mutates_args=())
def flash4(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Attention of bfloat16 or float16 (B, S, H, D), and the logarithms of its denominators (B, H, S) in float32."""
    out, denominators = interface._flash_attn_fwd(query, key, value, return_lse=True)[:2]
    return out, denominators


@torch.library.custom_op("evalkit::flash4_backward", mutates_args=())
def flash4_backward(query: Tensor, key: Tensor, value: Tensor, out: Tensor, denominators: Tensor, gradient: Tensor,
                    ) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, from that of `out`."""
    found = interface._flash_attn_bwd(query, key, value, out, gradient.contiguous(), denominators)
    return found[0], found[1], found[2]


@flash4.register_fake
def _(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    batch, length, heads, _ = query.shape
    return (query.new_empty(batch, length, heads, value.shape[3]),
            query.new_empty(batch, heads, length, dtype=torch.float32))


@flash4_backward.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output)


def _backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return flash4_backward(*ctx.saved_tensors, gradient)


flash4.register_autograd(_backward, setup_context=_keep)
