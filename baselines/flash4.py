"""FlashAttention 4 as an operator that torch.compile takes: faster on Hopper and Blackwell than what torch brings."""
from __future__ import annotations

from typing import Any

import torch
from flash_attn.cute import interface
from torch import Tensor


@torch.library.custom_op("evalkit::flash4", mutates_args=())
def flash4(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Attention of bfloat16 or float16 (B, S, H, D), and the logarithm of its denominators (B, H, S)."""
    out, denominators = interface._flash_attn_fwd(query, key, value, return_lse=True)[:2]
    return out, denominators


@flash4.register_fake
def _(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    batch, length, heads, _ = query.shape
    return (query.new_empty(*query.shape[:3], value.shape[3]),
            query.new_empty(batch, heads, length, dtype=torch.float32))


@torch.library.custom_op("evalkit::flash4_backward", mutates_args=())
def flash4_backward(query: Tensor, key: Tensor, value: Tensor, out: Tensor, denominators: Tensor, gradient: Tensor,
                    ) -> tuple[Tensor, Tensor, Tensor]:
    found = interface._flash_attn_bwd(query, key, value, out, gradient.contiguous(), denominators)
    return found[0], found[1], found[2]


@flash4_backward.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(x.new_empty(x.shape) for x in (query, key, value))


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output)


def _backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return flash4_backward(*ctx.saved_tensors, gradient)


flash4.register_autograd(_backward, setup_context=_keep)
