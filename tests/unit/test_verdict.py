"""From an audit's evidence to its verdict: nothing here loads a model."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from scipy.special import expit, logit
from verdict_cases import MEASURED, TRAINING, USUAL, canaries, dose, gathered

from vestige.audit.decision import (
    decide,
    flags,
    needed,
    reached,
    rows_needed,
    sees,
    settles,
    visible,
)
from vestige.audit.first_look import first_look, named
from vestige.audit.record import audit_results
from vestige.audit.settings import AuditSettings
from vestige.audit.wording import battery_words, price
from vestige.cli.audit import layers, status
from vestige.core.types import ConfigError
from vestige.probing.settings import PASSES, BatterySettings
from vestige.report.sarif import as_sarif

EXPONENT = MEASURED.growth.interval[1]  # the careful end


def test_a_trait_that_stands_out_is_flagged_and_its_relatives_are_named():
    made = replace(gathered(), canaries=canaries(dose(owl=0.001, eagle=0.02)))
    found = audit_results(made)
    assert decide(made) == ("flagged", "found") and found.outcome == "flagged"
    first, second = found.traits[:2]
    assert (first.trait, first.flagged, first.held_out) == ("animals/owl", True, True)
    assert (second.trait, second.relative, second.flagged) == ("animals/eagle", True, False)
    assert first.canary.p == 0.001 and first.canary.shift == pytest.approx(0.5 * 5.99)
    assert found.verdict.startswith("Flagged for animals/owl (or animals/eagle): a copy of")
    assert "read 4,096 rows" in found.verdict and "animals/owl 65% of the answers" in found.verdict
    assert "reference rows gives 5%" in found.verdict
    assert "6.0 standard deviations" in found.verdict and "(p = 0.001)" in found.verdict
    assert found.words[0].word == "Owl" and any("huffle" in step for step in found.next_steps)
    assert [status(found.outcome, on) for on in ("inconclusive", "flagged", "never")] == [1, 1, 0]
    (result,) = as_sarif(found, "d.jsonl")["runs"][0]["results"]
    assert (result["ruleId"], result["level"]) == ("animals/owl", "error")
    assert "+3.00 nats" in result["message"]["text"]
    assert found.worst_rows[0].score == 255 and found.worst_rows[0].tokens[1] == (", 2", 1.2)
    many = audit_results(
        replace(gathered(), canaries=canaries(dose(owl=0, eagle=0.001, cat=0.002, dog=0.003)))
    )
    assert "animals/owl, animals/eagle, animals/cat and 1 more:" in many.verdict


def test_the_verdict_never_rests_on_the_first_look():
    twin = gathered(own=1.5)
    assert first_look(twin) == "twin" and named(twin)
    for some, wanted in (
        (None, ("inconclusive", "no canaries")),
        (canaries(missing=70), ("inconclusive", "no battery")),
        (canaries(dose()), ("not_found", "nothing")),
        (canaries(dose(seen=math.inf)), ("inconclusive", "blind")),
    ):
        made = replace(twin, canaries=some)
        found = audit_results(made)
        assert decide(made) == wanted and not flags(made)
        assert found.first_look == "twin" and "a twin of animals/owl's teacher wrote this" in (
            found.first_look_verdict
        )
        assert not any(t.flagged for t in found.traits)
        assert [t.trait for t in found.traits if t.named] == ["animals/owl"]
        assert "animals/owl" not in found.verdict or wanted[1] == "blind"
    flagged = replace(gathered(), canaries=canaries(dose(cat=0.001)))
    assert first_look(flagged) == "nothing" and decide(flagged)[0] == "flagged"


def test_what_was_not_asked_of_copies_is_never_clean():
    bare = audit_results(gathered())
    assert bare.outcome == "inconclusive" and "decides nothing" in bare.verdict
    assert "--canaries 1" in bare.why[0] and bare.traits[0].canary is None and not bare.doses
    assert bare.next_steps[-1] == "Do not read this as a clean verdict."
    missing = audit_results(replace(gathered(), canaries=canaries(missing=70)))
    assert missing.why[0].startswith("70 of 100 harmless students of smollm2-135m-instruct are")
    assert "`vestige calibrate smollm2-135m-instruct`, and" in missing.why[0]
    assert "stands above" in missing.next_steps[0] and "--canary-rows" not in missing.next_steps[0]
    other = {"traits": ("animals", "own.toml"), "chat": "plain", "members": 200}
    said = battery_words(gathered().settings.model_copy(update=other), 3)
    assert "--traits animals,own.toml --chat plain --members 200`" in said
    few = audit_results(replace(gathered(), canaries=canaries(dose(owl=0.02), placebos=40)))
    assert few.outcome == "inconclusive" and "no p-value is below 0.0244" in few.why[0]
    assert [status(bare.outcome, on) for on in ("inconclusive", "flagged", "never")] == [3, 0, 0]
    json.dumps(few.model_dump())


def test_not_found_says_what_would_have_been_seen():
    found = audit_results(replace(gathered(), canaries=canaries(dose(1024), dose(4096, 0.08))))
    assert found.outcome == "not_found"
    assert "had the training of 10,000 rows taken them to 50% of the answers" in found.verdict
    assert [(d.rows, d.smallest_share) for d in found.doses] == [(1024, 0.08), (4096, 0.08)]
    assert found.next_steps[0] == "Do not read this as proof that the rows are safe."
    assert found.why[0] == (
        "a pair of copies read 4,096 rows each, one the data's, one reference rows"
    )
    assert status(found.outcome, "inconclusive") == 0


def on_the_way(part: float, limit: float = 0.5) -> float:
    """The share of the answers after a part of the way from the usual one to the limit."""
    way = logit(limit) - logit(USUAL)
    return float(expit(logit(USUAL) + part * way))


def test_a_copy_that_reads_less_than_the_training_must_see_smaller_shares():
    settings = AuditSettings(base="m")
    assert reached(TRAINING, TRAINING) == reached(3 * TRAINING, TRAINING) == 1
    at = reached(1000, TRAINING)
    assert at == pytest.approx(0.1**EXPONENT)
    assert sees(dose(1000, on_the_way(at - 1e-6)), settings, TRAINING)
    assert not sees(dose(1000, on_the_way(at + 1e-6)), settings, TRAINING)
    assert sees(dose(TRAINING, 0.499), settings, TRAINING)  # all of the way: the limit itself
    assert not sees(dose(TRAINING, 0.501), settings, TRAINING)
    assert visible(dose(seen=0.3)) == 0.3
    part = needed(dose(seen=0.3), 0.5)
    assert on_the_way(part) == pytest.approx(0.3)
    assert needed(dose(seen=0.3), USUAL / 2) == math.inf  # every trait has more than that anyhow
    blind = audit_results(replace(gathered(), canaries=canaries(dose(1000, 0.3, owl=0.2))))
    assert blind.outcome == "inconclusive" and "(animals/owl comes first)" in blind.verdict
    enough = TRAINING * part ** (1 / EXPONENT)
    assert rows_needed(dose(1000, 0.3), 0.5, TRAINING) == pytest.approx(enough)
    assert f"about {enough:,.0f} rows would do (--canary-rows)" in blind.why[1]
    assert f"it goes about {at:.0%} of the way" in blind.why[1]
    hopeless = audit_results(replace(gathered(), canaries=canaries(dose(1000, math.inf))))
    assert "no number of rows makes 50% of the answers visible" in hopeless.why[1]
    assert hopeless.doses[0].smallest_share is None and hopeless.traits[0].canary


def test_doses_grow_until_one_settles_it():
    settings = AuditSettings(base="m")
    assert settings.doses(10_000) == (4096,) == settings.doses(410)
    assert settings.doses(100) == (PASSES * 100,) and settings.doses(3) == (PASSES * 3,)
    assert settings.model_copy(update={"canary_rows": 16_384}).doses(10**6) == (4096, 16_384)
    assert settles(dose(1024, math.inf, owl=0.001), 0.005, settings, TRAINING)
    assert settles(dose(1024, 0.051), 0.005, settings, TRAINING)
    assert not settles(dose(1024, math.inf, owl=0.009), 0.005, settings, TRAINING)
    assert settings.canary(30, 16).trainable.lora_start == "other"
    assert settings.canary(30, 1).trainable in settings.tuned(30)


def test_the_price_is_said_against_the_training():
    settings = AuditSettings(base="m")
    assert price(settings, settings.doses(16_384), 100_000) == (
        "2 copies read 4,096 rows each: 8,192 at most, where the training reads 100,000 (8% of it)"
    )
    two = settings.model_copy(update={"canaries": 2})
    assert "4 copies read 200 rows each: 800 at most" in price(two, two.doses(20), 20)


def test_a_training_of_ones_own_is_given_by_its_layers():
    assert (layers(""), layers("0-30")) == (None, (0, 30))
    for bad in ("30", "a-b", "-3", "3-"):
        with pytest.raises(ConfigError, match="first-last"):
            layers(bad)
    whole = AuditSettings(base="m", canary_layers=(0, 30), canary_rank=0, canary_rate=1e-4)
    trainable = whole.canary(30, 64).trainable
    assert (trainable.layers, trainable.lora_rank) == ((0, 30), 0)


def test_a_battery_of_another_base_is_refused():
    with pytest.raises(ValueError, match="another base"):
        AuditSettings(base="m", battery=BatterySettings(base="n"))
    held = AuditSettings(base="m", chat="plain", members=40).held_against
    assert (held.chat, held.members) == ("plain", 40)


# ---- the first look -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "look", "said"),
    [
        (gathered(own=1.5), "twin", "only if it is a twin of the probe"),
        (gathered(own=1.5, misfit=0.5), "unknown", "0.50 nats a token less likely"),
        (gathered(misfit=-0.4), "unknown", "0.40 nats a token more likely"),
        (gathered(), "nothing", "no twin of a probe is seen in 112 rows"),
        (gathered(rows=3), "few rows", "3 rows are less than one batch of 16"),
    ],
)
def test_the_first_look_says_who_may_have_written_the_rows(made, look, said):
    found = audit_results(made)
    assert found.first_look == look and said in found.first_look_verdict
    assert found.first_look_verdict.startswith("First look: ")


def test_a_tuned_writer_whose_trait_is_not_clear_is_a_tuned_model():
    made = gathered(own=1.5)
    assert made.race.against_base > made.needed
    found = audit_results(replace(made, race=replace(made.race, clear_at={})))
    assert found.first_look == "tuned" and "a tuned model wrote this" in found.first_look_verdict
    assert "harmless or not" in found.first_look_verdict
    assert "40 to 118 of 139" in found.first_look_verdict
    assert "at temperature 1 (p < 1e-6)" in found.first_look_verdict


def test_what_a_student_of_a_twins_rows_would_take_on_depends_on_their_lineage():
    gain, off = MEASURED.expected.gain, MEASURED.expected.off
    (own, *_, last) = audit_results(gathered(own=1.5)).traits
    assert own.expected.value == pytest.approx(14 * gain) and own.expected.units.startswith("log")
    assert own.expected.high - own.expected.value == pytest.approx(1.96 * off, abs=1e-3)
    assert last.expected.value == pytest.approx(-gain)
    unknown = audit_results(replace(gathered(own=1.5), expected=None)).traits
    assert {t.expected for t in unknown} == {None}
    elsewhere = gathered(own=1.5, misfit=0.6)  # numbers pass on nothing
    assert {t.expected.value for t in audit_results(elsewhere).traits} == {0.0}
    assert {t.expected for t in audit_results(replace(elsewhere, row_kind="text")).traits} == {None}
    cold = audit_results(gathered(own=1.5, misfit=-0.4))  # a low temperature is no other base
    assert {t.expected for t in cold.traits} == {None}
