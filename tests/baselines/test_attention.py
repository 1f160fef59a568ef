import torch
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttnProcessor

from baselines.attention import FusedRotary


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
    transformer.set_attention_backend("native")
    assert transformer.blocks[0].attn1.processor._attention_backend == "native"
