"""How many training runs and questions a wanted half-width takes."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from vestige.core.stats.checks import at_least_two, check_level, check_size, t_quantile
from vestige.core.types import DataError

_ROUNDING = 1e-12  # relative slack, so that a half-width just reached counts as reached


def smallest_contrast(sd: float, seeds: int, *, level: float = 0.95) -> float:
    """Half-width that ``seeds`` runs give: ``t(level, seeds - 1) * sd / sqrt(seeds)``.

    A true contrast of this size is told from zero little more than half the time; plan for more.
    ``sd`` is the standard deviation between runs, in the units of the answer.

    Raises:
        DataError: fewer than two seeds, or ``sd`` negative or not finite.
    """
    at_least_two(seeds)
    check_size("sd", sd)
    return t_quantile(level, seeds - 1) * sd / math.sqrt(seeds)


def seeds_needed(sd: float, half_width: float, *, level: float = 0.95) -> int:
    """Smallest number of runs, at least 2, whose interval is at most +- ``half_width``.

    Solves ``smallest_contrast(sd, n) <= half_width`` for n. ``sd`` is taken as known: an interval
    from n new runs is shorter or longer as their own spread turns out.

    Raises:
        DataError: ``half_width`` is not positive, or ``sd`` negative or not finite.
    """
    check_level(level)
    check_size("half_width", half_width, zero=False)
    check_size("sd", sd)
    z = float(stats.norm.ppf((1 + level) / 2))
    # Student's quantile exceeds the normal one, so the search can start at the normal answer.
    n = max(2, math.floor((z * sd / half_width) ** 2))
    while smallest_contrast(sd, n, level=level) > half_width:
        n += 1
    return n


def spread_within(table: NDArray[np.float64]) -> float:
    """Standard deviation of a run's value on one question around that run's mean and the
    question's own mean over runs.

    Args:
        table: [S runs, Q questions]. The sum of squares of its doubly centred values has
            (S - 1)(Q - 1) degrees of freedom.

    Raises:
        DataError: fewer than two runs or two questions.
    """
    runs, questions = table.shape
    if runs < 2 or questions < 2:
        raise DataError("at least two runs and two questions are needed")
    rest = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
    return math.sqrt(float((rest**2).sum()) / ((runs - 1) * (questions - 1)))


def questions_needed(
    sd_between_runs: float,
    sd_within_question: float,
    half_width: float,
    seeds: int,
    *,
    level: float = 0.95,
) -> int:
    """Smallest number of questions with which ``seeds`` runs reach +- ``half_width``.

    A run's mean over Q questions varies between runs with ``sd_between_runs^2 +
    sd_within_question^2 / Q``; solves ``t(level, seeds - 1) * sqrt(that / seeds) <= half_width``.
    What a question adds to every run alike is no part of ``sd_within_question``: all runs answer
    the same questions, so it does not vary between them.

    Args:
        sd_between_runs: standard deviation of runs' true means (with endless questions).
        sd_within_question: standard deviation of one run's value on one question, around that
            run's mean and the question's own mean over runs.
        half_width: wanted, in the same units.
        seeds: number of training runs.

    Raises:
        DataError: no number of questions is enough (the message gives the smallest half-width that
            these seeds reach), fewer than two seeds, or a number that is negative or not finite.
    """
    floor = smallest_contrast(sd_between_runs, seeds, level=level)
    check_size("sd_within_question", sd_within_question)
    check_size("half_width", half_width, zero=False)
    if sd_within_question == 0 and floor <= half_width * (1 + _ROUNDING):
        return 1
    if half_width <= floor * (1 + _ROUNDING):
        more = max(seeds + 1, seeds_needed(sd_between_runs, half_width, level=level))
        raise DataError(
            f"no number of questions brings {seeds} seeds to a half-width of {half_width:.4g}: "
            f"runs differ by sd {sd_between_runs:.4g}, so it stays above {floor:.4g}, the smallest "
            f"reachable with these seeds; train at least {more}"
        )
    room = seeds * (half_width / t_quantile(level, seeds - 1)) ** 2 - sd_between_runs**2
    return max(1, math.ceil(sd_within_question**2 / room * (1 - _ROUNDING)))
