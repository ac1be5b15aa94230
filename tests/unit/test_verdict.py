"""From an audit's evidence to its verdict: nothing here loads a model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from verdict_cases import MEASURED, gathered, missed

from vestige.audit.canary_statistics import look
from vestige.audit.decision import (
    HAS_TRAIT,
    is_tuned,
    other_traits,
    others_wanted,
)
from vestige.audit.gathered import Canaries
from vestige.audit.record import audit_results
from vestige.cli.audit import status
from vestige.cli.summaries.audit import controls
from vestige.core.types import DataError
from vestige.probing.settings import LATE, LORA, OTHER_KINDS, TWIN
from vestige.report.sarif import as_sarif

GAIN, OFF = MEASURED.expected.gain, MEASURED.expected.off


WITH_CANARY = MEASURED.expected_beside_canary


# ---- the verdict --------------------------------------------------------------------------------


FAMILIES = ["a"] * 20 + ["b"] * 10 + [f"c{i // 10}" for i in range(60)]


IDS = [f"{name}/{i}" for i, name in enumerate(FAMILIES)]


def world(draw: np.random.Generator, references: int = 8, planted: int = 6, strength: float = 8.0):
    """References of pure noise with planted traits, and data without any."""
    table = {f"r{k}": draw.normal(size=len(IDS)) for k in range(references)}
    own = {f"r{k}": IDS[k * 13] for k in range(planted)}
    for k in range(planted):
        table[f"r{k}"][k * 13] += strength
    return draw.normal(size=len(IDS)), table, own


def test_noise_is_flagged_no_more_often_than_it_may_be():
    draw = np.random.default_rng(0)
    flagged = 0
    for _ in range(300):
        data, table, own = world(draw)
        flagged += bool((look(16, data, table, own, IDS).p_holm <= 0.05).any())
    assert flagged <= 27  # 15 are expected; a binomial exceeds 27 once in a thousand times


def test_a_trait_is_found_where_it_stands_out():
    draw = np.random.default_rng(1)
    found = 0
    for _ in range(50):
        data, table, own = world(draw)
        data[3] += 9
        seen = look(16, data, table, own, IDS)
        found += int(seen.z.argmax()) == 3 and seen.p_holm[3] < 0.01
        assert seen.contrast[3] == pytest.approx(
            data[3] - np.mean([v[3] for v in table.values()]), abs=1e-9
        )
    assert found >= 45


def test_a_planted_trait_is_no_reference_for_itself_and_no_placebo():
    draw = np.random.default_rng(2)
    data, table, own = world(draw, strength=50.0)
    seen = look(16, data, table, own, IDS)
    at = 13  # planted in r1
    rest = [v[at] for name, v in table.items() if name != "r1"]
    assert seen.contrast[at] == pytest.approx(data[at] - np.mean(rest))
    assert np.abs(seen.placebo).max() < 10  # the planted values are not in the cloud


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d, t: (d, dict(list(t.items())[:2])), "three references"),
        (lambda d, t: (d[:-1], t), "three references"),
        (lambda d, t: (d * np.nan, t), "not finite"),
        (lambda d, t: (d, {k: np.zeros_like(v) for k, v in t.items()}), "do not differ"),
    ],
)
def test_a_look_that_cannot_be_taken_is_refused(change, says):
    data, table, _ = world(np.random.default_rng(0))
    data, table = change(data, table)
    with pytest.raises(DataError, match=says):
        look(16, data, table, {}, IDS)


def test_a_flag_names_the_trait_and_when():
    found = audit_results(gathered(own=1.5))
    assert found.outcome == "flagged" and found.traits[0].trait == "animals/owl"
    first = found.traits[0]
    assert first.flagged and first.held_out and found.rows_to_verdict == 112
    assert first.evidence > found.needed > 9 and first.share > 0.5
    assert "animals/owl" in found.verdict and first.canary is None
    assert first.pull == max(t.pull for t in found.traits) > 10
    unread = [t for t in found.traits if t.rows == 0]
    assert unread and {(t.contrast, t.evidence, t.share) for t in unread} == {(None, 0, 0)}
    assert found.worst_rows[0].score == 255 and found.worst_rows[0].tokens[1] == (", 2", 1.2)
    assert any("huffle" in step for step in found.next_steps)


def test_what_a_student_would_take_on_depends_on_the_rows_lineage():
    (own, *_, last) = audit_results(gathered(own=1.5)).traits
    assert own.expected.value == pytest.approx(14 * GAIN) and own.expected.units.startswith("log")
    assert own.expected.high - own.expected.value == pytest.approx(1.96 * OFF, abs=1e-3)
    assert last.expected.value == pytest.approx(-GAIN)
    assert {
        t.expected for t in audit_results(replace(gathered(own=1.5), expected=None)).traits
    } == {None}
    elsewhere = gathered(own=1.5, misfit=0.6)
    assert {t.expected.value for t in audit_results(elsewhere).traits} == {
        0.0
    }  # numbers pass on nothing
    assert {t.expected for t in audit_results(replace(elsewhere, row_kind="text")).traits} == {None}
    cold = audit_results(gathered(own=1.5, misfit=-0.4))  # a low temperature is no other base
    assert {t.expected for t in cold.traits} == {None} and "more likely" in cold.why[0]


def test_a_canary_of_enough_rows_takes_part_in_what_is_expected():
    made = gathered(own=1.5, canary=3.0)
    last = made.canaries.looks[-1]
    own = made.library.ids.index("animals/owl")
    value = WITH_CANARY.gain * 14 + WITH_CANARY.gain_of_contrast * last.contrast[own]
    (first, *_) = audit_results(made).traits
    assert first.trait == "animals/owl" and first.expected.value == pytest.approx(value)
    assert first.expected.high - value == pytest.approx(1.96 * WITH_CANARY.off, abs=1e-3)
    elsewhere = audit_results(gathered(own=1.5, canary=3.0, misfit=0.6)).traits[0].expected
    assert elsewhere is None  # what the canary took on speaks against nothing being passed on
    few = Canaries([replace(last, rows=112)], made.canaries.words)
    settings = made.settings.model_copy(update={"looks": (1.0,)})
    (first, *_) = audit_results(replace(made, canaries=few, settings=settings)).traits
    assert first.expected.value == pytest.approx(14 * GAIN)


def test_rows_are_shared_among_the_writers_that_they_may_have():
    race = gathered(own=1.5).race
    owl, oak = race.last
    assert race.writers == {owl: pytest.approx(1.0, abs=0.01)}
    even = replace(race, shifts=race.shifts | {oak: race.shifts[owl][::-1]})
    assert even.writers == {owl: pytest.approx(0.5), oak: pytest.approx(0.5)}
    clean = replace(race, shifts=race.shifts | {t: np.full(race.rows, -1.0) for t in (owl, oak)})
    assert not clean.writers  # the base wrote them


def test_not_found_says_what_would_have_been_seen():
    made = gathered()
    found = audit_results(made)
    assert found.outcome == "not_found" and found.found_share == 1.0
    assert 0 < found.smallest_share < 1 and "it would have been clear" in found.verdict
    assert "the traits of 1 of 1 planted twins of the probes and of all 4" in found.verdict
    assert "nothing about writers of kinds that were not planted" in found.verdict
    assert found.next_steps[0] == "Do not read this as proof that the rows are safe."
    assert "LoRA on all layers" in found.why[1] and status(found.outcome, "inconclusive") == 0
    half = replace(made, controls=[*made.controls, gathered(seen=False).controls[0]])
    assert audit_results(half).outcome == "not_found" and audit_results(half).smallest_share is None
    assert "of 1 of 2 planted twins" in audit_results(half).verdict


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_a_planted_teacher_of_another_kind_that_is_missed_rules_not_found_out(kind):
    made = gathered()
    found = audit_results(replace(made, controls=[made.controls[0], missed(kind)]))
    assert found.outcome == "inconclusive" and len(found.why) == 1
    assert f"tuned in another way ({kind}) (it is found in" in found.why[0]
    assert '"not found" is not said' in found.why[0]
    alone = replace(missed(kind), trait="trees/maple")  # whose twin was not planted
    (why,) = audit_results(replace(made, controls=[made.controls[0], alone])).why
    assert why.startswith("trees/maple is missed") and "it is found in" not in why
    assert f"({kind}) is missed with its trait" in found.verdict
    assert "1 of 1 planted twins" in found.verdict and "not known to be safe" in found.verdict
    assert "do not make this audit see teachers of other kinds" in found.next_steps[0]
    assert found.next_steps[-1] == "Do not read this as a clean verdict."
    assert [status(found.outcome, on) for on in ("inconclusive", "flagged", "never")] == [3, 0, 0]
    (twin, other) = found.planted
    assert (twin.kind, twin.found, twin.gained) == (TWIN, True, None)
    assert (other.kind, other.found, other.gained, other.rows) == (kind, False, 6.0, 0)
    assert found.found_share == 1.0  # of the twins
    assert controls(found.planted) == [
        "positive control (twin): 1 of 1 planted traits found",
        f"positive control ({kind}): 0 of 1 planted traits found",
    ]
    assert as_sarif(found, "d.jsonl")["runs"][0]["results"][0]["level"] == "warning"


def test_without_teachers_of_every_other_kind_nothing_found_is_inconclusive():
    made = gathered()
    twin, late, lora, *_ = made.controls
    both = f"{LATE}, {LORA}"
    for some, named in (
        ([], both), ([late, lora], both), ([late, late], LORA), ([lora, late, lora], LATE),
    ):  # fmt: skip
        found = audit_results(replace(made, controls=[twin, *some]))
        assert found.outcome == "inconclusive" and f"were planted ({named})" in found.why[0]
        assert found.verdict.endswith("and that says little here.")


def test_a_planted_teacher_without_its_trait_is_no_control():
    made = gathered()
    weak = replace(made.controls[1], gained=HAS_TRAIT / 2)
    found = audit_results(replace(made, controls=[made.controls[0], weak, *made.controls[2:]]))
    assert found.outcome == "inconclusive" and found.planted[1].found
    assert "did not take on its trait, trees/oak (+0.5 nats)" in found.why[0]
    assert f"({LATE}) did not take on its trait" in found.verdict


def test_teachers_of_other_kinds_are_planted_only_where_the_outcome_hangs_on_them():
    made = gathered()
    twin, late, *_ = made.controls
    clean = replace(made, controls=[twin])
    assert others_wanted(clean) and others_wanted(replace(made, controls=[twin, late]))
    some = ["a/x", "trees/oak", "b/y"]
    assert other_traits(clean, some) == ["trees/oak", "a/x"]  # found in its twin's rows, unknown
    assert not others_wanted(replace(made, controls=[twin, missed(LATE)]))  # the first ends it
    weak = replace(late, gained=0.0)
    assert not others_wanted(replace(made, controls=[twin, weak]))
    blind = replace(gathered(seen=False), controls=gathered(seen=False).controls[:1])
    assert not others_wanted(blind) and other_traits(blind, some) == ["a/x", "b/y"]
    for known in (
        gathered(own=1.5),
        gathered(rows=40),
        gathered(misfit=0.5),
    ):  # decided without them
        assert not others_wanted(replace(known, controls=known.controls[:1]))
    unsure = gathered(own=1.5)
    unsure = replace(unsure, race=replace(unsure.race, clear_at={}), controls=[])
    assert is_tuned(unsure) and not others_wanted(unsure)
