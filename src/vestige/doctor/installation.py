"""``vestige doctor``: an installation held against known answers.

Every check is a function that says what it saw, or raises ``Wrong`` with what to do about it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

from vestige.doctor.bundled_model import (
    BundledModel,
    chat_rendering,
    exact_evaluation,
    loss_mask,
    model_files,
)
from vestige.doctor.checks import Check, done
from vestige.doctor.extras import extra_check
from vestige.doctor.known_answers import number_filter, scorers, statistics
from vestige.doctor.machine import cache_folder, disk_space, python, torch_works
from vestige.doctor.packages import extras, packages

CHECKS: dict[str, Callable[[BundledModel], str]] = {
    "Python": python,
    "packages": packages,
    "torch": torch_works,
    "cache folder": cache_folder,
    "disk space": disk_space,
    "number filter": number_filter,
    "scorers": scorers,
    "statistics": statistics,
    "bundled model": model_files,
    "chat rendering": chat_rendering,
    "loss mask": loss_mask,
    "exact evaluation": exact_evaluation,
}


def examine() -> Iterator[Check]:
    """Every check in turn; none of them stops the others."""
    bundled = BundledModel()
    checks = CHECKS | {f"extra {name}": extra_check(name) for name in extras()}
    for name, check in checks.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield done(name, check, bundled)
