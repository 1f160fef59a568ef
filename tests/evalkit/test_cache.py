import errno
import multiprocessing

import pytest
import torch

from evalkit.cache import Cache, cache_key


def test_key_depends_on_every_part_and_not_on_their_order():
    assert cache_key(a=1, b={"c": 2}) == cache_key(b={"c": 2}, a=1)
    assert cache_key(a=1, b={"c": 2}) != cache_key(a=1, b={"c": 3})


def test_values_and_tensors_come_back_exactly(tmp_path):
    cache = Cache(tmp_path)
    cache.store_json(cache_key(x=1), {"value": 0.1 + 0.2})
    cache.store_tensors(cache_key(x=2), {"": torch.arange(6.0).reshape(2, 3) / 7})
    assert cache.load_json(cache_key(x=1)) == {"value": 0.1 + 0.2}
    assert torch.equal(cache.load_tensors(cache_key(x=2))[""], torch.arange(6.0).reshape(2, 3) / 7)


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b"", lambda b: b"x" + b[1:], lambda b: b[: len(b) // 2]])
def test_damaged_entry_reads_as_absent(tmp_path, damage):
    cache, key = Cache(tmp_path), cache_key(x=1)
    cache.store_json(key, [1, 2, 3])
    (path,) = (p for p in tmp_path.rglob("*") if p.is_file())
    path.write_bytes(damage(path.read_bytes()))
    assert cache.load_json(key) is None


def test_no_cache_keeps_nothing():
    cache = Cache(None)
    cache.store_json(cache_key(x=1), 1)
    assert cache.load_json(cache_key(x=1)) is None


def test_full_disk_is_a_clear_error_naming_the_folder(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("evalkit.cache.write_atomic", full)
    with pytest.raises(OSError, match=r"the disk is full.*run the same command again") as caught:
        Cache(tmp_path).store_json(cache_key(x=1), 1)
    assert caught.value.errno == errno.ENOSPC and str(tmp_path) in str(caught.value)


def _hammer(folder):
    cache = Cache(folder)
    for i in range(100):
        cache.store_json(cache_key(x=i % 5), {"value": i % 5})
        assert cache.load_json(cache_key(x=i % 5)) == {"value": i % 5}


def test_two_processes_share_a_cache(tmp_path):
    workers = [multiprocessing.get_context("fork").Process(target=_hammer, args=(tmp_path,)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert not [p for p in tmp_path.rglob("*.partial")]
