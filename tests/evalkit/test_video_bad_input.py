"""Bad files are errors of one clear line; none crashes, hangs or passes as a video."""
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from evalkit.clips import ClipSpec
from evalkit.data.video import VideoError, content_hash, probe, read_clips, write_video

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def frames():
    torch.manual_seed(0)
    slow = torch.rand(30, 3, 9, 12).cumsum(0) * 8
    return torch.nn.functional.interpolate(slow, size=(72, 96), mode="bilinear").clamp(0, 255).byte()


def failure(source, spec=None, **kwargs):
    with pytest.raises(VideoError) as caught:
        read_clips(source, [spec or ClipSpec()], **kwargs)
    message = str(caught.value)
    assert message and "\n" not in message
    return message


def test_what_is_no_video_is_named(tmp_path):
    assert "No such file" in failure(tmp_path / "missing.mp4")
    (tmp_path / "empty.mp4").touch()
    assert failure(tmp_path / "empty.mp4") == "empty file"
    (tmp_path / "text.mp4").write_text("hello\n" * 500)
    assert "corrupt or not a video" in failure(tmp_path / "text.mp4")
    (tmp_path / "art.txt").write_text("hello\n" * 500)  # FFmpeg would draw it
    assert "corrupt or not a video" in failure(tmp_path / "art.txt")
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXTINF:1,\ntext.mp4\n")  # FFmpeg would open what it lists
    assert "corrupt or not a video" in failure(tmp_path / "list.m3u8")
    (tmp_path / "folder").mkdir()
    assert "no frames in the folder" in failure(tmp_path / "folder")
    (tmp_path / "folder" / "1.png").write_bytes(b"\x89PNG rubbish")
    assert failure(tmp_path / "folder", ClipSpec(min_frames=1)).startswith("1.png: corrupt")


def test_links_and_special_files_are_named(tmp_path):
    (tmp_path / "a.mp4").symlink_to(tmp_path / "b.mp4")
    (tmp_path / "b.mp4").symlink_to(tmp_path / "a.mp4")
    assert "symbolic links" in failure(tmp_path / "a.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    assert "not a file" in failure(tmp_path / "pipe.mp4")
    with pytest.raises(VideoError, match="not a file"):
        content_hash(tmp_path / "pipe.mp4")
    with pytest.raises(VideoError, match="No such file"):
        content_hash(tmp_path / "missing.mp4")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_is_named(tmp_path, frames):
    path = write_video(tmp_path / "a.mp4", frames, 8)
    path.chmod(0)
    assert "ermission denied" in failure(path)


def test_audio_alone_is_no_video(tmp_path):
    import av

    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert failure(tmp_path / "a.mp4") == "no video stream"


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.avi", "mpeg4"),
                                             ("a.webm", "libvpx-vp9")])
def test_a_truncated_file_is_an_error_even_behind_the_last_frame_wanted(tmp_path, frames, name, codec):
    path = write_video(tmp_path / name, frames, 8, codec=codec)
    whole = path.read_bytes()
    assert read_clips(path, [ClipSpec(num_frames=4)])
    for share in (0.2, 0.5, 0.8):
        path.write_bytes(whole[: int(len(whole) * share)])
        failure(path, ClipSpec(num_frames=4))
        with pytest.raises(VideoError):
            probe(path)


def test_a_decoding_error_is_an_error_and_not_a_concealed_frame(tmp_path, frames):
    path = write_video(tmp_path / "a.mkv", frames, 8, codec="ffv1", options={"level": "3", "slicecrc": "1"})
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 200] = bytes(200)
    path.write_bytes(data)
    assert "corrupt" in failure(path)
    assert read_clips(path, [spec := ClipSpec(num_frames=4)])[spec][0].frames.shape[0] == 4  # sound before the damage


def test_gigantic_frames_are_refused_before_they_are_allocated(tmp_path):
    path = tmp_path / "a.gif"
    path.write_bytes(b"GIF89a" + b"\xff" * 4 + bytes(3) + b"," + bytes(4) + b"\xff" * 4 + b"\0\2\2D\1\0;")
    assert failure(path).endswith("expected 1 to 16384 pixels a side")
    images = [Image.new("RGB", (8, 8), (40 * i, 0, 0)) for i in range(4)]
    images[0].save(tmp_path / "a.webp", save_all=True, append_images=images[1:], duration=100)
    data = bytearray((tmp_path / "a.webp").read_bytes())
    data[24:30] = b"\xff\xff\x00" * 2  # the canvas
    (tmp_path / "a.webp").write_bytes(data)
    failure(tmp_path / "a.webp")
    expanded = torch.zeros(1, dtype=torch.uint8).expand(10**4, 3, 2000, 2000)  # a small file can hold this
    torch.save(expanded, tmp_path / "a.pt")
    assert "GiB" in failure(tmp_path / "a.pt", ClipSpec(max_frames=10**4, size=None))


def test_pickles_are_not_executed(tmp_path):
    import pickle

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    (tmp_path / "a.pt").write_bytes(pickle.dumps(Bomb(), protocol=2))
    np.save(tmp_path / "a.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    for name in ("a.pt", "a.npy"):
        assert "corrupt or not an array" in failure(tmp_path / name)
    assert not (tmp_path / "executed").exists()


def test_the_deadline_is_kept(tmp_path, frames):
    path = write_video(tmp_path / "a.mp4", frames, 8)
    assert failure(path, deadline_s=1e-9).startswith("gave up")


def test_a_frame_folder_that_needs_too_many_frames_maps_to_its_error(tmp_path, frames):
    found = read_clips(frames[:5], [ClipSpec(num_frames=9), ClipSpec(num_frames=5)])
    assert str(found[ClipSpec(num_frames=9)]) == "too short: 5 frames, needs 9"
    assert len(found[ClipSpec(num_frames=5)][0].frames) == 5


def test_mutated_files_are_scored_or_listed(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from fuzz_video import fuzz

    lines = []
    total = fuzz(30, seed=1, real=None, say=lines.append)
    assert not any("NOT MUTATED" in line for line in lines)
    assert total["crash"] == total["hang"] == 0, lines
    assert total.total() == 30 and total["listed"] > 10
