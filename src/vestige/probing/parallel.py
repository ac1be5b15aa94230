"""Probes tuned in several processes: on a CPU a second thread does little for one small model, and
a GPU mostly waits for it."""

from __future__ import annotations

import multiprocessing
import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from vestige.probing.base_session import BaseSession
from vestige.probing.settings import ProbingSettings
from vestige.store.machine import end_with_parent

ON_GPU = 6  # processes on a GPU, at most; measured on an H200 (docs/audit.md)
BYTES = 24  # of GPU memory a parameter: weights, base, gradients, moments; 6 times 4
WORTH = 4  # probes a process, for which it is worth loading the base once more; chosen
LARGEST = 1_000_000_000  # parameters of a base that may be in memory several times; chosen


def count_for(session: BaseSession, missing: int) -> int:
    """Processes to use for so many probes; each has one thread."""
    parameters = sum(p.numel() for p in session.lm.model.parameters())
    if parameters > LARGEST:
        return 1
    able = torch.get_num_threads()
    if session.lm.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(session.lm.device)
        able = min(ON_GPU, able, free // (BYTES * parameters))
    return max(1, min(able, missing // WORTH))


def in_processes(
    make: Callable[[BaseSession, int], object],
    session: BaseSession,
    traits: Sequence[int],
    count: int,
    on_done: Callable[[int], object],
) -> None:
    """Call ``make(session, trait)``, which keeps its result in the cache, for each trait in one of
    ``count`` processes. What a process does not get done is left for the caller to do."""
    context = multiprocessing.get_context("spawn")
    done: Any = context.Queue()
    given = session.settings, session.cache
    workers = [
        context.Process(target=_work, args=(make, *given, traits[k::count], done), daemon=True)
        for k in range(count)
    ]
    finished = 0
    try:
        for worker in workers:
            worker.start()
        while finished < len(traits) and any(worker.is_alive() for worker in workers):
            with suppress(queue.Empty):
                done.get(timeout=0.5)
                finished += 1
                on_done(finished)
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()


def _work(
    make: Callable[[BaseSession, int], object],
    settings: ProbingSettings,
    cache: Path,
    traits: Sequence[int],
    done: Any,
) -> None:
    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    with suppress(Exception):  # the caller meets the same error and tells it
        session = BaseSession(settings, cache=cache)
        for trait in traits:
            make(session, trait)
            done.put(trait)
