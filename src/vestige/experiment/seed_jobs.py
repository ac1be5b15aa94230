"""One seed of an experiment: its jobs, and the function that does each kind of job."""

from __future__ import annotations

from collections.abc import Callable

from vestige.experiment.base_stage import base, contexts
from vestige.experiment.jobs import KINDS, Job, jobs
from vestige.experiment.judge_stage import judge_answers
from vestige.experiment.rows_stage import rows, shard
from vestige.experiment.seed_context import SeedContext
from vestige.experiment.student_stages import METHODS
from vestige.experiment.targets_stage import targets
from vestige.experiment.teacher_stage import teacher


def make_base(context: SeedContext, job: Job) -> None:
    """The untrained base's answers, and its rows where students are distilled on them."""
    base(context)
    contexts(context)


def make_student(context: SeedContext, job: Job) -> None:
    """An arm's student of one data set."""
    student = next(s for s in context.recipe.students if s.name == job.arm)
    METHODS[student.method](context, student, job.name)


#: What is done for each kind of job (``jobs.KINDS``). Stages that a job starts from are finished,
#: or are made first.
WORK: dict[str, Callable[[SeedContext, Job], object]] = {
    "base": make_base,
    "teachers": lambda context, job: teacher(context, job.name),
    "targets": lambda context, job: targets(context, job.name),
    "shards": lambda context, job: shard(context, job.name, (job.part, job.parts)),
    "rows": lambda context, job: rows(context, job.name, job.parts),
    "students": make_student,
    "judge": lambda context, job: judge_answers(context),
}


def work(context: SeedContext, job: Job) -> None:
    """Do one job of the seed."""
    WORK[job.kind](context, job)


def make_seed(context: SeedContext, upto: str = KINDS[-1]) -> None:
    """Every stage of the seed up to a kind of job, in order; finished ones are skipped."""
    for members in jobs(context.recipe, context.seed, upto=upto):
        for job in members:
            work(context, job)
        context.models.close_engine()
