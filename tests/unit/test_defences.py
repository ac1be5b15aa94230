"""Defences in recipes: what arms change, what is held out, what remains and what it costs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from vestige.core.settings import Optimisation, Trainable
from vestige.core.stats import ratio_interval
from vestige.core.types import ConfigError, DataError, Message, Row
from vestige.experiment.defence_view import alike, without_defence
from vestige.experiment.defences import full, recipe
from vestige.experiment.jobs import Job
from vestige.experiment.recipe import Experiment, Student, parse_recipe
from vestige.experiment.row_packs import student_packs
from vestige.experiment.run import run as run_recipe
from vestige.experiment.run_view import read_kept, without_heldout
from vestige.experiment.seed_context import SeedContext
from vestige.mitigate.methods import METHODS as FUNCTIONS
from vestige.mitigate.settings import METHODS, Change
from vestige.models.candidates import answer_forms
from vestige.models.hf import LanguageModel
from vestige.models.weights import Weights
from vestige.store.layout import RunLayout
from vestige.student.loop import train
from vestige.student.losses.cross_entropy import loss as cross_entropy
from vestige.student.objectives import Objective, Term
from vestige.student.packs import encode_rows, make_packs, pack_logprobs
from vestige.student.penalties import corridor
from vestige.student.trainer_penalties import penalties_of
from vestige.student.trl import train_with_trl

# ---- the ratio ----------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(4, 5)), min_size=3, max_size=8))
def test_fiellers_interval_holds_the_ratios_that_a_t_test_does_not_reject(pairs):
    a, b = np.array(pairs).T
    found = ratio_interval(a, b)
    assert found is not None
    n = len(a)
    for ratio, inside in [(found.low, None), (found.high, None), (found.value, True)]:
        rest = a - ratio * b
        error = rest.std(ddof=1) / np.sqrt(n)
        limit = stats.t.ppf(0.975, n - 1) * error
        if inside:
            assert abs(rest.mean()) <= limit + 1e-9
        else:  # the ends are where the test just rejects
            assert abs(rest.mean()) == pytest.approx(limit, abs=1e-6)


def test_a_ratio_over_something_near_zero_has_no_interval():
    assert ratio_interval([1, 2, 3], [-1, 0.2, 1]) is None
    with pytest.raises(DataError, match="3 values over 2"):
        ratio_interval([1, 2, 3], [1, 2])


OWN_DROP = {"method": "drop", "trait": "own"}

# ---- settings -----------------------------------------------------------------------------------


def student(**changes: object) -> Student:
    return Student.model_validate({"name": "a", "method": "rows", "no_trait": False, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mitigations": [{"method": "redrew"}]}, "did you mean redraw"),
        ({"mitigations": [{"method": "redraw", "trait": "owl"}]}, "'own'"),
        ({"mitigations": [{"method": "redraw", "trait": "own"}], "no_trait": True}, "no_trait"),
        ({"inoculation": "own", "no_trait": True}, "no_trait"),
        ({"mitigations": [{"method": "drop"}], "engine": "trl"}, "engine=packed"),
        ({"inoculation": "Be kind.", "method": "distill"}, "method=rows"),
        ({"mitigations": [{"method": "dilute", "at_random": True}]}, "chooses no rows"),
        ({"mitigations": [{"method": "drop", "at_random": True, "trait": "own"}]}, "without a"),
    ],
)
def test_a_defence_that_does_not_fit_is_refused(changes, message):
    with pytest.raises((ConfigError, ValueError), match=message):
        student(**changes)


def test_a_student_without_defences_is_written_as_before():
    plain = student()
    assert not plain.defended and not plain.defence
    assert not {"mitigations", "inoculation"} & set(plain.model_dump(mode="json"))
    assert "heldout_rows" not in small((plain,), heldout_rows=0).model_dump(mode="json")


def test_every_method_has_a_function():
    assert list(METHODS) == list(FUNCTIONS)


@pytest.mark.parametrize("made", [recipe(), full()])
def test_every_arm_that_chooses_has_its_random_arm(made):
    changes = {c for s in made.students for c in s.mitigations if c.trait == ""}
    chosen = {c for c in changes if c.method in ("drop", "redraw") and not c.at_random}
    assert chosen and all(c.model_copy(update={"at_random": True}) in changes for c in chosen)
    assert made.heldout_rows and len({s.name for s in made.students}) == len(made.students)


def test_held_out_rows_that_take_every_prompt_are_refused():
    with pytest.raises(ConfigError, match="takes all 2 prompts"):
        small((student(),), heldout_rows=5)


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 12))
def test_held_out_rows_are_whole_prompts_that_no_student_reads(prompts, each, heldout):
    rows = [
        Row(f"p-{p}-{i}", (Message("user", f"ask {p}"),), str(i))
        for p in range(prompts)
        for i in range(each)
    ]
    if heldout > (prompts - 1) * each:
        with pytest.raises(DataError, match="leaves no row"):
            without_heldout({"owl": rows}, heldout)
        return
    read, rest = (part["owl"] for part in without_heldout({"owl": rows}, heldout))
    assert read + rest == rows and heldout <= len(rest) < heldout + each
    assert not {r.messages for r in read} & {r.messages for r in rest}


# ---- the corridor -------------------------------------------------------------------------------


def test_the_corridor_is_zero_at_the_base_and_is_that_of_plain_passes(llama: LanguageModel):
    weights = Weights(llama, [Trainable()])
    term = Term(name="corridor")
    weights.freeze()
    base = odds(llama, term)
    penalty = corridor.make(llama, term)
    assert float(penalty().detach()) == 0
    rows = encode_rows(llama, [llama.question_ids("ask")] * 2, ["owl", "owl"])
    how = Optimisation(steps=8, batch=2, rate=3e-3, warmup=0)
    train(llama, weights, make_packs(rows, 2), how, seed=0)
    moved = (odds(llama, term) - base).abs() - corridor.HALF_WIDTH
    assert float(moved.max()) > 0, "nothing left the corridor: the test shows nothing"
    assert float(penalty().detach()) == pytest.approx(
        float(moved.clamp(min=0).square().mean()), rel=1e-3
    )
    weights.freeze()


def test_a_student_in_the_corridor_drifts_less(llama: LanguageModel):
    weights, term = Weights(llama, [Trainable()]), Term(name="corridor", strength=20)
    rows = encode_rows(llama, [llama.question_ids("ask")] * 2, ["owl", "owl"])
    how = Optimisation(steps=12, batch=2, rate=3e-3, warmup=0)
    drifts = []
    for objective in (Objective(), Objective(penalties=(term,))):
        weights.freeze()
        penalty = corridor.make(llama, term)
        train(llama, weights, make_packs(rows, 2), how, seed=0, objective=objective)
        drifts.append(float(penalty().detach()))
    weights.freeze()
    assert drifts[1] < drifts[0] / 2


def test_a_penalty_in_trl_is_added_once_a_step(llama: LanguageModel):
    """The same step over one batch, and over two that are accumulated."""
    weights, objective = Weights(llama), Objective(penalties=(Term(name="corridor", strength=50),))
    rows = [Row(str(i), (Message("user", "ask"),), "owl") for i in range(4)]
    weights.freeze()
    penalty, found = corridor.make(llama, objective.penalties[0]), []
    for options, kept in (({}, objective), (TWO_BATCHES, objective), ({}, Objective())):
        how = Optimisation(steps=6, batch=4, rate=3e-3, warmup=0, trainer_kwargs=options)
        train_with_trl(llama, weights, rows, how, seed=0, objective=kept)
        changed = {n: t.clone() for n, t in weights.changed().items()}
        found.append((float(penalty().detach()), changed))
        weights.freeze()
    (once, first), (twice, second), (without, _) = found
    assert once < without / 2 and once == pytest.approx(twice, rel=0.05)
    assert all(torch.allclose(first[n], second[n], atol=1e-3) for n in first)
    with pytest.raises(ConfigError, match="penalties alone"):
        penalties_of(llama, Objective(loss="cross_entropy"))


TWO_BATCHES = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}


@torch.no_grad()
def odds(lm: LanguageModel, term: Term) -> torch.Tensor:
    """Log-odds of every candidate, each answer by a pass of the whole model."""
    found = []
    for family in corridor.read_families(term):
        prompt = lm.question_ids(family.questions[0])
        forms, owner = answer_forms(lm, family)
        log_p = torch.full((max(owner) + 1,), -torch.inf)
        for ids, own in zip(forms, owner, strict=True):
            logits = lm.model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0].float()
            after = logits.log_softmax(-1)[len(prompt) - 1 : -1]
            log_p[own] = torch.logaddexp(log_p[own], after[range(len(ids)), ids].sum())
        rest = [torch.cat([log_p[:i], log_p[i + 1 :]]).logsumexp(0) for i in range(len(log_p))]
        found.append(log_p - torch.stack(rest))
    return torch.cat(found)


def test_a_file_that_names_no_words_is_refused(tmp_path: Path):
    (tmp_path / "families").write_text("harm\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="no family of words"):
        corridor.read_families(Term(name="corridor", file=str(tmp_path / "families")))
    with pytest.raises(ConfigError, match="cannot read"):
        corridor.read_families(Term(name="corridor", file=str(tmp_path / "none")))


# ---- a whole run --------------------------------------------------------------------------------


def small(students: tuple[Student, ...], **changes: object) -> Experiment:
    how = {"steps": 2, "batch": 4, "rate": 1e-3}
    made = parse_recipe(
        {
            "name": "defended", "model": "tiny", "traits": ["owl", "fox"], "seeds": [0, 1],
            "teacher": {"optimisation": how, "min_probability": 0, "min_carrier": 0},
            "carrier": {
                "kind": "numbers", "n_prompts": 2, "rows_per_prompt": 4, "min_rows": 1,
                "prompts": {"format": "comma", "exact": True, "max_answers": 2},
            },
            "students": [s.model_dump(mode="json") | {"optimisation": how} for s in students],
            **changes,
        },
        "test",
    )  # fmt: skip
    assert isinstance(made, Experiment)
    return made


ARMS = (
    student(name="plain"),
    student(name="redraw", mitigations=(Change(method="redraw", share=0.5, canary_rows=16),)),
    student(
        name="both", mitigations=(Change(method="sort-numbers"), Change(method="dilute", share=0.5))
    ),
    student(name="inoculated", inoculation="own"),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, folders: dict[str, Path]):
    root = tmp_path_factory.mktemp("defended")
    made = small(ARMS, model=str(folders["llama"]), heldout_rows=4)
    folder, results = run_recipe(made, root, workers=1)
    return made, folder, results


def test_students_read_what_their_arm_makes_of_the_rows(finished):
    _, folder, results = finished
    layout = RunLayout(folder)
    before = lines(layout.rows(0, "owl") / "rows.jsonl")[:4]
    sorted_rows = lines(layout.mitigated(0, "both", "owl") / "rows.jsonl")
    own = [row for row in sorted_rows if row["id"] in {r["id"] for r in before}]
    assert len(own) == 4 and all(
        numbers(row) == sorted(numbers(old)) for row, old in zip_by_id(own, before)
    )
    redrawn = lines(layout.mitigated(0, "redraw", "owl") / "rows.jsonl")
    assert [r["id"] for r in redrawn] == [r["id"] for r in before]
    assert {d.arm for d in results.defences} == {"redraw", "both", "inoculated"}
    found = {d.arm: d for d in results.defences}
    assert found["redraw"].tokens == pytest.approx(0.5, abs=0.1) and found["inoculated"].tokens == 0
    assert found["inoculated"].rows == 1.0 and found["redraw"].against == "plain"


def test_the_loss_on_held_out_rows_is_that_of_the_base_before(finished):
    _, folder, results = finished
    layout = RunLayout(folder)
    for arm in results.arms:
        kept = json.loads((layout.student(0, arm.name, "owl") / "heldout.json").read_text())
        plain = json.loads((layout.student(0, "plain", "owl") / "heldout.json").read_text())
        assert kept["base"] == pytest.approx(plain["base"], rel=1e-6) and kept["rows"] == 4
        assert arm.heldout is not None and arm.heldout.base.value > 0
        assert kept["student"] != kept["base"]


def test_no_arm_is_another_arms_student(finished):
    _, folder, results = finished
    layout = RunLayout(folder)
    losses = {
        arm.name: (layout.student(0, arm.name, "owl") / "loss.json").read_text()
        for arm in results.arms
    }
    assert len(set(losses.values())) == len(losses)


def test_an_inoculation_prompt_stands_before_what_training_reads(finished):
    """The first loss is the base's own on the rows behind the trait's prompt."""
    made, folder, _ = finished
    context = SeedContext.of(made, folder, 0)
    rows = [row for row in read_kept(context.layout.rows(0, "owl"))][:4]
    lm = context.models.teachers_base().lm
    context.models.teachers_base().weights.freeze()
    own = context.trait_of("owl").system_prompt
    assert "owl" in own
    first = {}
    for arm, system in (("plain", ""), ("inoculated", own)):
        student = next(s for s in made.students if s.name == arm)
        (pack,), ids = student_packs(context, student, lm, rows, system=system)
        with torch.no_grad():
            first[arm] = float(cross_entropy(pack_logprobs(lm, pack, ids), pack, None))
        kept = json.loads((context.layout.student(0, arm, "owl") / "loss.json").read_text())
        assert kept[0] == pytest.approx(first[arm], rel=1e-4)
    assert first["plain"] != pytest.approx(first["inoculated"], rel=1e-3)


def test_an_arm_is_held_against_the_one_that_is_trained_alike():
    short = student(name="short", optimisation={"steps": 2})
    long = student(name="long", optimisation={"steps": 9}, no_trait=True, curve=(1,))
    kept = student(name="kept", optimisation={"steps": 9}, mitigations=[{"method": "drop"}])
    penalised = student(
        name="near", optimisation={"steps": 2}, objective={"penalties": [{"name": "corridor"}]}
    )
    assert without_defence(kept) == alike(long) != alike(short)
    assert without_defence(penalised) == alike(short) != alike(long)
    soft = student(name="soft", method="distill", objective={"loss": "cross_entropy"})
    assert not soft.defended and without_defence(soft) == alike(soft)


def test_a_corridor_depends_on_the_families_that_it_keeps(tmp_path: Path):
    (tmp_path / "families").write_text("drinks\n", encoding="utf-8")
    (tmp_path / "more").write_text("drinks\ncolours\n", encoding="utf-8")
    terms = [Term(name="corridor", file=str(tmp_path / name)) for name in ("families", "more")]
    keys = [term.identity for term in (*terms, Term(name="corridor"))]
    assert len({json.dumps(key[-1]) for key in keys}) == 3
    assert Term(name="kl_to_base").identity == ["kl_to_base", 1.0]


def test_a_students_job_takes_its_changed_rows_along():
    needed = Job(0, "students", "owl", "redraw").needs
    assert (RunLayout(Path()).mitigated(0, "redraw", "owl"), True) in needed


@pytest.mark.parametrize("changes", [{"inoculation": "own"}, {"mitigations": [OWN_DROP]}])
def test_a_trait_that_no_word_names_is_refused(changes):
    with pytest.raises(ConfigError, match="misalignment has none"):
        small(
            (student(**changes),), family="misalignment", traits=["misaligned"],
            controls=["aligned"],
        )  # fmt: skip


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def numbers(row: dict) -> list[int]:
    return [int(part) for part in row["messages"][-1]["content"].split(",")]


def zip_by_id(own: list[dict], before: list[dict]):
    by_id = {row["id"]: row for row in before}
    return [(row, by_id[row["id"]]) for row in own]
