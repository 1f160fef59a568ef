"""Parallel scoring: one video per process on the CPU, one shard per rank under torchrun; never another order."""
from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import timedelta
from functools import lru_cache
from typing import Any, TypeVar

import torch

Task, Found = TypeVar("Task"), TypeVar("Found")

_FUNCTION: Callable[[Any], Any] | None = None  # in forked workers alone


def available_cores() -> int:
    """Cores this process may use, shared fairly between the ranks of one host."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def map_in_processes(function: Callable[[Task], Found], tasks: Sequence[Task], workers: int,
                     crashed: Callable[[Task], Found]) -> Iterator[Found]:
    """`function(task)` for every task, in order, in forked processes of one thread each; memory is bounded.

    A process that dies (a decoder's crash, the kernel's out-of-memory killer) costs its own task alone: the tasks in
    flight are tried again one at a time, and one that kills its process twice becomes `crashed(task)`.
    """
    if workers <= 1 or len(tasks) <= 1 or "fork" not in multiprocessing.get_all_start_methods():
        with _one_thread():
            yield from map(function, tasks)
        return
    remaining = deque(tasks)
    while remaining:
        waiting: deque[tuple[Task, Future]] = deque()
        with _pool(function, min(workers, len(remaining))) as pool:
            try:
                while remaining or waiting:
                    while remaining and len(waiting) < 2 * workers:
                        waiting.append((remaining[0], pool.submit(_call, remaining[0])))
                        remaining.popleft()
                    found = waiting[0][1].result()
                    waiting.popleft()
                    yield found
            except BrokenProcessPool:
                pass
            finally:
                for _, future in waiting:
                    future.cancel()  # where the caller stops early: only what runs already is waited for
        for task, _ in waiting:  # only after a crash
            yield _alone(function, task, crashed)


def map_in_threads(function: Callable[[Task], Found], tasks: Sequence[Task], workers: int) -> Iterator[Found]:
    """`function(task)` in order with a bounded number in flight: decoding ahead while a GPU works."""
    waiting: deque[Future] = deque()
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        for task in tasks:
            waiting.append(pool.submit(function, task))
            if len(waiting) >= 2 * max(1, workers):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _pool(function: Callable, workers: int) -> ProcessPoolExecutor:
    # Forked processes inherit the arguments of their initializer: the function need not be picklable.
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("fork"), initializer=_start_worker,
                               initargs=(function,))


def _start_worker(function: Callable[[Any], Any]) -> None:
    global _FUNCTION
    _FUNCTION = function
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent alone answers it
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Workers of a killed process would wait for their next task for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _call(task: Task) -> Any:
    assert _FUNCTION is not None
    return _FUNCTION(task)


def _alone(function: Callable[[Task], Found], task: Task, crashed: Callable[[Task], Found]) -> Found:
    with _pool(function, 1) as pool:
        try:
            return pool.submit(_call, task).result()
        except BrokenProcessPool:
            return crashed(task)


class _one_thread:
    """Results must not depend on the number of cores: sums of floats depend on how they are split among threads."""

    def __enter__(self) -> None:
        self.before = torch.get_num_threads()
        torch.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self.before)


def join_ranks() -> tuple[int, int]:
    """(rank, world size); joins the group that torchrun announces, if it did."""
    if not torch.distributed.is_available():
        return 0, 1
    if not torch.distributed.is_initialized():
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return 0, 1
        # A rank may wait for hours at the gather: the others' videos take as long as they take.
        torch.distributed.init_process_group("gloo", timeout=timedelta(days=7))
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def gather(rows: list[Found]) -> list[Found]:
    """Every rank's rows on every rank; the caller sorts them."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return rows
    parts: list[list[Found]] = [[] for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(parts, rows, group=_gloo_group())
    return [row for part in parts for row in part]


@lru_cache(maxsize=1)
def _gloo_group() -> Any:
    """A group for objects on the CPU, made once, where training has joined the ranks through NCCL; None: the usual."""
    if torch.distributed.get_backend() == "gloo":
        return None
    return torch.distributed.new_group(backend="gloo", timeout=timedelta(days=7))
