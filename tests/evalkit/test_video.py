"""Reading videos: lossless round trips, frame choice, rates, orientation, alpha, arrays and folders."""
import math
from dataclasses import replace
from fractions import Fraction
from io import BytesIO

import av
import numpy as np
import pytest
import torch
from PIL import Image

from evalkit.clips import ClipSpec
from evalkit.data.video import VideoError, content_hash, probe, read_clips, read_video, write_video

NATIVE = ClipSpec(size=None, min_frames=1, max_frames=1000)


@pytest.fixture(scope="module")
def noise():
    return torch.randint(0, 256, (24, 3, 37, 51), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def smooth():
    rows, columns = torch.meshgrid(torch.linspace(0, 1, 120), torch.linspace(0, 1, 160), indexing="ij")
    frame = torch.stack([rows, columns, 1 - rows * columns])
    return torch.stack([(frame * (0.6 + 0.04 * t)).clamp(0, 1) for t in range(10)]).mul(255).round().byte()


@pytest.fixture(scope="module")
def noise_file(noise, tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "noise.mkv", noise, 12, codec="ffv1")


def one(source, spec=NATIVE, **kwargs):
    found = read_clips(source, [spec], **kwargs)[spec]
    if isinstance(found, VideoError):
        raise found
    assert len(found) == 1
    return found[0]


def write_at(path, frames, pts, codec="ffv1", prepare=lambda stream: None):
    """Frames at the given milliseconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=1000, options={"qp": "0"} if codec == "libx264" else {})
        stream.height, stream.width = frames.shape[2:]
        stream.pix_fmt = "bgr0" if codec == "ffv1" else "yuv444p"
        prepare(stream)
        for pixels, stamp in zip(frames, pts, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels.permute(1, 2, 0).contiguous().numpy(), format="rgb24")
            frame.pts = stamp
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(("name", "codec", "crf"), [("a.mkv", "ffv1", None), ("a.mp4", "libx264rgb", 0),
                                                     ("a.avi", "png", None)])
def test_lossless_files_of_odd_size_read_back_to_the_bit(noise, tmp_path, name, codec, crf):
    clip = read_video(write_video(tmp_path / name, noise, 12.5, codec=codec, crf=crf))
    assert torch.equal(clip.frames, noise) and clip.frames.is_contiguous()
    assert (clip.fps, clip.first_frame) == (12.5, 0)


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.webm", "libvpx-vp9"), ("a.avi", "mjpeg")])
@pytest.mark.parametrize("cut", [0, 1])
def test_lossy_files_read_back_without_a_colour_cast(smooth, tmp_path, name, codec, cut):
    frames = smooth[..., cut:, cut:].contiguous()
    options = {"qmin": "1", "qmax": "2"} if codec == "mjpeg" else {}
    read = read_video(write_video(tmp_path / name, frames, 8, codec=codec, crf=8, options=options)).frames
    assert read.shape == frames.shape
    difference = read.float() - frames.float()
    assert difference.abs().mean() < 1.5 and difference.mean(dim=(0, 2, 3)).abs().max() < 1


@pytest.mark.parametrize("interpolation", ["area", "bilinear", "bicubic"])
def test_an_array_and_its_lossless_file_give_the_same_resized_clip(noise, noise_file, interpolation):
    spec = ClipSpec(size=24, interpolation=interpolation)
    clip = one(noise_file, spec)
    assert clip.frames.shape == (24, 3, 24, 33)
    assert torch.equal(clip.frames, one(noise, spec).frames)


def test_area_resize_is_the_block_mean(noise):
    blocks = noise[:, :, :36, :48].contiguous()
    expected = torch.nn.functional.avg_pool2d(blocks.float(), 4)
    read = one(blocks, ClipSpec(size=(9, 12))).frames.float()
    assert (read - expected).abs().max() <= 1.0


def test_width_that_is_no_multiple_of_16_is_right_up_to_its_last_column(smooth, tmp_path):
    frames = smooth[..., :150].contiguous()
    read = read_video(write_video(tmp_path / "a.mp4", frames, 8, crf=1)).frames
    assert (read[..., -16:].float() - frames[..., -16:].float()).abs().mean() < 2


def test_all_specs_are_served_by_one_pass(noise, noise_file):
    specs = [ClipSpec(num_frames=4, size=None), ClipSpec(num_frames=5, placement="uniform", size=None),
             ClipSpec(num_frames=4, placement="center", stride=2, size=None), ClipSpec(num_frames=25)]
    found = read_clips(noise_file, specs)
    assert torch.equal(found[specs[0]][0].frames, noise[:4])
    assert torch.equal(found[specs[1]][0].frames, noise[[2, 7, 12, 16, 21]])
    assert torch.equal(found[specs[2]][0].frames, noise[8:15:2])
    assert (found[specs[2]][0].first_frame, found[specs[2]][0].fps) == (8, 6)
    assert found[specs[1]][0].fps == pytest.approx(12 * 5 / 24)
    assert str(found[specs[3]]) == "too short: 24 frames, needs 25"


def test_files_too_big_to_hold_are_read_a_second_time(noise, noise_file, monkeypatch):
    monkeypatch.setattr("evalkit.data.container.HELD_BYTES", 0)
    assert torch.equal(one(noise_file).frames, noise)


def test_random_clips_depend_on_seed_and_content_alone(noise, noise_file, tmp_path):
    spec = ClipSpec(num_frames=3, placement="random", clips_per_video=6, size=None)
    starts = [[clip.first_frame for clip in read_clips(noise_file, [spec], seed=seed)[spec]] for seed in (0, 0, 1)]
    assert starts[0] == starts[1] != starts[2]
    copy = tmp_path / "other_name.mkv"
    copy.write_bytes(noise_file.read_bytes())
    clips = read_clips(copy, [spec, NATIVE])[spec]
    assert [clip.first_frame for clip in clips] == starts[0]
    assert all(torch.equal(clip.frames, noise[clip.first_frame :][:3]) for clip in clips)


def test_crop_is_the_central_square_on_even_offsets(noise):
    clip = one(noise, ClipSpec(size=None, crop=30))
    assert torch.equal(clip.frames, noise[:, :, 2:32, 10:40])


def test_variable_rate_is_resampled_to_even_times(noise, tmp_path):
    pts = [0, 100, 200, 300, 700, 800, 900, 1000]
    path = write_at(tmp_path / "a.mkv", noise[:8], pts)
    info = probe(path)
    assert info.variable_rate and info.fps == pytest.approx(7)
    clip = one(path)
    assert torch.equal(clip.frames, noise[[0, 1, 3, 3, 4, 4, 6, 7]])  # nearest to 0, 143, 286, 429, 571 … ms
    assert torch.equal(one(path, fps=10).frames, noise[:8])  # a rate from a manifest replaces the timestamps


def test_millisecond_timestamps_are_not_a_variable_rate(noise, tmp_path):
    info = probe(write_at(tmp_path / "a.mkv", noise, [round(i * 1000 / 29.97) for i in range(24)]))
    assert not info.variable_rate and info.fps == pytest.approx(29.97, rel=2e-3)


def test_resampling_to_a_lower_rate_takes_the_nearest_frames(noise, noise_file):
    clip = one(noise_file, ClipSpec(fps=4, size=None))
    assert torch.equal(clip.frames, noise[::3]) and clip.fps == 4
    clip = one(noise_file, ClipSpec(fps=4, stride=2, size=None))
    assert torch.equal(clip.frames, noise[::6]) and clip.fps == 2


@pytest.mark.parametrize(("degrees", "quarter_turns"), [(0, 0), (90, 1), (180, 2), (270, 3), (-90, 3)])
@pytest.mark.parametrize("mirror", [False, True])
def test_the_display_matrix_turns_and_mirrors(smooth, tmp_path, degrees, quarter_turns, mirror):
    path = write_at(tmp_path / "a.mp4", smooth, range(0, 1000, 100), "libx264",
                    lambda stream: stream.set_display_rotation(degrees, hflip=mirror))
    expected = torch.rot90(smooth, quarter_turns, dims=(2, 3))  # PyAV counts counterclockwise, as rot90 does
    expected = expected.flip(3) if mirror else expected
    read = one(path).frames
    assert read.shape == expected.shape
    assert (read.float() - expected.float()).abs().mean() < 2
    small = one(path, ClipSpec(size=60)).frames
    assert small.shape[2:] == ((60, 80) if quarter_turns % 2 == 0 else (80, 60))
    if not mirror:
        assert probe(path).rotation == -degrees % 360


def test_transparent_pixels_become_black(tmp_path):
    rgba = np.zeros((4, 32, 32, 4), np.uint8)
    rgba[..., 0], rgba[:, :16, :, 3], rgba[:, 16:24, :, 3] = 200, 255, 128
    images = [Image.fromarray(frame + np.array([0, 40 * i, 0, 0], np.uint8)) for i, frame in enumerate(rgba)]
    for name in ("a.png", "a.webp"):
        images[0].save(tmp_path / name, save_all=True, append_images=images[1:], duration=100, lossless=True)
        frames = one(tmp_path / name).frames
        assert frames.shape == (4, 3, 32, 32)
        assert frames[0, 0, :16].unique().tolist() == [200]
        assert frames[0, 0, 16:24].unique().tolist() == [100]
        assert frames[:, :, 24:].max() == 0


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_animated_images_have_frames_and_a_rate(tmp_path, suffix):
    images = [Image.new("RGB", (40, 30), (20 * i, 100, 255 - 20 * i)) for i in range(8)]
    path = tmp_path / f"a.{suffix}"
    images[0].save(path, save_all=True, append_images=images[1:], duration=100, lossless=True)
    clip = one(path)
    assert clip.frames.shape == (8, 3, 30, 40) and clip.fps == pytest.approx(10)
    colours = clip.frames[:, :, 15, 20].int()
    assert (colours - torch.tensor([[20 * i, 100, 255 - 20 * i] for i in range(8)])).abs().max() <= 2


def test_a_folder_of_frames_is_read_in_natural_order(noise, tmp_path):
    for index, frame in enumerate(noise[:12]):
        Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy()).save(tmp_path / f"frame_{index}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    clip = one(tmp_path)
    assert torch.equal(clip.frames, noise[:12]) and math.isnan(clip.fps)
    assert one(tmp_path, fps=8).fps == 8
    with pytest.raises(VideoError, match="no frame rate"):
        one(tmp_path, ClipSpec(fps=4))
    Image.new("RGB", (8, 8)).save(tmp_path / "frame_12.png")
    with pytest.raises(VideoError, match="frame size changes from 51x37 to 8x8"):
        one(tmp_path)


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_jpeg_is_one_frame_turned_as_its_exif_data_say(smooth, tmp_path, turn):
    shown = Image.fromarray(smooth[0].permute(1, 2, 0).contiguous().numpy())
    ways = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90",
            7: "TRANSVERSE", 8: "ROTATE_270"}  # how what is stored comes from what is shown
    stored = shown.transpose(Image.Transpose[ways[turn]]) if turn > 1 else shown
    exif = Image.Exif()
    exif[0x0112] = turn
    stored.save(tmp_path / "a.jpg", quality=97, exif=exif)
    clip = one(tmp_path / "a.jpg", ClipSpec(min_frames=1, size=None))
    assert clip.frames.shape == (1, *smooth.shape[1:])
    assert (clip.frames[0].float() - smooth[0].float()).abs().mean() < 1.5


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_frames_of_a_folder_are_turned_as_their_exif_data_say(smooth, tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6
    for index, frame in enumerate(smooth[:3]):
        stored = Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy()).transpose(Image.Transpose.ROTATE_90)
        stored.save(tmp_path / f"{index}.{suffix}", quality=97, exif=exif)
    assert (one(tmp_path).frames.float() - smooth[:3].float()).abs().mean() < 1.5


def test_a_motion_jpeg_with_exif_data_is_refused_in_one_line(smooth, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    with av.open(str(tmp_path / "a.avi"), "w") as out:
        stream = out.add_stream("mjpeg", rate=8)
        stream.width, stream.height, stream.pix_fmt = smooth.shape[3], smooth.shape[2], "yuvj420p"
        for index, frame in enumerate(smooth[:4]):
            buffer = BytesIO()
            Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy()).save(buffer, "jpeg", exif=exif)
            packet = av.Packet(buffer.getvalue())
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, index, index, Fraction(1, 8)
            out.mux(packet)
    with pytest.raises(VideoError, match="EXIF in motion JPEG"):
        one(tmp_path / "a.avi")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_exif_data_change_no_pixel_and_hide_no_damage(smooth, tmp_path, suffix):
    image, exif = Image.fromarray(smooth[0].permute(1, 2, 0).contiguous().numpy()), Image.Exif()
    exif[0x010F] = "a camera"
    image.save(tmp_path / f"bare.{suffix}", quality=90)
    image.save(tmp_path / f"told.{suffix}", quality=90, exif=exif)
    bare, told = (one(tmp_path / f"{name}.{suffix}", ClipSpec(min_frames=1, size=None)).frames for name in
                  ("bare", "told"))
    assert torch.equal(bare, told)
    content = (tmp_path / f"told.{suffix}").read_bytes()
    (tmp_path / f"cut.{suffix}").write_bytes(content[:len(content) * 2 // 3])
    with pytest.raises(VideoError, match="corrupt"):
        one(tmp_path / f"cut.{suffix}", ClipSpec(min_frames=1, size=None))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_damaged_exif_data_say_nothing(smooth, tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    Image.fromarray(smooth[0].permute(1, 2, 0).contiguous().numpy()).save(tmp_path / f"a.{suffix}", exif=exif)
    content = bytearray((tmp_path / f"a.{suffix}").read_bytes())
    start, rng = content.index(b"MM\0*") if b"MM\0*" in content else content.index(b"II*\0"), np.random.default_rng(0)
    for _ in range(30):
        damaged = bytearray(content)
        for at in rng.integers(start, start + 40, 3):
            damaged[at] = rng.integers(256)
        (tmp_path / f"a.{suffix}").write_bytes(damaged)
        assert len(one(tmp_path / f"a.{suffix}", ClipSpec(min_frames=1, size=None)).frames) == 1


@pytest.mark.parametrize("suffix", ["jpg", "webp", "bmp"])
def test_folders_of_other_image_formats_have_the_right_colours(smooth, tmp_path, suffix):
    for index, frame in enumerate(smooth[:3]):
        Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy()).save(tmp_path / f"{index}.{suffix}", quality=97)
    assert (one(tmp_path).frames.float() - smooth[:3].float()).abs().mean() < 1.5


def test_arrays_and_array_files_are_the_frames_they_hold(noise, tmp_path):
    last = noise.permute(0, 2, 3, 1).contiguous()
    np.save(tmp_path / "a.npy", last.numpy())
    np.savez(tmp_path / "a.npz", frames=noise.numpy(), prompt=np.zeros(3))
    torch.save({"video": noise.float() / 255, "step": 3}, tmp_path / "a.pt")
    sources = [noise, last, noise.numpy(), noise.double() / 255, tmp_path / "a.npy", tmp_path / "a.npz",
               tmp_path / "a.pt"]
    for source in sources:
        assert torch.equal(one(source).frames, noise)
    assert math.isnan(one(noise).fps) and one(noise, ClipSpec(size=None, stride=3), fps=12).fps == 4


@pytest.mark.parametrize(("array", "message"), [
    (np.zeros((5, 3, 8, 3), np.uint8), "ambiguous"), (np.zeros((8, 8, 3), np.uint8), r"expected \(T, H, W, 3\)"),
    (np.zeros((5, 3, 8, 8), np.int64), "int64"), (np.full((5, 3, 8, 8), 255.0), r"\[255, 255\]"),
    (np.full((5, 3, 8, 8), np.nan), "nan"), (np.zeros((0, 3, 8, 8), np.uint8), "no frames"),
])
def test_arrays_that_can_be_misread_are_refused(array, message):
    with pytest.raises(VideoError, match=message):
        one(array)


def test_content_hash_sees_bytes_and_not_names(noise, noise_file, tmp_path):
    copy = tmp_path / "copy.mkv"
    copy.write_bytes(noise_file.read_bytes())
    assert content_hash(copy) == content_hash(str(noise_file))
    copy.write_bytes(noise_file.read_bytes()[:-1] + b"\0")
    assert content_hash(copy) != content_hash(noise_file)
    assert content_hash(noise) == content_hash(noise.numpy()) != content_hash(noise[1:])
    assert content_hash(noise) != content_hash(noise.reshape(24, 3, 51, 37))


def test_one_frame_is_a_video_where_one_is_enough(noise, tmp_path):
    path = write_video(tmp_path / "a.mp4", noise[:1], 8)
    assert one(path).frames.shape == (1, 3, 37, 51)
    with pytest.raises(VideoError, match="too short: 1 frames, needs 2"):
        one(path, ClipSpec())


def test_an_interrupted_write_leaves_nothing(noise, tmp_path):
    with pytest.raises(av.error.FFmpegError):
        write_video(tmp_path / "a.mp4", noise, 8, options={"x264-params": "bframes=x"}, pixel_format="pal8")
    assert not list(tmp_path.iterdir())


def test_wrong_arguments_are_named(noise, noise_file, tmp_path):
    with pytest.raises(ValueError, match="decoder: expected one of pyav"):
        read_clips(noise_file, [NATIVE], decoder="opencv")
    with pytest.raises(ValueError, match="fps: expected a positive"):
        read_clips(noise_file, [NATIVE], fps=0)
    with pytest.raises(ValueError, match=r"expected \(T, 3, H, W\) uint8"):
        write_video(tmp_path / "a.mp4", noise.float(), 8)


def test_torchcodec_reads_the_same_frames_or_says_why_it_cannot(noise, noise_file):
    from evalkit.data.torchcodec import why_not

    if why_not():
        with pytest.raises(VideoError, match=r"torchcodec.*does not work here"):
            one(noise_file, decoder="torchcodec")
    else:
        assert torch.equal(one(noise_file, decoder="torchcodec").frames, noise)
    assert torch.equal(one(noise_file, decoder="auto").frames, noise)


def test_real_clips_of_every_kind_are_read(assets):
    paths = [*sorted(assets.glob("data/ucf101/*/*.avi"))[:2], *sorted(assets.glob("data/natural/*.m*"))[:9],
             *sorted(assets.glob("data/generated/gifs/*.gif"))[:2]]
    spec = ClipSpec(num_frames=8, size=64)
    for path in paths:
        clip = one(path, spec)
        info = probe(path)
        assert clip.frames.shape[:2] == (8, 3) and min(clip.frames.shape[2:]) == 64
        assert clip.fps == info.fps and info.frames >= 8 and clip.frames.float().std() > 5


def test_specs_that_share_a_conversion_read_what_each_reads_alone(noise_file):
    native = ClipSpec(size=None, max_frames=6)
    small = replace(native, size=16)
    specs = [native, replace(native, size=4096), replace(native, crop=16), small, replace(small, max_frames=3),
             replace(small, crop=8), replace(small, interpolation="bicubic")]
    together = read_clips(noise_file, specs)
    for spec in specs:
        assert torch.equal(together[spec][0].frames, read_clips(noise_file, [spec])[spec][0].frames), spec
