"""Run folders and stages: what was done, with what, and whether it is whole.

A run folder is ``<root>/<name>-<hash8>``. It holds ``recipe.json`` (the config), ``run.json`` (the
record of the run) and one folder for each stage. A stage is written to ``<stage>.part``, its
manifest last, and then renamed, so that a folder without the suffix is always complete. Its key is

    sha256(canonical JSON of {name, config, version, manifest hashes of its inputs})

The same key skips the stage, another key is an error unless ``overwrite`` is set. The manifest
hash covers the key and the sum of every file, no timing: a run that was killed and started again
has the hashes of one that was not.
"""

from __future__ import annotations

from vestige.store.files import atomic_write, hash_config
from vestige.store.machine import describe_environment
from vestige.store.run import Run, hold, is_running, load_recipe_as, load_run, run_folder
from vestige.store.stage import Stage, StageResult, load_stage, make_stage, once

__all__ = [
    "Run",
    "Stage",
    "StageResult",
    "atomic_write",
    "describe_environment",
    "hash_config",
    "hold",
    "is_running",
    "load_recipe_as",
    "load_run",
    "load_stage",
    "make_stage",
    "once",
    "run_folder",
]
