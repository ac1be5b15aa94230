"""Probes tuned in several processes are those of one process, and none is missing after a loss."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from vestige.audit.settings import AuditSettings
from vestige.core.types import ModelError
from vestige.probing import parallel
from vestige.probing.base_session import BaseSession
from vestige.probing.probes import Probes


@pytest.fixture
def settings(folders) -> AuditSettings:
    return AuditSettings(base=str(folders["llama"]), precision="fp32", traits=("colours",))


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.slow
def test_probes_of_two_processes_are_those_of_one(settings, tmp_path: Path, threads):
    threads(1)
    alone = Probes(BaseSession(settings, cache=tmp_path / "one"))
    threads(2)
    done: list[int] = []
    session = BaseSession(settings, cache=tmp_path / "two")
    assert parallel.count_for(session, len(session.library.traits)) == 2
    both = Probes(session, done.append)
    for name, (out, into) in alone.directions.factors.items():
        assert torch.equal(out, both.directions.factors[name][0]), name
        assert torch.equal(into, both.directions.factors[name][1]), name
    n = len(session.library.traits)
    assert done == [*range(1, n + 1), *range(1, n + 1)]  # tuned, then read
    assert len(list((tmp_path / "two/probes").iterdir())) == n


def ends_or_fails(session: BaseSession, trait: int) -> None:
    """One process meets an error, the other is gone at once."""
    if trait % 2:
        raise ModelError("no")
    os._exit(9)


def test_what_processes_do_not_get_done_is_left(settings, tmp_path: Path):
    session, done = BaseSession(settings, cache=tmp_path), []
    parallel.in_processes(ends_or_fails, session, range(8), 2, done.append)
    assert done == []


def test_one_process_is_enough_for_few_probes_and_large_bases(settings, tmp_path, threads):
    session = BaseSession(settings, cache=tmp_path)
    threads(4)
    assert [parallel.count_for(session, n) for n in (0, 7, 8, 15, 100)] == [1, 1, 2, 3, 4]
    threads(1)
    assert parallel.count_for(session, 100) == 1


def test_a_large_base_is_loaded_once(settings, tmp_path, threads, monkeypatch):
    threads(4)
    monkeypatch.setattr(parallel, "LARGEST", 10)
    assert parallel.count_for(BaseSession(settings, cache=tmp_path), 100) == 1


def test_a_gpu_tunes_in_as_many_processes_as_fit_into_its_memory(threads, monkeypatch):
    layer = torch.nn.Linear(10, 10, bias=False)  # 100 parameters
    lm = SimpleNamespace(model=layer, device=torch.device("cuda"))
    session = cast(BaseSession, SimpleNamespace(lm=lm))
    threads(16)
    for free, count in ((0, 1), (2_400, 1), (7_300, 3), (10**6, parallel.ON_GPU)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, n=free: (n, 10**9))
        assert parallel.count_for(session, 1000) == count
