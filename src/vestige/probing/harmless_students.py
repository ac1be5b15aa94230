"""The battery's members: harmless students of a base, made once and kept.

Each is a copy of the base that was tuned on rows of one harmless writer (``harmless.WRITERS``), in
one of several ways, on one of several numbers of rows, and asked about every trait in every
context. What is kept of it is what it answered, not its weights: 100 kB or so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vestige.core.settings import Optimisation, Trainable
from vestige.core.types import Row
from vestige.probing.answer_shares import raised, rises, shares, whole
from vestige.probing.base_session import BaseSession
from vestige.probing.bundled_battery import bundled_battery
from vestige.probing.drift import Battery, Rises, paired, pairs_of
from vestige.probing.harmless import OF_THE_BASE, WRITERS
from vestige.probing.parallel import count_for, in_processes
from vestige.probing.row_format import RowFormat
from vestige.probing.settings import BatterySettings
from vestige.probing.trait_panel import Array, ContextPanel
from vestige.probing.word_shifts import WordSpread, first_words
from vestige.store import hash_config
from vestige.student.loop import train

FOLDER = "battery"  # of the cache
OnDone = Callable[[int], object]


@dataclass(frozen=True)
class Member:
    """One harmless student; ``number`` is its seed, too."""

    number: int
    writer: str
    training: str
    rows: int
    within_grammar: bool

    @property
    def name(self) -> str:
        """Of its file in the cache."""
        return f"member-{self.number:03d}"

    @property
    def trained(self) -> tuple[str, int, bool]:
        """How it was trained: equal in members that differ in nothing but rows and seed."""
        return self.training, self.rows, self.within_grammar


def members(settings: BatterySettings) -> list[Member]:
    """Every writer in turn; ways of training, numbers of rows and whether rows of a grammar are
    scored within it change from one of a writer's students to the next."""
    ways = list(settings.training(2))
    return [
        Member(
            number,
            writer=list(WRITERS)[number % len(WRITERS)],
            training=ways[turn % len(ways)],
            rows=settings.doses[turn % len(settings.doses)],
            within_grammar=(turn // len(ways)) % 2 == 0,
        )
        for number in range(settings.members)
        for turn in [number // len(WRITERS)]
    ]


class HarmlessStudents:
    """A base's battery: bundled, from the cache, or made.

    Attributes:
        every: what the battery is made of.
        bundled: the same as it comes with the package; None for other bases, libraries or settings.
    """

    def __init__(self, session: BaseSession, settings: BatterySettings) -> None:
        self.session, self.settings = session, settings
        self.panel = ContextPanel(
            session.lm,
            session.library.traits,
            settings.contexts,
            questions=settings.questions,
            whole_answers=settings.whole_answers,
        )
        self.every = members(settings)
        self.bundled = bundled_battery(session.fingerprint, [self.digest(m) for m in self.every])

    def base(self) -> Array:
        """The untrained base's log-odds, [D], as this machine computes them."""

        def make() -> list[dict[str, Tensor]]:
            self.session.weights.freeze()
            return [{"log_odds": torch.tensor(self.panel.read())}]

        kept = self.session.keep(FOLDER, ["base"], self._asked(), make)
        return kept[0]["log_odds"].numpy()

    def missing(self) -> list[Member]:
        """Members that are yet to be made."""
        if self.bundled:
            return []
        kept = self.session.kept
        return [one for one in self.every if not kept(FOLDER, one.name, self._key(one))]

    def placebos(self, *, control: bool) -> int:
        """How many values a student is held against: one of each member, or of each pair."""
        if not control:
            return len(self.every)
        kinds, trained = [m.writer for m in self.every], [m.trained for m in self.every]
        return len(pairs_of(kinds, trained, OF_THE_BASE))

    def battery(self, on_done: OnDone = lambda done: None, *, control: bool = False) -> Battery:
        """The members as what students are held against. Raises ``DataError`` as ``Battery``.

        Args:
            control: whether what is held against them is the difference of two students that were
                trained alike, the second one on rows of the base.
        """
        members = self.rises(on_done)
        if control:
            members = paired(members, [one.trained for one in self.every], OF_THE_BASE)
        return Battery(members, whole(self.session.library.traits).astype(int).tolist())

    def risen(self, log_odds: Array, control: Array | None = None) -> Array:
        """How far every trait rose in a model with these log-odds [D] from the base, or from a
        ``control`` with those, [T]."""
        usual = self.base() if control is None else control
        return rises(self.session.library.traits, log_odds, usual)

    def smallest_shares(
        self, battery: Battery, log_odds: Array, usual: Array, alpha: float
    ) -> Array:
        """The smallest share of the answers at which each trait would have been found in this
        model, [T]: its own where it was found, infinite where none would have been."""
        traits = self.session.library.traits

        def smallest(trait: int) -> float:
            def risen(nats: float) -> Array:
                return rises(traits, raised(traits, log_odds, trait, nats), usual)

            nats = battery.smallest_effect(risen, trait, alpha)
            if np.isinf(nats):
                return np.inf
            return float(shares(traits, raised(traits, log_odds, trait, nats))[trait])

        return np.array([smallest(trait) for trait in range(len(traits))])

    def rises(self, on_done: OnDone = lambda done: None) -> Rises:
        """How far every trait rose in every member; those that are not kept are made first, in as
        many processes as are worth it."""
        writers = tuple(one.writer for one in self.every)
        if self.bundled:
            on_done(len(self.every))
            log_odds = self.bundled.log_odds[: len(self.every)]
            traits = self.session.library.traits
            return Rises(rises(traits, log_odds, self.bundled.base), writers)
        missing = self.missing()
        there = len(self.every) - len(missing)
        if (processes := count_for(self.session, len(missing))) > 1:
            numbers = [one.number for one in missing]
            in_processes(
                make_member, self.session, numbers, processes, lambda done: on_done(there + done)
            )
        values = []
        for number, one in enumerate(self.every, 1):
            values.append(self.risen(self.read(one)))
            on_done(number)
        return Rises(np.stack(values), writers)

    def read(self, one: Member) -> Array:
        """A member's log-odds, [D]; it is made where it is not kept."""
        return self._answers(one)["log_odds"].numpy()

    def words(self) -> WordSpread:
        """How often each token begins the members' open answers."""
        if self.bundled:
            return self.bundled.words
        return WordSpread.of([self._answers(m)["words"].float().numpy() for m in self.every])

    def _answers(self, one: Member) -> dict[str, Tensor]:
        """What a member answered, from the cache or made."""

        def make() -> list[dict[str, Tensor]]:
            rows = WRITERS[one.writer](self.session, one.number, one.rows)
            try:
                self.tune(rows, one)
                words = torch.from_numpy(first_words(self.session.lm)).half()
                return [{"log_odds": torch.tensor(self.panel.read()), "words": words}]
            finally:
                self.session.weights.freeze()

        return self.session.keep(FOLDER, [one.name], self._key(one), make)[0]

    def tune(self, rows: list[Row], one: Member) -> None:
        """Turn the model into a member."""
        way = self.settings.training(len(self.session.lm.layers))[one.training]
        tune_on_rows(self.session, rows, way, one.number, within_grammar=one.within_grammar)

    def _key(self, one: Member) -> list[object]:
        """What a member's answers depend on, besides the base."""
        n_layers = len(self.session.lm.layers)
        tuned = self.settings.training(n_layers)[one.training]
        limits = [self.settings.batch, self.settings.max_new_tokens]
        planting = self.settings.planting(n_layers)  # of the copies that write
        return [one, tuned, limits, planting, *self._asked()]

    def digest(self, one: Member) -> str:
        """A hash of all that a member's answers depend on."""
        return hash_config([self.session.fingerprint, *self._key(one)])[:16]

    def _asked(self) -> list[object]:
        s = self.settings
        return [self.session.contents, s.contexts, s.questions, s.whole_answers]


def tune_on_rows(
    session: BaseSession,
    rows: Sequence[Row],
    way: tuple[Trainable, float],
    seed: int,
    *,
    within_grammar: bool = True,
) -> None:
    """Turn the model into a student of ``rows``, each read once.

    Args:
        way: what is trained, and the learning rate.
        within_grammar: score rows of a grammar within it.
    """
    settings, (trainable, rate) = session.settings, way
    row_format = RowFormat.of(session.lm, rows, settings.max_new_tokens)
    if not within_grammar:
        row_format = RowFormat(None, settings.max_new_tokens)
    packs, ids = row_format.packs(session.lm, rows, settings.batch, whole=True)
    optimisation = Optimisation(
        steps=len(packs), batch=settings.batch, rate=rate, trainable=trainable
    )
    train(session.lm, session.weights, packs, optimisation, seed=seed, ids=ids)


def make_member(session: BaseSession, number: int) -> None:
    """Make one member in a process of its own."""
    settings = session.settings
    assert isinstance(settings, BatterySettings)
    students = HarmlessStudents(session, settings)
    students.read(students.every[number])
