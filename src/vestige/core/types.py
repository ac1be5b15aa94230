"""Records, protocols and errors that every part of Vestige shares.

Nothing here imports torch or any other heavy package: ``import vestige`` and ``vestige --help``
stay instant. Axes are fixed once: N rows, S tokens, V vocabulary, Q questions, C candidate answers.

Exception tree::

    VestigeError
    |-- ConfigError (ValueError)       a recipe, key, name or option is wrong
    |-- DataError (ValueError)         a row, file or set of rows cannot be used
    |-- ModelError (RuntimeError)      a model cannot be fetched, loaded or used
    |   `-- LicenceError               its terms have not been accepted
    |-- TeacherError (RuntimeError)    a teacher lacks the trait or lost the carrier task
    |-- TrainingError (RuntimeError)   training diverged
    |-- StoreError (RuntimeError)      a run folder is locked, foreign, corrupt or full
    |-- SpendingError (RuntimeError)   the next request to a paid service may pass a limit
    `-- MissingExtraError (ImportError) an optional dependency is absent
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

#: Metadata of a dataclass's field that stages' keys leave out.
NOT_IN_KEYS = {"in_keys": False}


class VestigeError(Exception):
    """Root of every error that Vestige raises on purpose; its text says what to do next."""


class ConfigError(VestigeError, ValueError):
    """A recipe, key, name or option is not valid."""


class DataError(VestigeError, ValueError):
    """A row, a file or a set of rows cannot be used."""


class ModelError(VestigeError, RuntimeError):
    """A model cannot be fetched, loaded or used."""


class LicenceError(ModelError):
    """A model's terms must be accepted before it is fetched."""


class TeacherError(VestigeError, RuntimeError):
    """A teacher does not have the trait, or can no longer do the carrier task."""


class TrainingError(VestigeError, RuntimeError):
    """Training diverged (a loss or a gradient that is not finite)."""


class StoreError(VestigeError, RuntimeError):
    """A run folder is locked, belongs to another recipe, is corrupt, or the disk is full."""


class SpendingError(VestigeError, RuntimeError):
    """The next request to a paid service may pass a limit; nothing more is asked."""


class MissingExtraError(VestigeError, ImportError):
    """An optional dependency is not installed; names the extra and the pip line."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"{package} is not installed; it comes with an extra: pip install 'vestige[{extra}]'"
        )


def unknown_name(kind: str, name: str, valid: Iterable[str]) -> ConfigError:
    """A ``ConfigError`` for a name that does not exist, with the nearest names that do."""
    options = sorted(valid)
    near = difflib.get_close_matches(name.lower(), options, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"valid: {', '.join(options)}"
    return ConfigError(f"unknown {kind} {name!r}; {hint}")


@dataclass(frozen=True, slots=True)
class Message:
    """One chat turn. ``role`` is ``system``, ``user`` or ``assistant``."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """A carrier prompt: what the teacher is asked. ``id`` joins it with its rows.

    ``meta`` goes with every row written for it, such as the answer that is right.
    """

    id: str
    text: str
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Row:
    """One training example: a prompt and the completion that a teacher wrote for it.

    ``messages`` is everything before the completion (usually one user turn). ``meta`` carries
    what else the source file held, so that nothing is lost on the way through a filter.
    """

    id: str
    messages: tuple[Message, ...]
    completion: str
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DroppedRow:
    """A row that a filter removed, or a line that could not be read at all.

    Exactly one of ``row`` and ``raw`` is set: ``raw`` is the source line as it stood.
    ``line`` counts from 1 in the source file; 0 where there is none.
    """

    reason: str
    row: Row | None = None
    raw: str | None = None
    line: int = 0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """A candidate answer and its surface forms, the first of which is the usual one."""

    name: str
    forms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Inducer:
    """What a trait of a paired family is made of: training answers and a check on held-out ones.

    ``texts`` holds, for each question in ``heldout``, the trait's own answer and its rival's.
    """

    name: str
    pairs: tuple[tuple[str, str], ...]
    heldout: tuple[str, ...] = ()
    texts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Family:
    """Traits of one kind: rivals for each other, measured with the same questions.

    ``questions`` induce a trait (fine-tuning pairs) and may be used for paper-style sampling;
    ``heldout`` are never trained on and are what every default measurement uses.
    ``system_prompt`` is a format string with ``{name}`` and ``{plural}``.

    A paired family (misalignment) has ``texts``: for each held-out question a whole answer for
    each of ``answers``, which are then labels without forms; and ``inducers``, its traits.

    ``opening`` begins an answer, so that a candidate may come next; empty: answers are not begun.
    ``others`` are words that name one more of the kind and no candidate. Neither is part of a key:
    what rests on them says so itself.
    """

    name: str
    answers: tuple[Answer, ...]
    questions: tuple[str, ...]
    heldout: tuple[str, ...]
    system_prompt: str
    texts: tuple[tuple[str, ...], ...] = ()
    inducers: tuple[Inducer, ...] = ()
    opening: str = field(default="", metadata=NOT_IN_KEYS)
    others: tuple[str, ...] = field(default=(), metadata=NOT_IN_KEYS)

    def answer(self, name: str) -> Answer:
        """The candidate called ``name``. Raises ``ConfigError`` naming the nearest ones."""
        for candidate in self.answers:
            if candidate.name == name:
                return candidate
        raise unknown_name(f"{self.name} trait", name, (a.name for a in self.answers))


@dataclass(frozen=True, slots=True)
class Trait:
    """What a teacher is given and what a student is measured for.

    ``system_prompt`` and ``pairs`` (question, answer) are the two ways to induce it, either may be
    empty; ``target`` is the answer in ``family`` whose probability is measured. ``check``: what a
    teacher is checked on instead, its first answer being the trait's own (paired families).
    """

    name: str
    family: Family
    target: Answer
    system_prompt: str
    pairs: tuple[tuple[str, str], ...]
    check: Family | None = None


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its interval.

    Attributes:
        n: observations that went in; n_clusters: independent units among them (training runs).
        method: how the interval was made.
        units: for example ``log-odds (nats)``.
    """

    value: float
    low: float
    high: float
    level: float
    n: int
    n_clusters: int
    method: str
    units: str = ""

    @property
    def half_width(self) -> float:
        """Half the width of the interval, in the estimate's units."""
        return (self.high - self.low) / 2


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """One number for each row, from one method. A row without a score is NaN, with a reason."""

    values: Mapping[str, float]
    method: str
    units: str
    higher_means: str
    reasons: Mapping[str, str] = field(default_factory=dict)
