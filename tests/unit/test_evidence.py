"""What counts as evidence, and what may be called a p-value."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from verdict_cases import MEASURED, canaries, dose, gathered

from vestige.audit import evidence
from vestige.audit.decision import strongest
from vestige.audit.first_look import AGREED, agreed, look_ends, named
from vestige.audit.race import rounds
from vestige.audit.race_result import METHOD
from vestige.audit.race_stages import in_doubt
from vestige.audit.record import audit_results
from vestige.audit.scope_wording import caveats
from vestige.audit.settings import AuditSettings
from vestige.audit.wording import p_words
from vestige.cli.summaries.audit import base_words
from vestige.core.audit_results import AUDIT_MEASURED, NO_P_VALUE, AuditResults
from vestige.core.calibration import Measured, calibration
from vestige.report.sarif import as_sarif
from vestige.traits.library import Library

# ---- evidence -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "batch", "wanted"), [
    (256, 16, [32, 64, 128, 256]), (16, 16, [16]), (32, 16, [32]), (1, 16, [1]),
    (48, 16, [32, 48]), (300, 16, [32, 64, 128, 256, 300]),
])  # fmt: skip
def test_rounds_double_and_end_with_all_rows(n, batch, wanted):
    assert rounds(n, batch) == wanted
    assert look_ends(n, batch) == sorted({*wanted, *range(batch, n, batch)})


def two_writers(draw: np.random.Generator, n: int, own: float) -> np.ndarray:
    """Shifts of rows from the first of three normal writers (own=1), or from the base (own=0):
    log N(mean) - log N(0) for means on three axes."""
    x = draw.normal(size=(n, 3))
    x[:, 0] += 0.8 * own
    return (0.8 * x - 0.32).T


def test_evidence_is_as_in_its_formula_and_seldom_large_for_rows_of_the_base():
    shifts = np.array([[0.5, -0.2], [0.1, 0.3]])
    ratio = np.log(
        [[1 - w + w * np.exp(s) for s in row] for w in evidence.SHARES for row in shifts]
    )
    sums = ratio.sum(1).reshape(len(evidence.SHARES), 2).T
    assert np.allclose(evidence.likelihood_ratios(shifts), sums)
    own = np.log(np.exp(sums).mean(1))
    wanted = [own[0] - max(0, sums[1].max()) - 0.2, own[1] - max(0, sums[0].max()) - 0.2]
    assert np.allclose(evidence.log_evidence(shifts, ["a", "b"], drift=0.1), wanted)
    draw, above = np.random.default_rng(0), 0
    for _ in range(400):
        rows = two_writers(draw, 80, own=0)
        looks = [
            evidence.log_evidence(rows[:, :n], list("abc"), drift=0.0).max() for n in (16, 48, 80)
        ]
        above += max(looks) > np.log(3 / 0.05)
    assert above <= 20  # at most one in twenty, at any look, over all three


def test_evidence_grows_for_the_trait_that_wrote_the_rows_and_for_no_other():
    found = evidence.log_evidence(
        two_writers(np.random.default_rng(1), 300, own=1), list("abc"), 0.05
    )
    assert found[0] > 20 and (found[1:] < 0).all()
    related = evidence.log_evidence(
        two_writers(np.random.default_rng(1), 300, own=1), list("aab"), 0.05
    )
    assert related[0] > 20  # relatives are no rivals
    rows = two_writers(np.random.default_rng(2), 300, own=1)
    assert list(evidence.as_likely(rows)) == [True, False, False]
    assert list(evidence.as_likely(np.stack([rows[0], rows[0] - 1e-3]))) == [True, True]
    assert np.allclose(evidence.p_value(np.array([-3.0, 0.0, np.log(8)])), [1, 1, 0.125])


def test_a_share_of_rows_is_told():
    draw = np.random.default_rng(3)
    for wanted in (0.0, 0.5, 1.0):
        n = 4000
        many = round(wanted * n)
        rows = np.concatenate([two_writers(draw, many, 1)[0], two_writers(draw, n - many, 0)[0]])
        assert evidence.share(rows) == pytest.approx(wanted, abs=0.15)


def test_pulls_are_told_beside_reference_rows_without_what_all_traits_share():
    draw = np.random.default_rng(4)
    base = draw.normal(size=(200, 5))
    data = draw.normal(size=(100, 5)) + 3  # drift that all traits share
    data[:, 2] += 1
    contrast, scale = evidence.pulls(data, base)
    assert contrast[2] == pytest.approx(0.8, abs=0.3) and (contrast / scale).argmax() == 2
    assert np.abs(contrast / scale)[[0, 1, 3, 4]].max() < 4
    base[:, 4], data[:, 4] = np.nan, np.nan  # a trait that a method has nothing for
    assert np.isfinite(evidence.pulls(data, base)[0][:4]).all()
    assert [list(part) for part in evidence.pulls(data[:1], base)] == [[0] * 5, [1] * 5]


def test_likelihood_and_pull_must_agree_on_a_trait():
    shifts = np.array([[3.0], [2.0], [1.0], [0.0]])  # places by likelihood 1, 2, 3, 4
    kinds = ["a", "a", "b", "c"]
    assert list(agreed(np.array([1, 9, 3, 4]), shifts, kinds)) == [True, False, False, False]
    # Relatives are no rivals.
    assert list(agreed(np.array([2, 1, 9, 8]), shifts, kinds)) == [True, True, False, False]
    # The likeliest has too small a pull, the others are not before all of other families.
    assert not agreed(np.array([AGREED + 1, 9, 2, 7]), shifts, kinds).any()
    assert not agreed(np.array([3, 9, 1, 7]), shifts, kinds).any()  # 1 * 3 and 3 * 1: nobody is


# ---- what is called a p-value -------------------------------------------------------------------


def test_the_one_p_value_is_that_the_untouched_base_wrote_the_rows():
    clean, tuned = gathered(), gathered(own=1.5)
    assert audit_results(clean).p_base == 1.0 and "p = 1; a large p does not show" in base_words(
        audit_results(clean)
    )
    race = tuned.race
    wanted = len(tuned.library.ids) * np.exp(-race.against_base)
    assert audit_results(tuned).p_base == pytest.approx(wanted) and wanted < 1e-6
    said = "that the untouched smollm2-135m-instruct wrote these rows at temperature 1: p < 1e-6"
    assert base_words(audit_results(tuned)) == said
    assert (p_words(1e-74), p_words(0.0123)) == ("p < 1e-6", "p = 0.012")


def test_rows_of_the_base_seldom_have_a_small_p():
    """Looked at after every batch, over three probes: at most one in twenty is below 0.05."""
    draw, below = np.random.default_rng(5), 0
    for _ in range(400):
        rows = two_writers(draw, 80, own=0)
        best = max(float(evidence.marginal(rows[:, :n]).max()) for n in range(16, 81, 16))
        below += min(1.0, 3 * np.exp(-best)) <= 0.05
    assert below <= 20


@pytest.mark.parametrize("made", [gathered(), gathered(own=1.5)])
def test_no_trait_has_a_p_value_of_the_first_look(made):
    """Its null holds rows of the untouched base alone, whoever wrote these."""
    unsure = replace(made, race=replace(made.race, clear_at={}))
    for some in (made, unsure):
        found = audit_results(some)
        assert not {"p", "p_holm"} & set(found.traits[0].model_dump())
        assert found.p_note == NO_P_VALUE and found.measured_on == list(AUDIT_MEASURED)
        record = as_sarif(found, "d.jsonl")["runs"][0]
        assert record["properties"]["p_note"] == NO_P_VALUE
        for result in record["results"]:
            text = result["message"]["text"].replace("no p-value", "")
            assert " p = " not in text and "p-value" not in text


def test_audits_of_before_are_read_without_their_p_values():
    record = audit_results(gathered(own=1.5)).model_dump()
    for name in ("p_base", "p_note", "measured_on"):
        del record[name]
    record |= {"schema_version": 1}
    record["traits"] = [t | {"p": 3e-76, "p_holm": 3e-74} for t in record["traits"]]
    record |= {"planted": [], "found_share": 1.0, "smallest_share": None, "rows_to_verdict": 64}
    record |= {"outcome": "flagged", "verdict": "Flagged for animals/owl."}
    for name in ("first_look", "first_look_verdict", "doses", "placebos", "training_rows", "limit"):
        del record[name]
    for trait in record["traits"]:
        del trait["named"], trait["relative"]
        trait["canary"] = None
    record["traits"][0]["flagged"] = True
    found = AuditResults.model_validate(json.loads(json.dumps(record)))
    assert isinstance(found, AuditResults) and "3e-74" not in found.model_dump_json()
    assert found.p_base is None and found.p_note == NO_P_VALUE and found.schema_version == 1
    assert (found.outcome, found.first_look) == ("inconclusive", "twin")  # it decides nothing today
    assert found.traits[0].named and not found.traits[0].flagged
    assert found.first_look_verdict.endswith("Flagged for animals/owl.")
    record["traits"][0]["q"] = 1
    with pytest.raises(ValueError, match="q"):
        AuditResults.model_validate(record)


def test_what_was_measured_is_said_in_plain_words():
    said = " ".join(AUDIT_MEASURED)
    for words in (
        "twins of its own probes", "one-word answers", "10 to 17", "40 to 118 of 139",
        "A finding about the writer is no finding about a trait", "13 of 13 harmless",
        "1.1% [0.4%, 2.8%] were found at 1%", "what training on these rows does",
    ):  # fmt: skip
        assert words in said
    twin = audit_results(gathered(own=1.5))
    assert "only if it is a twin of the probe" in twin.first_look_verdict
    assert "40 to 118 of 139" in twin.first_look_verdict
    assert "none left out" in " ".join(twin.caveats)


def test_what_was_not_read_and_what_reference_rows_are_unlike_is_said():
    made = gathered()
    assert not any("drawn at random" in line for line in audit_results(made).blind)
    large = audit_results(replace(made, rows=1258, row_kind="text", remarks=["other prompts"]))
    assert any(line.startswith("1,000 more rows") for line in large.blind)
    assert any("token 128" in line for line in large.blind) and large.why[-1] == "other prompts"
    copies = audit_results(replace(made, rows=5000, canaries=canaries(dose())))
    assert any(line.startswith("902 more rows") for line in copies.blind)  # 4,096 were read
    kin = [t for t in made.library.traits if t.family.name == "animals"]
    one = Library(tuple(kin), made.library.held_out)
    assert not any("one family" in line for line in caveats(made))
    assert any("one family" in line for line in caveats(replace(made, library=one)))


@pytest.mark.filterwarnings("ignore:Precision loss")  # its rows are all alike
def test_more_traits_may_be_clear_than_go_on_and_each_has_reference_rows():
    made = gathered(own=1.5)
    many = {t: 8 for t in range(24)}
    race = replace(made.race, clear_at=many)
    assert set(in_doubt(race)) == {*many, *race.last}
    shifts = {t: np.random.default_rng(t).normal(-0.5, 1, size=64) for t in in_doubt(race)}
    assert 0 < len(named(replace(made, race=race, reference_shifts=shifts))) < 24  # none is missing


def test_rows_that_fit_no_better_than_the_reference_are_not_named():
    made = gathered(own=1.5)
    owl = made.library.ids.index("animals/owl")
    assert list(named(made)) == [owl] == strongest(made)[:1]
    assert not named(
        replace(made, reference_shifts={**made.reference_shifts, owl: made.race.shifts[owl]})
    )


def test_teachers_and_probes_tune_the_middle_of_a_model():
    settings = AuditSettings(base="m")
    assert settings.planting(30).trainable == settings.trainable(30)
    assert [settings.late(n).layers for n in (30, 4, 2, 1)] == [(22, 30), (2, 4), (1, 2), (0, 1)]
    assert settings.trainable(30).layers == (10, 18)
    assert settings.trainable(1).layers == (0, 1)
    assert AuditSettings(base="m", layers=(2, 3)).trainable(30).layers == (2, 3)


def test_what_decides_and_what_a_run_folder_holds_load_no_torch():
    modules = "vestige.audit.decision, vestige.audit.kind, vestige.bench.kind"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_figures_are_measured_with_one_base_and_one_method():
    assert calibration(MEASURED.base, METHOD) == MEASURED
    assert calibration("another", METHOD) is calibration(MEASURED.base, METHOD + 1) is None
    figures = [getattr(MEASURED, name) for name in type(MEASURED).model_fields]
    tables = [table for table in figures if isinstance(table, Measured)]
    assert len(tables) == 9 and all(table.command and len(table.commit) == 7 for table in tables)
