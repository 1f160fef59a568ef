import pytest
import torch
import torch.nn.functional as F
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttnProcessor

from baselines.attention import FusedRotary, set_attention
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


def test_attention_backends_can_still_be_chosen():
    transformer = WanTransformer3DModel(patch_size=[2, 4, 4], num_attention_heads=2, attention_head_dim=24,
                                        num_layers=1, ffn_dim=32, in_channels=3, out_channels=3, text_dim=12,
                                        freq_dim=16)
    transformer.set_attn_processor(FusedRotary())
    set_attention(transformer, "native")
    assert transformer.blocks[0].attn1.processor._attention_backend == "native"
    with pytest.raises(UsageError, match="--attention nonsense"):
        set_attention(transformer, "nonsense")


@pytest.mark.skipif(flash4 is not None, reason="flash-attn-4 is installed")
def test_flash_attention_4_that_is_not_installed_is_said_with_the_command_that_installs_it():
    with pytest.raises(UsageError, match=r"--attention fa4: .*pip install"):
        set_attention(None, "fa4")


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
