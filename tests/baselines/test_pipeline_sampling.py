import json

import numpy as np
import pytest
import torch

from baselines.pipeline_sampling import sample_pipeline
from evalkit.data.datasets import find_videos
from evalkit.data.video import read_video
from evalkit.errors import UsageError

SETTINGS = {"num_inference_steps": 2, "guidance_scale": 1.0, "height": 16, "width": 16, "num_frames": 5}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A Wan pipeline as diffusers saves it, tiny, with random weights."""
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

    torch.manual_seed(0)
    words = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2, "surfing": 3, "archery": 4}, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    config = UMT5Config(vocab_size=8, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    pipeline = WanPipeline(
        PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"),
        UMT5EncoderModel(config),
        AutoencoderKLWan(base_dim=4, z_dim=2, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.0, 0.1],
                         latents_std=[1.0, 2.0]),
        UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        WanTransformer3DModel(patch_size=[1, 1, 1], num_attention_heads=1, attention_head_dim=16, num_layers=1,
                              ffn_dim=16, in_channels=2, out_channels=2, text_dim=16, freq_dim=8))
    with torch.no_grad():
        pipeline.vae.decoder.conv_out.weight.mul_(30)  # so that random weights make more than one grey
    folder = tmp_path_factory.mktemp("pipeline")
    pipeline.save_pretrained(folder)
    return folder


def test_a_pipeline_of_diffusers_is_sampled_once_per_prompt_and_seed(pipeline, tmp_path):
    (tmp_path / "prompts.txt").write_text("surfing\narchery\n")

    def run(**changes):
        return sample_pipeline(pipeline, str(tmp_path / "prompts.txt"), tmp_path / "out", device="cpu", samples=2,
                               options=SETTINGS | changes)

    items = find_videos(str(run()))
    assert [(item.prompt, item.seed) for item in items] == [(text, seed) for text in ("surfing", "archery")
                                                            for seed in (0, 1)]
    clips = [read_video(item.source).frames for item in items]
    assert all(clip.shape == (5, 3, 16, 16) for clip in clips)
    assert not np.array_equal(clips[0], clips[1])  # another seed
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.mp4")}
    items[0].source.unlink()
    run()
    assert np.array_equal(read_video(items[0].source).frames, clips[0])
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.mp4") if path != items[0].source}
    assert kept == {path: when for path, when in written.items() if path != items[0].source}
    with pytest.raises(UsageError, match="num_inference_steps 2, now 3"):
        run(num_inference_steps=3)


def test_a_folder_that_is_no_pipeline_is_refused(tmp_path):
    (tmp_path / "prompts.txt").write_text("surfing\n")
    with pytest.raises(UsageError, match=r"expected a folder with model_index\.json"):
        sample_pipeline(tmp_path, str(tmp_path / "prompts.txt"), tmp_path / "out")
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "NoSuchPipeline"}))
    with pytest.raises(UsageError, match="not a pipeline that diffusers can load"):
        sample_pipeline(tmp_path, str(tmp_path / "prompts.txt"), tmp_path / "out", device="cpu")
