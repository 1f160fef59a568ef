"""Weights: found, checked, fetched from a real (local) server, imported, and never needing torch."""
import hashlib
import subprocess
import sys
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from evalkit.features import weight_files, weights
from evalkit.features.base import MissingWeights, available_extractors
from evalkit.features.weight_files import KNOWN, NEEDED, WeightFile

CONTENT = b"numbers" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def nothing_here(monkeypatch, tmp_path):
    """No weights on the machine: an empty home and no folder named."""
    monkeypatch.delenv("EVALKIT_WEIGHTS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def server(tmp_path):
    """A folder and the address under which it is served."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    http.server_close()


def register(monkeypatch, **fields):
    entry = WeightFile("toy", ("toy.bin",), "MIT", "tests", **fields)
    monkeypatch.setitem(KNOWN, "toy", entry)
    return entry


def test_listing_weights_does_not_import_torch():
    code = ("import sys; from evalkit.features import weights; names = [one.name for one in weights.list_weights()];"
            "assert 'raft_small' in names and weights.missing_for('i3d'); assert 'torch' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_file_is_named_with_the_command_that_fetches_it():
    with pytest.raises(MissingWeights, match=r"raft_large.*looked in.*evalkit weights fetch raft_large$"):
        weights.require_weights("raft_large")
    with pytest.raises(MissingWeights, match=r"fetch open_clip/ViT-B-32/openai$"):
        weights.checked_weights("open_clip/ViT-B-32/openai")


def test_an_unknown_name_lists_what_exists():
    with pytest.raises(ValueError, match=r"unknown weights 'raft'.*raft_small"):
        weights.find_weights("raft")


def test_named_folders_are_searched_to_the_bottom_and_before_the_cache(monkeypatch, tmp_path):
    cached = weights.weights_directory() / "toy.bin"
    deep = tmp_path / "mine" / "a" / "b" / "toy.bin"
    for path in (cached, deep):
        path.parent.mkdir(parents=True)
        path.write_bytes(CONTENT)
    register(monkeypatch)
    assert weights.find_weights("toy") == cached
    monkeypatch.setenv("EVALKIT_WEIGHTS", f"{tmp_path / 'absent'}:{tmp_path / 'mine'}")
    assert weights.find_weights("toy") == deep
    listed = {one.name: one.path for one in weights.list_weights()}
    assert listed["toy"] == deep and listed["raft_large"] is None


def test_a_hub_model_is_found_in_a_folder_of_its_name_only(monkeypatch, tmp_path):
    monkeypatch.setenv("EVALKIT_WEIGHTS", str(tmp_path))
    for folder, found in (("other-model", False), ("dino-vitb16", True), ("facebook--dino-vitb16", True)):
        path = tmp_path / folder / "model.safetensors"
        path.parent.mkdir()
        path.write_bytes(CONTENT)
        assert weights.find_weights("dino") == (path if found else None)
        path.unlink()


def test_a_hub_model_is_found_in_the_hub_cache(tmp_path):
    repo = tmp_path / "hub" / "models--facebook--dino-vitb16"
    path = repo / "snapshots" / "abc" / "model.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    assert weights.find_weights("dino") is None  # no branch points there yet
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("abc")
    assert weights.find_weights("dino") == path


def test_a_download_tries_every_address_checks_the_hash_and_is_then_found(monkeypatch, server):
    folder, address = server
    (folder / "toy.bin").write_bytes(CONTENT)
    register(monkeypatch, urls=(f"{address}/gone.bin", f"{address}/toy.bin"), sha256=SHA256)
    path = weights.fetch_weights("toy")
    assert path.read_bytes() == CONTENT and weights.find_weights("toy") == path
    assert weights.verify_weights("toy") == SHA256
    assert weights.checked_weights("raft_large", "toy") == (path, SHA256)


def test_a_wrong_download_is_refused_and_leaves_nothing(monkeypatch, server):
    folder, address = server
    (folder / "toy.bin").write_bytes(CONTENT + b"!")
    (folder / "page.html").write_text("<html>sign in</html>")
    register(monkeypatch, urls=(f"{address}/toy.bin",), sha256=SHA256[:8])
    with pytest.raises(ValueError, match=f"expected sha256 {SHA256[:8]}"):
        weights.fetch_weights("toy")
    register(monkeypatch, urls=(f"{address}/page.html",))
    with pytest.raises(OSError, match=r"could not fetch toy.*web page"):
        weights.fetch_weights("toy")
    assert list(weights.weights_directory().iterdir()) == []


def test_an_unknown_hash_is_recorded_at_the_first_fetch_and_guards_the_file(monkeypatch, tmp_path):
    register(monkeypatch)
    source = tmp_path / "downloaded elsewhere.bin"
    source.write_bytes(CONTENT)
    path = weights.fetch_weights("toy", from_path=source)
    assert weights.verify_weights("toy") == SHA256
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(ValueError, match="recorded at the first fetch"):
        weights.verify_weights("toy")


def test_a_damaged_file_is_not_loaded(monkeypatch, tmp_path):
    register(monkeypatch, sha256=SHA256)
    (tmp_path / "toy.bin").write_bytes(CONTENT[:-1])
    monkeypatch.setenv("EVALKIT_WEIGHTS", str(tmp_path))
    with pytest.raises(ValueError, match="expected sha256"):
        weights.checked_weights("toy")


def test_a_hub_model_is_imported_with_its_configuration(tmp_path):
    source = tmp_path / "given"
    source.mkdir()
    (source / "model.safetensors").write_bytes(CONTENT)
    (source / "config.json").write_text("{}")
    path = weights.fetch_weights("dino", from_path=source)
    assert weights.find_weights("dino") == path and (path.parent / "config.json").read_text() == "{}"
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors or pytorch_model\.bin"):
        weights.fetch_weights("dinov2", from_path=tmp_path / "absent")


def test_a_file_without_an_address_says_how_to_give_it():
    with pytest.raises(ValueError, match="squeezenet1_0_deepcompressed --from FILE"):
        weights.fetch_weights("squeezenet1_0_deepcompressed")


def test_an_extractor_is_ready_with_any_one_of_its_carriers(monkeypatch, tmp_path):
    assert weights.missing_for("i3d") == ["i3d_torchscript"]
    (tmp_path / "i3d_pretrained_400.pt").write_bytes(CONTENT)
    monkeypatch.setenv("EVALKIT_WEIGHTS", str(tmp_path))
    assert weights.missing_for("i3d") == [] and weights.missing_for("motion") == []
    assert weights.missing_for("aesthetic/l14_linear/aliased") == ["aesthetic_l14_linear", "open_clip/ViT-L-14/openai"]


def test_every_need_is_registered_and_every_network_has_a_need():
    assert {name for groups in NEEDED.values() for names in groups for name in names} <= set(KNOWN)
    networks = {"open_clip", "i3d", "i3d_deepmind", "videomae", "vjepa2", "dinov2", "dino", "raft_large", "raft_small",
                "squeezenet", "aesthetic"}
    assert networks <= set(available_extractors())
    assert all(weight_files.needed_by(name) for name in networks)


def test_every_entry_says_where_it_comes_from():
    for entry in KNOWN.values():
        assert entry.licence and entry.used_by and entry.source, entry.name
        assert replace(entry).files and len(entry.sha256) in (0, 8, 64), entry.name


def test_real_weights_are_what_the_registry_says(monkeypatch, assets):
    monkeypatch.setenv("EVALKIT_WEIGHTS", str(assets / "weights"))
    here = [one.name for one in weights.list_weights() if one.path]
    assert {"raft_small_princeton", "squeezenet1_0_deepcompressed", "aesthetic_l14_mlp", "aesthetic_l14_linear",
            "aesthetic_b32_linear", "aesthetic_b16_linear"} <= set(here)
    for name in here:
        assert len(weights.verify_weights(name)) == 64
