import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from evalkit.workers import gather, join_ranks, map_in_processes, map_in_threads


def run_alone(function, *arguments) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    process.start()
    return process


def wait_until(true, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.02)
    return true()


def _slow(folder: Path, seconds: float):
    def work(task):
        (folder / str(os.getpid())).touch()
        time.sleep(seconds)
        return task

    return work


def test_order_is_kept_and_the_function_needs_no_pickling():
    squares = map_in_processes(lambda task: task**2, range(9), 2, crashed=lambda task: -1)
    assert list(squares) == [task**2 for task in range(9)]
    assert list(map_in_threads(lambda task: task**2, range(9), 3)) == [task**2 for task in range(9)]


def test_two_maps_at_once_do_not_mix_their_functions():
    one = map_in_processes(lambda task: ("one", task), range(6), 2, crashed=lambda task: None)
    two = map_in_processes(lambda task: ("two", task), range(6), 2, crashed=lambda task: None)
    assert list(zip(one, two, strict=True)) == [(("one", i), ("two", i)) for i in range(6)]


def test_an_error_in_a_task_reaches_the_caller():
    with pytest.raises(ZeroDivisionError):
        list(map_in_processes(lambda task: 1 // task, [1, 0, 1, 1], 2, crashed=lambda task: None))


def _runs(process: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()  # a container may reap nothing
    except OSError:
        return False


def test_workers_of_a_killed_process_end_too(tmp_path):
    parent = run_alone(lambda: list(map_in_processes(_slow(tmp_path, 0.05), range(10_000), 2, lambda task: None)))
    assert wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
    parent.kill()
    parent.join()
    workers = [int(path.name) for path in tmp_path.iterdir()]
    assert wait_until(lambda: not any(_runs(worker) for worker in workers))


def test_an_interrupt_stops_the_whole_group_without_finishing_the_queue(tmp_path):
    def main():
        os.setpgrp()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background are born deaf to it
        (tmp_path / "ready").mkdir()
        list(map_in_processes(_slow(tmp_path / "ready", 0.5), range(10_000), 2, lambda task: None))

    parent = run_alone(main)
    assert wait_until(lambda: len(list((tmp_path / "ready").glob("*"))) == 2)
    os.killpg(parent.pid, signal.SIGINT)
    parent.join(timeout=10)
    assert parent.exitcode == 1, "KeyboardInterrupt"


def _rank(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=2)
    found, world = join_ranks()
    rows = sorted(gather(list(range(found, 5, world))))
    assert (found, world) == (rank, 2) and rows == [0, 1, 2, 3, 4]


def test_ranks_that_a_training_has_joined_already_share_the_videos(tmp_path):
    ranks = [run_alone(_rank, rank, tmp_path) for rank in range(2)]
    for rank in ranks:
        rank.join(timeout=60)
    assert [rank.exitcode for rank in ranks] == [0, 0]
