"""Videos out of archives: captions kept, hostile archives refused, no half files."""
from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from evalkit.data import archives
from evalkit.data.archives import expand_braces, unzip_files
from evalkit.data.datasets import VideoItem, find_videos


@pytest.fixture(autouse=True)
def media(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Unpacked videos go to a folder of the test's own."""
    folder = tmp_path_factory.mktemp("media")
    monkeypatch.setenv("EVALKIT_MEDIA", str(folder))
    return folder


def names(items: list[VideoItem]) -> list[str]:
    return [item.name for item in items]


def make_tar(path: Path, **members: bytes) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_braces_expand_with_their_zeros():
    assert expand_braces("s-{08..10}.tar") == ["s-08.tar", "s-09.tar", "s-10.tar"]
    assert expand_braces("{0..1}/{0..1}") == ["0/0", "0/1", "1/0", "1/1"]
    with pytest.raises(ValueError, match="rising"):
        expand_braces("{3..1}")


def test_webdataset_shards_give_videos_with_captions(tmp_path):
    make_tar(tmp_path / "s-00.tar", **{"k1.mp4": b"one", "k1.txt": b"a cat\n", "d/k2.json": b'{"caption": "a dog", '
             b'"seed": 3, "fps": 8, "source": "x"}', "d/k2.webm": b"two"})
    make_tar(tmp_path / "s-01.tar", **{"k1.mp4": b"three", "k1.jpg": b"thumb"})
    items = find_videos(f"{tmp_path}/s-{{00..01}}.tar")
    assert names(items) == ["s-00/d/k2.webm", "s-00/k1.mp4", "s-01/k1.mp4"]
    assert [item.source.read_bytes() for item in items] == [b"two", b"one", b"three"]
    assert [item.prompt for item in items] == ["a dog", "a cat", None]
    assert (items[0].seed, items[0].fps, items[0].extra) == (3, 8.0, {"source": "x"})
    assert items == find_videos(f"{tmp_path}/s-*.tar")


def test_images_of_a_shard_count_where_it_holds_no_video(tmp_path):
    make_tar(tmp_path / "s-00.tar", **{"a.jpg": b"thumb", "a.mp4": b"one", "b.jpg": b"thumb", "b.mp4": b"two"})
    make_tar(tmp_path / "s-01.tar", **{"k1.jpg": b"three", "k1.txt": b"a cat", "k2.PNG": b"four"})
    items = find_videos(f"{tmp_path}/s-{{00..01}}.tar")
    assert names(items) == ["s-00/a.mp4", "s-00/b.mp4", "s-01/k1.jpg", "s-01/k2.PNG"]
    assert items[2].prompt == "a cat" and items[3].source.read_bytes() == b"four"
    still = b"RIFF\0\0\0\0WEBPVP8 " + bytes(8)
    make_tar(tmp_path / "s-02.tar", **{"k1.webp": still, "k2.jpg": b"six"})
    assert names(find_videos(tmp_path / "s-02.tar")) == ["s-02/k1.webp", "s-02/k2.jpg"]
    make_tar(tmp_path / "s-03.tar", **{"k1.jpg": b"seven", "k1.mask.png": b"eight"})
    with pytest.raises(ValueError, match="one image per key, got two for 'k1'"):
        find_videos(tmp_path / "s-03.tar")


def test_a_changed_shard_never_serves_old_videos(tmp_path):
    for content in (b"old", b"new!"):
        make_tar(tmp_path / "s.tar", **{"k.mp4": content})
        assert find_videos(tmp_path / "s.tar")[0].source.read_bytes() == content


@pytest.mark.parametrize("name", ["../evil.mp4", "/tmp/evil.mp4", "a/../../evil.mp4", "C:evil.mp4", "..\\evil.mp4"])
def test_archives_that_reach_outside_are_refused_whole(tmp_path, media, name):
    make_tar(tmp_path / "s.tar", **{name: b"x"})
    with pytest.raises(ValueError, match="refusing the whole archive"):
        find_videos(tmp_path / "s.tar")
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        archive.writestr(name, b"x")
        stored = archive.namelist()
    with pytest.raises(ValueError, match="refusing the whole archive"):
        unzip_files(tmp_path / "s.zip", stored)
    assert [path for path in media.rglob("*") if path.is_file()] == []


def test_a_damaged_zip_is_refused_with_its_path(tmp_path):
    with zipfile.ZipFile(tmp_path / "s.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.mp4", bytes(range(256)) * 40)
    whole = bytearray((tmp_path / "s.zip").read_bytes())
    whole[60:70] = b"\xff" * 10
    (tmp_path / "bad.zip").write_bytes(whole)
    with pytest.raises(ValueError, match=r"bad\.zip: cannot be read as a zip file"):
        unzip_files(tmp_path / "bad.zip", ["a.mp4"])
    assert unzip_files(tmp_path / "s.zip", ["a.mp4"])["a.mp4"].stat().st_size == 10240


def test_links_in_a_shard_are_refused(tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        info = tarfile.TarInfo("k.mp4")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(ValueError, match=r"link or device 'k.mp4'"):
        find_videos(tmp_path / "s.tar")


def test_a_truncated_shard_and_one_beyond_the_limit_are_refused_and_leave_no_half_file(tmp_path, media, monkeypatch):
    make_tar(tmp_path / "s.tar", **{"a.mp4": b"x" * 2000, "b.mp4": b"y" * 50000})
    whole = (tmp_path / "s.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[:20000])
    with pytest.raises(ValueError, match=r"cut.tar: cannot be read as a tar file after 1 videos"):
        find_videos(tmp_path / "cut.tar")
    assert sorted(path.name for path in media.rglob("*") if path.is_file()) == ["a.mp4"]
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 40000)
    with pytest.raises(ValueError, match=r"b.mp4 \(50000 bytes\) exceeds the limit of 40000 bytes"):
        find_videos(tmp_path / "s.tar")
    (tmp_path / "no.tar").write_bytes(b"not a tar")
    with pytest.raises(ValueError, match="cannot be read as a tar file"):
        find_videos(tmp_path / "no.tar")
