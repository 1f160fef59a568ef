import sys
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttnProcessor

from baselines.attention import FusedRotary
from baselines.model import VideoDiffusion
from baselines.presets import find_preset
from evalkit.errors import UsageError

try:
    from baselines.flash4 import flash4
except ImportError:
    flash4 = None


def _outputs(transformer, processor):
    transformer.set_attn_processor(processor)
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 3, 8, 16, 24, generator=generator).requires_grad_()
    text = torch.randn(2, 5, 12, generator=generator).requires_grad_()
    out = transformer(x, torch.tensor([100.0, 700.0]), text, return_dict=False)[0]
    weight = torch.randn(out.shape, generator=generator)
    parameters = [x, text, *(p for p in transformer.parameters() if p.requires_grad)]
    return out, torch.autograd.grad((out * weight).sum(), parameters)


def test_output_and_every_gradient_equal_those_of_diffusers_own_attention():
    torch.manual_seed(0)
    transformer = WanTransformer3DModel(patch_size=[2, 4, 4], num_attention_heads=2, attention_head_dim=24,
                                        num_layers=2, ffn_dim=32, in_channels=3, out_channels=3, text_dim=12,
                                        freq_dim=16)
    theirs, their_gradients = _outputs(transformer, WanAttnProcessor())
    ours, our_gradients = _outputs(transformer, FusedRotary())
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    for mine, other in zip(our_gradients, their_gradients, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_attention_backends_can_be_chosen_and_what_is_not_there_is_a_usage_error():
    model = VideoDiffusion.build(find_preset("smoke"))
    model.set_attention("native")
    assert model.transformer.blocks[0].attn1.processor._attention_backend == "native"
    with pytest.raises(UsageError, match="--attention nonsense"):
        model.set_attention("nonsense")


@pytest.mark.skipif(flash4 is not None, reason="flash-attn-4 is installed")
def test_flash_attention_4_that_is_not_installed_is_said_with_the_command_that_installs_it():
    with pytest.raises(UsageError, match=r"--attention fa4: .*pip install"):
        VideoDiffusion.build(find_preset("smoke")).set_attention("fa4")


@pytest.mark.skipif(flash4 is None or not torch.cuda.is_available(), reason="needs flash-attn-4 and a GPU")
@pytest.mark.parametrize("keys", [640, 77])
def test_flash_attention_4_and_its_gradient_equal_attention_in_float64(keys):
    torch.manual_seed(0)
    inputs = [torch.randn(2, n, 4, 128, device="cuda").bfloat16().requires_grad_() for n in (640, keys, keys)]
    out = flash4(*inputs)[0]
    weight = torch.randn_like(out)
    exact = [x.detach().double().transpose(1, 2).requires_grad_() for x in inputs]
    expected = F.scaled_dot_product_attention(*exact)
    wanted = torch.autograd.grad(expected, exact, weight.double().transpose(1, 2))
    found = torch.autograd.grad(out, inputs, weight)
    for mine, other in zip((out, *found), (expected, *wanted), strict=True):
        error = (mine.double().transpose(1, 2) - other).norm() / other.norm()
        assert error.item() < 0.004  # of bfloat16
    torch.library.opcheck(flash4, [x.detach() for x in inputs])


@pytest.mark.skipif(flash4 is not None, reason="flash-attn-4 is installed: the test above runs it")
def test_the_operator_has_the_shapes_and_gradients_of_attention_where_its_kernels_are_replaced_by_exact_ones(
        monkeypatch):
    def exact(q, k, v):
        return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2).contiguous()

    def scores(q, k):
        return torch.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5

    def forward(q, k, v, return_lse):
        return exact(q, k, v), scores(q, k).logsumexp(-1), None, None, None

    def backward(q, k, v, out, gradient, denominators):
        weights = (scores(q, k) - denominators[..., None]).exp()
        of_weights = torch.einsum("bqhd,bkhd->bhqk", gradient, v) - (gradient * out).sum(-1).mT[..., None]
        of_scores = weights * of_weights / q.shape[-1] ** 0.5
        return (torch.einsum("bhqk,bkhd->bqhd", of_scores, k), torch.einsum("bhqk,bqhd->bkhd", of_scores, q),
                torch.einsum("bhqk,bqhd->bkhd", weights, gradient))

    interface = ModuleType("flash_attn.cute.interface")
    interface._flash_attn_fwd, interface._flash_attn_bwd = forward, backward
    cute = ModuleType("flash_attn.cute")
    cute.interface = interface
    for name, module in (("flash_attn", ModuleType("flash_attn")), ("flash_attn.cute", cute)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setitem(sys.modules, "baselines.flash4", None)  # and not there afterwards, whatever is imported now
    del sys.modules["baselines.flash4"]
    model = VideoDiffusion.build(find_preset("smoke"))
    x, t, text = torch.randn(2, *model.latent_shape), torch.tensor([0.2, 0.7]), torch.randn(2, 5, 128)
    torch.nn.init.normal_(model.transformer.proj_out.weight)
    weights = list(model.transformer.parameters())

    def gradients():
        return torch.autograd.grad(model.velocity(x, t, text).square().sum(), weights)

    theirs = gradients()
    model.set_attention("fa4")
    assert all(processor.flash4 for processor in model.transformer.attn_processors.values())
    for mine, other in zip(gradients(), theirs, strict=True):
        assert (mine - other).norm() <= 1e-4 * other.norm() + 1e-6
    torch.library.opcheck(torch.ops.evalkit.flash4.default,
                          tuple(torch.randn(2, n, 3, 8, requires_grad=True) for n in (6, 5, 5)))
    compiled = torch.compile(lambda q, k, v: torch.ops.evalkit.flash4(q * 2, k, v)[0], backend="aot_eager",
                             fullgraph=True)
    q, k, v = (torch.randn(2, n, 3, 8, requires_grad=True) for n in (6, 5, 5))
    torch.testing.assert_close(compiled(q, k, v), exact(q * 2, k, v))
