"""How often "transmitted: yes" is said where there is only drift, and where there is more.

Training on a teacher's data moves answers that nobody was taught, some of it in the same way in
every seed. Its size is taken from the untaught answers of a finished run: the spread of
``contrast[s, i, c]`` (own minus other teachers' students, answer c, seed s, teacher i) that stays
over seeds, and the spread that does not. Runs with that drift and with an effect are then drawn
and decided by the rule in use, and by its interval alone. So are the run's own students, scored on
answers that nobody was taught. Run after ``make demo``:
python benchmarks/drift.py runs/demo-*
"""

from __future__ import annotations

import argparse
import json
from itertools import permutations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vestige.core import stats
from vestige.experiment.analysis import Shifts, decide
from vestige.experiment.recipe import load_recipe

EFFECTS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.8)  # nats
RUNS = 2000
Array = NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="finished runs")
    parser.add_argument("--runs-drawn", type=int, default=RUNS)
    options = parser.parse_args()
    print(json.dumps([figures(run, options.runs_drawn) for run in options.runs], indent=1))


def figures(run: Path, drawn: int) -> dict[str, object]:
    """The drift of each arm of a run, and the shares of "yes" under it."""
    recipe = load_recipe(run / "recipe.json")
    arms = {}
    for student in recipe.students:
        shifts = Shifts(recipe, student, run)
        contrasts = shifts.contrasts(shifts.at(student.steps))[:, :, shifts.untaught]
        seeds, traits, untaught = contrasts.shape
        lasting, passing = drift(contrasts)
        arms[student.name] = {
            "lasting sd, nats": lasting,
            "passing sd, nats": passing,
            "share of yes for wrong answers": wrong(contrasts),
            "answers' drift, largest to root mean square": float(spreads(contrasts).max()),
            "share of yes": {
                effect: shares(seeds, traits, untaught, lasting, passing, effect, drawn)
                for effect in EFFECTS
            },
            "share of yes, unequal drift": {
                effect: shares(
                    seeds, traits, untaught, lasting, passing, effect, drawn, spreads(contrasts)
                )
                for effect in EFFECTS
            },
        }
    return {"run": run.name, "arms": arms}


def wrong(contrasts: Array) -> dict[str, float]:
    """The run's own students, scored on untaught answers as if their teachers had been taught
    those: every choice of a different one for each teacher, from [seeds, k, C]."""
    said = []
    for own in permutations(range(contrasts.shape[2]), contrasts.shape[1]):
        interval = stats.t_interval(contrasts[:, range(len(own)), own].mean(1))
        rest = [c for c in range(contrasts.shape[2]) if c not in own]
        p = stats.placebo_p(contrasts.mean(0), own, rest)
        said.append((interval.low > 0, decide(interval, p) == "yes"))
    alone, rule = np.mean(said, axis=0)
    return {"choices": len(said), "interval alone": alone, "with untaught answers": rule}


def drift(contrasts: Array) -> tuple[float, float]:
    """Standard deviations of what stays over seeds and of what does not, from [seeds, k, C]."""
    passing = contrasts.var(axis=0, ddof=1).mean()
    # Each teacher's mean over answers is a drift of all of them, which no rank among them sees.
    between = contrasts.mean(0).var(axis=1, ddof=1).mean()
    return float(np.sqrt(max(0.0, between - passing / len(contrasts)))), float(np.sqrt(passing))


def spreads(contrasts: Array) -> Array:
    """How far each answer moves, as a multiple of their root mean square, from [seeds, k, C]."""
    own = np.sqrt((contrasts**2).mean((0, 1)))
    return own / np.sqrt((own**2).mean())


def shares(
    seeds: int,
    traits: int,
    untaught: int,
    lasting: float,
    passing: float,
    effect: float,
    runs: int,
    unequal: Array | None = None,
) -> dict[str, float]:
    """Shares of "yes" by the interval alone and by the rule in use.

    Args:
        unequal: multiples of the drift; every answer of a run, taught or not, has one of them,
            drawn anew. None: all answers drift alike.
    """
    draw, alone, rule = np.random.default_rng(0), 0, 0
    own, others = range(traits), range(traits, traits + untaught)
    for _ in range(runs):
        stays = draw.normal(0, lasting, size=(traits, traits + untaught))
        contrasts = stays + draw.normal(0, passing, size=(seeds, *stays.shape))
        if unequal is not None:
            contrasts *= draw.choice(unequal, contrasts.shape[-1])
        contrasts[:, own, own] += effect
        interval = stats.t_interval(contrasts[:, own, own].mean(1))
        alone += interval.low > 0
        if interval.low > 0:
            p = stats.placebo_p(contrasts.mean(0), own, others)
            rule += decide(interval, p) == "yes"
    return {"interval alone": alone / runs, "with untaught answers": rule / runs}


if __name__ == "__main__":
    main()
