"""Processes of one run: a part of it has one holder, and workers do not outlive their run."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from vestige.core.types import StoreError
from vestige.store import hold
from vestige.store.machine import usable_cores, usable_threads


def alive(pid: int) -> bool:
    """Whether a process runs, and is not only waiting for somebody to take note of its end."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_part_of_a_run_has_one_holder(tmp_path: Path):
    code = f"""
import sys, time
from pathlib import Path
from vestige.store import hold
from vestige.store.machine import usable_cores, usable_threads
with hold(Path({str(tmp_path)!r}), "seed-0"):
    print("held", flush=True)
    time.sleep(60)
"""
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert other.stdout and other.stdout.readline() == "held\n"
    with pytest.raises(StoreError, match="another process"), hold(tmp_path, "seed-0", wait=0.2):
        pass
    with hold(tmp_path, "seed-1", wait=0.2):
        pass
    threading.Timer(0.5, other.kill).start()
    with hold(tmp_path, "seed-0", wait=30):  # it was waited for
        assert other.wait() == -signal.SIGKILL


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_workers_end_with_the_process_that_started_them(tmp_path: Path):
    (tmp_path / "job.py").write_text("""import multiprocessing, os, sys, threading, time

def work(late):
    if late:
        time.sleep(2)  # its parent dies before it has begun
    from vestige.store.machine import end_with_parent
    threading.Thread(target=end_with_parent, daemon=True).start()
    time.sleep(120)

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    for late in (False, True):
        worker = context.Process(target=work, args=(late,), daemon=True)
        worker.start()
        print(worker.pid, flush=True)
    time.sleep(120)
""")
    first = subprocess.Popen(
        [sys.executable, "job.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    assert first.stdout
    workers = [int(first.stdout.readline()) for _ in range(2)]
    time.sleep(1)
    first.kill()
    first.wait()
    end = time.monotonic() + 60
    while any(map(alive, workers)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(map(alive, workers))


@pytest.mark.parametrize(("wanted", "threads"), [("3", 3), ("", None), ("0", None), ("all", None)])
def test_a_process_that_works_alone_has_the_threads_that_are_wished_for(
    monkeypatch, wanted, threads
):
    monkeypatch.setenv("OMP_NUM_THREADS", wanted)
    assert usable_threads() == (threads or usable_cores())
