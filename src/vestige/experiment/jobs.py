"""A run's jobs: what can be worked on at once, and in what order.

    base -> teachers -> targets -> shards -> rows -> students -> judge

Within a seed, jobs of one kind need nothing of one another, and those of the next kind may need
all of them: every trait's teacher is a job, every part of a teacher's rows, every arm's student of
every data set. Seeds need nothing of one another at all. Free of torch: a driver makes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vestige.experiment.settings import Experiment
from vestige.store.layout import ANY, NO_TRAIT, RunLayout, seed_name

KINDS = ("base", "teachers", "targets", "shards", "rows", "students", "judge")
#: The names of stages: paths below any run folder.
NAMES = RunLayout(Path())


@dataclass(frozen=True)
class Job:
    """One job of a seed.

    Attributes:
        kind: of ``KINDS``.
        name: whose teacher, rows or data set.
        arm: the student's.
        part, parts: which part of a teacher's rows, of how many; in a job of kind ``rows``,
            ``parts`` is how many there are to join.
        with_teacher: whether the student is trained with its teacher at hand.
    """

    seed: int
    kind: str
    name: str = ""
    arm: str = ""
    part: int = 0
    parts: int = 1
    with_teacher: bool = False

    @property
    def label(self) -> str:
        """A name of its own in its run, fit for a file."""
        parts = (self.kind, self.arm, self.name, str(self.part) if self.kind == "shards" else "")
        return "-".join((seed_name(self.seed), *filter(None, parts)))

    @property
    def needs(self) -> list[tuple[Path, bool]]:
        """The seed's stages that it starts from, and its own in case it is done: names, with
        ``ANY`` for every one; ``False``: their manifest is enough."""
        seed, name = self.seed, self.name
        own = [(NAMES.base(seed), True), (NAMES.contexts(seed), True)]
        teacher, teachers = NAMES.teacher(seed, name), NAMES.teacher(seed, ANY)
        targets, rows = NAMES.targets(seed, name), NAMES.rows(seed, ANY)
        shards, student = NAMES.shards(seed, name) / ANY, NAMES.student(seed, self.arm, name)
        students, judged = NAMES.student(seed, ANY, ANY), NAMES.judged(seed)
        made_of = {
            "base": [],
            "teachers": [(teacher, False)],
            "targets": [(teacher, True), (targets, False)],
            "shards": [(teacher, True), (shards, True), (rows, False)],
            "rows": [(teacher, True), (shards, True), (rows, True)],
            "students": [
                (teachers, False),
                *([(teacher, True)] if self.with_teacher else []),
                (rows, True),
                (targets, True),
                (NAMES.mitigated(seed, self.arm, name), True),
                (student, False),
            ],
            "judge": [(teachers, False), (rows, False), (students, True), (judged, False)],
        }
        return [*own, *made_of[self.kind]]


def jobs(
    recipe: Experiment, seed: int, *, shards: int = 1, upto: str = KINDS[-1]
) -> list[list[Job]]:
    """A seed's jobs, those that may be worked on at once together, in order.

    Args:
        shards: parts of a teacher's rows.
        upto: the last kind; with ``rows`` every teacher writes, needed by students or not.
    """
    wanted = KINDS[: KINDS.index(upto) + 1]
    teachers = [*recipe.sources, *([NO_TRAIT] if recipe.with_none else [])]
    needed = upto == "rows" or any(s.reads_rows for s in recipe.students)
    writers = recipe.writers if needed else []
    distilled = {name for s in recipe.students if s.reads_targets for name in recipe.data_of(s)}
    by_kind = {
        "base": [Job(seed, "base")],
        "teachers": [Job(seed, "teachers", name) for name in teachers],
        "targets": [
            Job(seed, "targets", name) for name in teachers if name in distilled and upto != "rows"
        ],
        "shards": [
            Job(seed, "shards", name, part=part, parts=shards)
            for name in writers
            for part in range(shards if shards > 1 else 0)
        ],
        "rows": [Job(seed, "rows", name, parts=shards) for name in writers],
        "students": [
            Job(seed, "students", name, student.name, with_teacher=student.method == "on_policy")
            for student in recipe.students
            for name in recipe.data_of(student)
        ],
        "judge": [Job(seed, "judge")] if recipe.freeform else [],
    }
    return [by_kind[kind] for kind in wanted if by_kind[kind]]
