"""Every matrix, range and bit depth: known RGB patches coded by the standards' formulas come back within a level."""
import av
import numpy as np
import pytest
import torch

from evalkit.data.video import VideoError, probe, read_video

PATCHES = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128), (255, 255, 255), (0, 0, 0), (200, 100, 50)]
# H.273 matrix coefficients: (tag, KR, KB); untagged means BT.601
MATRICES = {"bt709": (1, 0.2126, 0.0722), "fcc": (4, 0.30, 0.11), "bt470bg": (5, 0.299, 0.114),
            "smpte170m": (6, 0.299, 0.114), "smpte240m": (7, 0.212, 0.087), "bt2020": (9, 0.2627, 0.0593),
            "unspecified": (2, 0.299, 0.114)}
LIMITED, FULL, UNTAGGED = 1, 2, 0


def coded(rgb, kr, kb, full, bits):
    """Y'CbCr of an 8-bit R'G'B' colour (H.273, 8.3)."""
    r, g, b = (value / 255 for value in rgb)
    luma = kr * r + (1 - kr - kb) * g + kb * b
    blue, red = (b - luma) / (2 - 2 * kb), (r - luma) / (2 - 2 * kr)
    scale, top = 2 ** (bits - 8), 2**bits - 1
    if full:
        return [min(top, round(value)) for value in (luma * top, blue * top + 128 * scale, red * top + 128 * scale)]
    return [round(value * scale) for value in (16 + 219 * luma, 128 + 224 * blue, 128 + 224 * red)]


def write_patches(path, codec, pixel_format, tag, levels, colours, options):
    depth = np.uint16 if "10" in pixel_format else np.uint8
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixel_format
        stream.codec_context.colorspace, stream.codec_context.color_range = tag, levels
        for colour in colours:
            frame = av.VideoFrame(64, 48, pixel_format)
            for plane, value in zip(frame.planes, colour, strict=False):
                plane.update(np.full(plane.buffer_size // depth().itemsize, value, depth).tobytes())
            frame.colorspace, frame.color_range = tag, levels
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def worst_error(path, patches=PATCHES):
    expected = torch.tensor(patches)[:, :, None, None]
    return (read_video(path).frames.int() - expected).abs().max().item()


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("levels", [LIMITED, FULL, UNTAGGED])
@pytest.mark.parametrize(("codec", "pixel_format", "name"), [
    ("libx264", "yuv420p", "a.mp4"), ("libx264", "yuv444p", "a.mkv"), ("libvpx-vp9", "yuv420p", "a.webm"),
    ("ffv1", "yuv420p10le", "a.mkv"), ("libx264", "yuv422p10le", "a.mp4"),
])
def test_matrix_and_range_of_the_stream_are_obeyed(tmp_path, matrix, levels, codec, pixel_format, name):
    tag, kr, kb = MATRICES[matrix]
    colours = [coded(patch, kr, kb, levels == FULL, 10 if "10" in pixel_format else 8) for patch in PATCHES]
    options = {"libx264": {"qp": "0", "preset": "ultrafast"}, "libvpx-vp9": {"lossless": "1", "cpu-used": "8"}}
    write_patches(tmp_path / name, codec, pixel_format, tag, levels, colours, options.get(codec, {}))
    assert worst_error(tmp_path / name) <= 2
    info = probe(tmp_path / name)
    assert info.colour_matrix == {"bt470bg": "bt601", "smpte170m": "bt601"}.get(matrix, matrix)
    assert info.colour_range in (("full",) if levels == FULL else ("limited", "unspecified"))


def test_reading_a_stream_by_another_matrix_would_be_seen(tmp_path):
    """The patches tell BT.709 from BT.601: the test above can fail."""
    _, kr, kb = MATRICES["bt709"]
    write_patches(tmp_path / "a.mkv", "ffv1", "yuv444p", 6, LIMITED,
                  [coded(patch, kr, kb, False, 8) for patch in PATCHES], {})
    assert worst_error(tmp_path / "a.mkv") > 20


def test_a_matrix_that_cannot_be_converted_is_an_error_and_not_a_guess(tmp_path):
    write_patches(tmp_path / "a.mkv", "ffv1", "yuv444p", 8, FULL, [(128, 128, 128)] * 3, {})  # YCgCo
    with pytest.raises(VideoError, match="colour matrix 8 is not supported"):
        read_video(tmp_path / "a.mkv")


@pytest.mark.parametrize(("pixel_format", "levels", "codes"), [
    ("gray", FULL, [0, 100, 255]), ("gray", LIMITED, [16, 102, 235]), ("gray10le", FULL, [0, 401, 1023])])
def test_grey_streams_are_grey_of_the_right_level(tmp_path, pixel_format, levels, codes):
    write_patches(tmp_path / "a.mkv", "ffv1", pixel_format, 2, levels, [(code,) for code in codes], {})
    assert worst_error(tmp_path / "a.mkv", [(0,) * 3, (100,) * 3, (255,) * 3]) <= 1


def test_alpha_of_yuva_is_composited_over_black(tmp_path):
    colours = [(*coded((200, 100, 50), 0.299, 0.114, False, 8), alpha) for alpha in (255, 128, 0)]
    write_patches(tmp_path / "a.mkv", "ffv1", "yuva420p", 6, LIMITED, colours, {})
    assert worst_error(tmp_path / "a.mkv", [(200, 100, 50), (100, 50, 25), (0, 0, 0)]) <= 2


def test_chroma_is_neither_shifted_nor_darkened_on_average():
    """A mean over many colours: FFmpeg's fast converter is 1 to 1.5 levels too dark here."""
    from evalkit.clips import ClipSpec
    from evalkit.data.colour import FrameConverter

    rng = np.random.default_rng(0)
    luma = rng.integers(60, 190, (48, 64), dtype=np.uint8)
    frame = av.VideoFrame.from_ndarray(np.vstack([luma, np.full((24, 64), 128, np.uint8)]), format="yuv420p")
    out = np.empty((3, 48, 64), np.uint8)
    FrameConverter(ClipSpec(size=None), frame).write(frame, out)
    error = out - (luma.astype(float) - 16) * 255 / 219
    assert np.abs(error).max() <= 1 and np.abs(error.mean(axis=(1, 2))).max() < 0.1
