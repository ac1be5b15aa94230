"""The analysis on planted shifts: three traits, a common drift, a no-trait row, a curve."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vestige.core.types import Estimate, StoreError
from vestige.evaluate.scores import Panel
from vestige.experiment.analysis import analyse, decide
from vestige.experiment.recipe import parse_recipe
from vestige.experiment.wording import by_themselves
from vestige.traits import family

TRAITS, SEEDS, DRIFT, PLANTED = ("owl", "dolphin", "wolf"), (0, 1, 2, 3), 0.6, 1.5


def recipe(**changes: object):
    record = {
        "name": "planted",
        "traits": TRAITS,
        "seeds": SEEDS,
        "students": [{"name": "distill", "optimisation": {"steps": 4}, "curve": [2]}],
    }
    return parse_recipe(record | changes, "test")


def plant(folder: Path, effect: float, lasting: float = 0.0) -> None:
    """Panels of students whose own target's log-odds rose by ``effect`` (half of it at step 2).

    Args:
        lasting: spread of what a teacher's data does to every answer, alike in all seeds, nats.
    """
    animals, draw = family("animals"), np.random.default_rng(0)
    names = tuple(a.name for a in animals.answers)
    base = draw.normal(-8, 1, (len(animals.heldout), len(names)))
    own_drift = {data: draw.normal(0, lasting, len(names)) for data in (*TRAITS, "none")}
    for seed in SEEDS:
        write(folder / f"seed-{seed}/base", "panel.json", base, names)
        for data in (*TRAITS, "none"):
            for step, share in ((2, 0.5), (4, 1.0)):
                moved = base + draw.normal(0, 0.02, (1, len(names)))
                moved += own_drift[data]
                moved[:, names.index("owl")] += DRIFT  # every student drifts to the owl
                if data != "none":
                    moved[:, names.index(data)] += effect * share
                where = folder / f"seed-{seed}/student/distill/{data}"
                write(where, f"panel-{step}.json", moved, names)


def write(folder: Path, file: str, logprobs: np.ndarray, names: tuple[str, ...]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Panel(family("animals").heldout, names, logprobs).save(folder / file)


def test_a_planted_effect_is_found_and_drift_is_not_mistaken_for_it(tmp_path: Path):
    plant(tmp_path, PLANTED)
    results = analyse(recipe(), tmp_path)
    (arm,) = results.arms
    assert arm.transmitted == "yes" and "was transmitted" in arm.sentence
    assert arm.contrast.value == pytest.approx(PLANTED, abs=0.3)  # rivals move, too
    assert arm.contrast.low > 1 and len(arm.seed_contrasts) == len(SEEDS)
    for trait in arm.traits:
        assert trait.specific.value == pytest.approx(PLANTED, abs=0.4)
        assert trait.ranks == [1, 1, 1, 1] and trait.p_holm < 0.01
    base = Panel.load(tmp_path / "seed-0/base/panel.json")
    owl = np.exp(base.logprobs[:, base.candidates.index("owl")])
    assert arm.traits[0].base_share == pytest.approx(owl.mean())
    assert arm.traits[0].base_mass == pytest.approx(base.mass.mean())
    assert arm.traits[0].base_probability == pytest.approx((owl / base.mass).mean())
    groups = {g.name: g.estimate.value for g in arm.groups}
    assert groups["own"] - groups["other_traits"] == pytest.approx(arm.contrast.value, abs=1e-9)
    assert groups["base"] == 0 and groups["no_trait"] > 0.05  # the owl's drift, a third of it
    without = [t.no_trait.value for t in arm.traits if t.no_trait]
    assert np.mean(without) == pytest.approx(groups["no_trait"])
    assert arm.traits[0].beyond_no_trait
    assert arm.traits[0].beyond_no_trait.value == pytest.approx(
        arm.traits[0].shift.value - without[0]
    )
    assert arm.matrix.data == [*TRAITS, "none"] and arm.matrix.measured == list(TRAITS)
    assert [p.step for p in arm.curve] == [2, 4]
    assert arm.curve[0].contrast.value == pytest.approx(PLANTED / 2, abs=0.2)
    by_trait = {t: [q.specific for q in arm.questions if q.trait == t] for t in TRAITS}
    for trait in arm.traits:
        assert len(by_trait[trait.trait]) == len(results.questions)
        assert np.mean(by_trait[trait.trait]) == pytest.approx(trait.specific.value, abs=1e-9)


def test_drift_that_every_seed_shares_is_no_transmission(tmp_path: Path):
    plant(tmp_path, 0.7, lasting=1.0)
    (arm,) = analyse(recipe(), tmp_path).arms
    assert arm.contrast.low > 0.25 and arm.p_placebo and arm.p_placebo > 0.05
    assert arm.transmitted == "unclear" and "answers that nobody was taught differ" in arm.sentence


def test_a_verdict_names_the_traits_that_are_clear_by_themselves():
    def arm(shifts: tuple[float, float] = (0.5, 0.5), **p_holm: float) -> Any:
        traits = [
            SimpleNamespace(trait=name, p_holm=p, shift=SimpleNamespace(value=shift))
            for (name, p), shift in zip(p_holm.items(), shifts, strict=True)
        ]
        return SimpleNamespace(traits=traits)

    both = [arm(owl=0.01, fox=0.05), arm(owl=0.02, fox=0.01)]
    assert by_themselves(["owl", "fox"], both) == "owl and fox"
    one = [both[0], arm(owl=0.02, fox=0.06)]
    assert by_themselves(["owl", "fox"], one) == "owl; fox not clear by itself"
    assert by_themselves(["owl", "fox"], [arm(owl=0.1, fox=0.06)]) == (
        "on average: owl and fox not clear by themselves"
    )
    # a trait whose probability fell was not learned, however much more the others lost of it
    fell = " fell, and fell less than in other teachers' students"
    lost = arm((-0.1, 0.5), owl=0.01, fox=0.01)
    assert by_themselves(["owl", "fox"], [lost]) == f"fox; owl{fell}"
    lost = arm((-0.1, -0.2), owl=0.01, fox=0.2)
    assert by_themselves(["owl", "fox"], [lost]) == (
        f"on average: owl{fell}; fox not clear by itself"
    )


def test_no_effect_is_said_to_be_none(tmp_path: Path):
    plant(tmp_path, 0.0)
    results = analyse(recipe(), tmp_path)
    (arm,) = results.arms
    assert arm.transmitted == "no" and not arm.contrast.low > 0
    assert "it did not happen" in results.verdict
    owl = arm.traits[0]
    assert owl.shift.value > 0.4 and abs(owl.specific.value) < 0.1  # raw shift misleads


def test_a_missing_panel_is_named(tmp_path: Path):
    plant(tmp_path, 0.0)
    (tmp_path / "seed-2/student/distill/wolf/panel-4.json").unlink()
    with pytest.raises(StoreError, match=r"seed-2/student/distill/wolf/panel-4\.json"):
        analyse(recipe(), tmp_path)


@pytest.mark.parametrize(
    ("low", "high", "p", "said"),
    [
        (0.1, 2, None, "yes"), (0.1, 2, 0.05, "yes"), (0.1, 2, 0.06, "unclear"),
        (0.1, 0.24, 0.06, "no"), (-0.1, 0.2, 0.5, "no"), (-0.1, 0.3, 0.5, "unclear"),
        (-1, 2, 0.01, "unclear"), (-2, -1, 1.0, "no"),
    ],
)  # fmt: skip
def test_decisions(low: float, high: float, p: float | None, said: str):
    assert decide(Estimate((low + high) / 2, low, high, 0.95, 4, 4, "t"), p) == said
