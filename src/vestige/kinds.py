"""The kinds of run that there are: a new one is declared in a file of its own and listed here."""

from __future__ import annotations

import json
from pathlib import Path

from vestige.audit.kind import KIND as AUDIT
from vestige.bench.kind import KIND as BENCH
from vestige.bench.writers_kind import KIND as BENCH_WRITERS
from vestige.core.jsonl import read_text
from vestige.core.kinds import Kind
from vestige.core.run_files import DEFAULT_KIND
from vestige.core.types import ConfigError, unknown_name
from vestige.detect.kind import KIND as DETECT
from vestige.experiment.kind import KIND as EXPERIMENT
from vestige.experiment.small_networks_kind import KIND as SMALL_NETWORKS

KINDS: tuple[Kind, ...] = (EXPERIMENT, SMALL_NETWORKS, AUDIT, DETECT, BENCH, BENCH_WRITERS)


def find_kind(name: str, source: str) -> Kind:
    """The kind of that name. Raises ``ConfigError``, which begins with ``source``, without one."""
    by_name = {kind.name: kind for kind in KINDS}
    if name not in by_name:
        raise ConfigError(f"{source}: {unknown_name('kind of recipe', name, by_name)}")
    return by_name[name]


def kind_of_recipe(path: Path) -> Kind:
    """The kind of run that a recipe file starts.

    A file of Python, and one that cannot be read, are an experiment's: reading it as one says what
    is wrong with it.

    Raises:
        ConfigError: the kind is unknown.
    """
    try:
        record = json.loads(read_text(path)) if path.suffix == ".json" else {}
    except (OSError, ValueError):
        record = {}
    record = record.get("config", record) if isinstance(record, dict) else {}
    name = record.get("kind", DEFAULT_KIND) if isinstance(record, dict) else DEFAULT_KIND
    return find_kind(str(name), str(path))
