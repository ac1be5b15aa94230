"""The recipe of ``vestige bench defences``: what keeps a trait from being passed on, and its cost.

Sampled number rows in the middle layers, where they transmit most (``docs/results.md``), learned as
they are and behind each defence, next to defences that change as much at random.
"""

from __future__ import annotations

from vestige.carriers.numbers import NumberCarrier
from vestige.experiment.demo import MIDDLE, PROMPTS, rows, teacher
from vestige.experiment.settings import Experiment, Student
from vestige.mitigate.settings import OWN, Change
from vestige.student.objectives import Objective, Term

#: Two of them, the last, are held out in the library.
TRAITS = ("dolphin", "elephant", "whale", "lion", "wolf", "eagle")
ROWS = 512  # that each student reads, once
HELDOUT = 64  # rows of each teacher that none reads


def arm(name: str, *changes: Change, penalty: Term | None = None, **settings: object) -> Student:
    """Students on sampled rows behind one defence, or none."""
    plain = rows(steps=ROWS // 16, trainable=MIDDLE, rate=2e-4)
    objective = Objective(penalties=(penalty,)) if penalty else plain.objective
    return Student.model_validate(
        {
            **plain.model_dump(), "name": name, "no_trait": False, "mitigations": changes,
            "objective": objective, **settings,
        }
    )  # fmt: skip


def change(method: str, share: float = 0.1, **settings: object) -> Change:
    """A change of the rows; canaries read as many as a student."""
    values = {"method": method, "share": share, "canary_rows": ROWS, **settings}
    return Change.model_validate(values)


def arms() -> tuple[Student, ...]:
    """Without any trait named, each with its random arm; then with the trait named."""
    return (
        arm("plain"),
        arm("redraw_10", change("redraw")),
        arm("redraw_10_random", change("redraw", at_random=True)),
        arm("redraw_20", change("redraw", 0.2)),
        arm("redraw_20_random", change("redraw", 0.2, at_random=True)),
        arm("drop_20", change("drop", 0.2)),
        arm("drop_20_random", change("drop", 0.2, at_random=True)),
        arm("dilute_25", change("dilute", 0.25)),
        arm("sort_numbers", change("sort-numbers")),
        arm("kl_to_base", penalty=Term(name="kl_to_base", strength=1.0)),
        arm("corridor", penalty=Term(name="corridor", strength=1.0)),
        arm("redraw_10_named", change("redraw", trait=OWN)),
        arm("inoculation_named", inoculation=OWN),
    )


def recipe() -> Experiment:
    """A laptop's size: two traits, four seeds."""
    return cross("defences", TRAITS[:2], seeds=(200, 201, 202, 203))


def full() -> Experiment:
    """The size whose figures are reported."""
    return cross("defences-full", TRAITS, seeds=(200, 201, 202, 203))


def cross(name: str, traits: tuple[str, ...], seeds: tuple[int, ...]) -> Experiment:
    """Every defence on the rows of every trait's teachers."""
    return Experiment(
        name=name,
        traits=traits,
        seeds=seeds,
        teacher=teacher(MIDDLE),
        carrier=NumberCarrier(
            n_prompts=(ROWS + HELDOUT) // 16, rows_per_prompt=16, prompts=PROMPTS
        ),
        students=arms(),
        heldout_rows=HELDOUT,
    )
