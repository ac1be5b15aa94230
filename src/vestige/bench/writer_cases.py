"""Which students a benchmark of detection makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vestige.bench.trait_writers import TEACHERS
from vestige.bench.writer_kinds import HARMLESS
from vestige.bench.writers_settings import WritersBench
from vestige.core.types import Trait
from vestige.probing.base_session import BaseSession
from vestige.probing.drift import Array
from vestige.traits.library import trait_id

CONTROL = "control"  # the kind of students that others are held against
OWN_NOISE = 5_000  # between the numbers of controls and of other students


@dataclass(frozen=True)
class Case:
    """A student to be made; ``trait``: the id of its teacher's, empty for a harmless writer."""

    number: int
    kind: str
    trait: str
    training: str

    @property
    def stage(self) -> str:
        """The name of its stage."""
        return f"students/{self.number:04d}"


@dataclass(frozen=True)
class Examined:
    """A student that was made.

    Attributes:
        log_odds: of every trait in every context, [D].
        gained: nats of the trait that its teacher had more than the base.
    """

    case: Case
    log_odds: Array
    gained: float | None


def controls(settings: WritersBench, session: BaseSession) -> list[Case]:
    """Students of the base's numbers, for each way of training."""
    ways = settings.training(len(session.lm.layers), session.trainable)
    wanted = [way for way in ways for _ in range(settings.controls)]
    first = settings.seed + OWN_NOISE
    return [Case(first + i, CONTROL, "", way) for i, way in enumerate(wanted)]


def control_of(case: Case, made: Sequence[Examined]) -> Examined | None:
    """The control that a student is held against: one that was trained alike, in turn."""
    alike = [control for control in made if control.case.training == case.training]
    return alike[case.number % len(alike)] if alike else None


def cases(settings: WritersBench, session: BaseSession) -> list[Case]:
    """Harmless students of every kind in turn, then those of teachers; ways of training in turn."""
    ways = list(settings.training(len(session.lm.layers), session.trainable))
    wanted = [(kind, "") for _ in range(settings.harmless) for kind in HARMLESS]
    for kind in TEACHERS:
        for held_out in (False, True):
            wanted += [(kind, trait_id(t)) for t in chosen_traits(settings, session, held_out)]
    made = []
    for i, (kind, trait) in enumerate(wanted):
        turn = i if trait else i // len(HARMLESS)  # harmless kinds come in turn, teachers' do not
        made.append(Case(settings.seed + i, kind, trait, ways[turn % len(ways)]))
    return made


def chosen_traits(settings: WritersBench, session: BaseSession, held_out: bool) -> list[Trait]:
    """Traits of words, evenly spread over the library's, held out or not."""
    library = session.library
    words = [
        t
        for t in library.traits
        if not t.family.texts and t.pairs and (trait_id(t) in library.held_out) == held_out
    ]
    count = min(settings.traits, len(words))
    return [words[i * len(words) // count] for i in range(count)]
