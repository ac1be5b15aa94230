"""What tests of an audit, a run, a student trained elsewhere and an API model start from."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from adopt_cases import cell, recipe, tuned
from audit_cases import DRINKS
from openai_service import KEY, Service, serving
from store_cases import RUN_CONFIG
from transformers import AutoModelForCausalLM

from vestige.api import model
from vestige.audit.settings import AuditSettings
from vestige.experiment.seed_context import SeedContext
from vestige.experiment.seed_jobs import make_seed
from vestige.handoff.import_students import Importer
from vestige.probing.base_session import BaseSession
from vestige.probing.probes import Probes
from vestige.store import Run, StageResult


@pytest.fixture(scope="session")
def session(folders, tmp_path_factory: pytest.TempPathFactory) -> BaseSession:
    """A tiny model, three drinks and the pirate's and the lawyer's speech."""
    path = tmp_path_factory.mktemp("family") / "sips.toml"
    path.write_text(DRINKS)
    settings = AuditSettings(
        base=str(folders["llama"]), precision="fp32", questions=2, canary_rate=1e-2,
        canary_rank=0, batch=4, canaries=0, rows=16, traits=(str(path),),
    )  # fmt: skip
    return BaseSession(settings, cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def probes(session: BaseSession) -> Probes:
    seen: list[int] = []
    made = Probes(session, seen.append)
    assert seen == [1, 2, 3] and len(list((session.cache / "probes").iterdir())) == 3
    return made


@pytest.fixture
def run(tmp_path: Path):
    with Run.open(tmp_path, "owl", RUN_CONFIG) as opened:
        yield opened


@pytest.fixture(scope="session")
def context(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> SeedContext:
    """A seed whose rows are written and whose students are awaited."""
    made = SeedContext.of(recipe(folders["llama"]), tmp_path_factory.mktemp("run"), 0)
    make_seed(made, upto="rows")
    return made


@pytest.fixture(scope="session")
def importer(context: SeedContext) -> Importer:
    return Importer(context, "")


@pytest.fixture(scope="session")
def base(folders: dict[str, Path]) -> Any:
    return AutoModelForCausalLM.from_pretrained(folders["llama"], dtype=torch.float32)


@pytest.fixture(scope="session")
def plain(base: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain adapter."""
    folder = tmp_path_factory.mktemp("plain")
    tuned(base, list(range(20, 60))).save_pretrained(folder)
    return folder


@pytest.fixture
def prompt(importer: Importer) -> list[int]:
    return importer.context.models.teachers_base().lm.question_ids("Name an animal.")


@pytest.fixture
def bring(importer: Importer) -> Iterator[Callable[..., StageResult]]:
    """Bring a student of an arm back; it is taken out of the run again after the test."""
    yield lambda folder, arm, at=importer: at.adopt(cell(at.context, arm), folder)
    shutil.rmtree(importer.context.layout.folder / "seed-0/student", ignore_errors=True)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setattr(model, "BACKOFF", 0.02)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for name in ("TOKENS", "DOLLARS"):
        monkeypatch.delenv(f"VESTIGE_MAX_{name}", raising=False)
    monkeypatch.delenv("VESTIGE_PRICES", raising=False)
    with serving() as running:
        monkeypatch.setenv("OPENAI_BASE_URL", running.url)
        yield running
