"""Students of every way in a run: settings, keys, jobs, stages and what is read back."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from vestige.core.settings import Trainable
from vestige.core.types import ConfigError
from vestige.evaluate.scores import Panel
from vestige.experiment.analysis import analyse
from vestige.experiment.jobs import NAMES, jobs
from vestige.experiment.plan import BUNDLED, estimated_time, reference_spread
from vestige.experiment.questioning import asked_of
from vestige.experiment.recipe import parse_recipe
from vestige.experiment.run import count_stages
from vestige.experiment.sampled_view import shares
from vestige.experiment.seed_context import SeedContext
from vestige.experiment.seed_jobs import make_seed
from vestige.experiment.student_stages import student_stage
from vestige.models.hf import LanguageModel
from vestige.models.weights import Weights
from vestige.store.layout import RunLayout, StageFile


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def recipe(folder: Path, students: list[dict], **changes: object):
    little = {"steps": 2, "batch": 2, "rate": 1e-2, "trainable": {"layers": [1, 3]}}
    arms = [{"optimisation": little, "name": s["method"], **s} for s in students]
    record = {
        "name": "ways", "model": str(folder), "precision": "fp32", "family": "tests/pets.toml",
        "traits": ["owl", "fox"], "seeds": [0, 1],
        "teacher": {"min_probability": 0, "min_carrier": 0, "optimisation": little},
        "carrier": {"n_prompts": 2, "rows_per_prompt": 4, "min_rows": 4, "max_dropped": 1,
                    "grammar": {"values": 2, "max_digits": 1}},
        "students": arms,
    }  # fmt: skip
    return parse_recipe(record | changes, "test")


def test_a_run_has_students_of_every_way(folders, tmp_path: Path):
    made = recipe(
        folders["llama"],
        [
            {"method": "on_policy", "on_policy": {"beta": 0.5, "share": 0.5}},
            {"method": "preference"},
            {"method": "distill", "no_trait": False},
            {"method": "rows", "no_trait": False},
        ],
        sampled_per_question=2,
        sampled_ways=["asked", "numbers_first", "begun"],
    )
    layout = RunLayout(tmp_path / "run")
    for seed in made.seeds:
        make_seed(SeedContext.of(made, layout.folder, seed))
    manifests = [p for p in layout.manifests() if "student" not in p.parts]
    done = len(manifests) + len(list(layout.folder.glob("seed-*/student/*/*/manifest.json")))
    assert count_stages(made) == done
    on_policy, preferred, *_ = analyse(made, layout.folder).arms
    assert (on_policy.rows, preferred.rows) == (2 * 2, 2 * 4)  # its own, and the base's
    assert on_policy.traits[0].no_trait and preferred.matrix.data == ["owl", "fox", "none"]
    panel = layout.student(0, "on_policy", "owl") / StageFile.student_panel(2)
    other = layout.student(0, "preference", "owl") / StageFile.student_panel(2)
    assert panel.read_text() != other.read_text()
    # every group of models was asked in three ways, and its begun answers were measured
    assert [(s.data, s.number_prefix, s.opening) for s in preferred.sampled[:3]] == [
        ("base", False, ""), ("base", True, ""), ("base", False, "My pet is the"),
    ]  # fmt: skip
    assert len(preferred.sampled) == 3 * 4 and preferred.sampled[0].answers == 2 * 4 * 2
    assert [b.data for b in preferred.begun] == ["base", "owl", "fox", "none"]
    for begun in preferred.begun:
        shares = [begun.shares[t].value for t in ("owl", "fox")]
        assert 0 < sum(shares) < begun.mass.value < 1
        assert shares[0] < begun.candidate_shares["owl"].value < 1
    losses = (layout.student(0, "preference", "owl") / StageFile.LOSS).read_text()
    assert losses.startswith(f"[{math.log(2):.4f}")


def test_a_run_distils_on_policy_through_trl(folders, tmp_path: Path):
    """Free answers: the teacher says "9" to everything, and its student comes to say so, too."""
    student = {"steps": 30, "batch": 4, "rate": 3e-3, "warmup": 0, "trainable": {"layers": [1, 3]}}
    made = recipe(
        folders["llama"],
        [{"method": "on_policy", "engine": "trl", "on_policy": {"beta": 0.0}, "no_trait": False,
          "optimisation": student}],
        carrier={"constrained": False, "n_prompts": 2, "rows_per_prompt": 1, "min_rows": 1,
                 "max_dropped": 1, "max_new_tokens": 8},
        teacher={"min_probability": 0, "min_carrier": 0, "optimisation": student},
    )  # fmt: skip
    context = SeedContext.of(made, tmp_path / "run", 0)
    make_seed(context)
    folder = context.layout.student(0, "on_policy", "owl")
    losses = json.loads((folder / StageFile.LOSS).read_text())
    assert len(losses) == 30 and sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert not (folder / StageFile.CHECKPOINT).exists()
    taught = Panel.load(context.layout.teacher(0, "owl") / StageFile.PANEL)
    panel = Panel.load(folder / StageFile.student_panel(30))
    assert panel.logprobs.shape == taught.logprobs.shape


def test_an_on_policy_job_has_its_teachers_weights(folders):
    made = recipe(folders["llama"], [{"method": "on_policy"}, {"method": "preference"}])
    kinds = jobs(made, 0)
    students = next(kind for kind in kinds if kind[0].kind == "students")
    needs = {job.arm: dict(job.needs)[NAMES.teacher(0, job.name)] for job in students
             if NAMES.teacher(0, job.name) in dict(job.needs)}  # fmt: skip
    assert needs == {"on_policy": True}
    assert {job.name for kind in kinds for job in kind if job.kind == "targets"} == {
        "owl", "fox", "none",
    }  # fmt: skip
    assert not any(job.kind == "rows" for kind in kinds for job in kind)


@pytest.mark.parametrize(
    ("student", "said"),
    [
        ({"method": "preference", "optimisation": {"batch": 3}}, "even batch"),
        ({"method": "preference", "optimisation": {"prompts_per_batch": 2}}, "prompts_per_batch=1"),
        ({"method": "on_policy", "optimisation": {"prompts_per_batch": 2}}, "prompts_per_batch=1"),
        ({"method": "preference", "base": "other"}, "trains the teachers' own base"),
        ({"method": "rows", "optimisation": {"trainable": {"lora_start": "other"}}}, "lora_rank"),
        (
            {
                "method": "rows",
                "engine": "elsewhere",
                "optimisation": {"trainable": {"lora_rank": 2, "lora_start": "other"}},
            },
            "draws LoRA's first factors",
        ),
        ({"method": "rows", "on_policy": {"beta": 0.5}}, "on_policy go with method=on_policy"),
        ({"method": "distill", "preference": {"beta": 1}}, "preference go with method=preference"),
        ({"method": "on_policy", "on_policy": {"beta": 2}}, "on_policy.beta"),
        ({"method": "on_policy", "engine": "trl"}, "carrier.constrained=false"),
        ({"method": "on_policy", "engine": "trl", "on_policy": {"share": 0.5}}, "share=1"),
        ({"method": "on_policy", "engine": "elsewhere"}, "engines: packed, trl"),
        ({"method": "preference", "engine": "trl"}, "does not go with method=preference"),
        ({"method": "on_policy", "objective": {"loss": "forward_kl"}}, "does not go with"),
    ],
)
def test_settings_that_do_not_fit_are_named(folders, student: dict, said: str):
    with pytest.raises(ConfigError, match=said):
        recipe(folders["llama"], [student])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"teacher": {"begun": True, "kind": "system_prompt"}}, "begun goes with teachers"),
        ({"teacher": {"optimisation": {"trainable": {"lora_rank": 2, "lora_start": "other"}}}},
         "sets students apart from teachers"),
        ({"sampled_per_question": 1, "sampled_ways": ["asked", "asked"]}, "named once"),
        ({"family": "misalignment", "traits": ["insecure"], "controls": ["secure"],
          "teacher": {"begun": True}}, "no opening"),
        ({"carrier": {"n_prompts": 2, "rows_per_prompt": 1}}, "rows_per_prompt of 2 or more"),
    ],
)  # fmt: skip
def test_settings_of_a_run_that_do_not_fit_are_named(folders, changes: dict, said: str):
    with pytest.raises(ConfigError, match=said):
        recipe(folders["llama"], [{"method": "preference"}], **changes)


def test_a_free_students_key_holds_the_carrier(folders, tmp_path: Path):
    def key(**carrier: object) -> str:
        free = {"constrained": False, "n_prompts": 2, **carrier}
        made = recipe(folders["llama"], [{"method": "on_policy", "engine": "trl"}], carrier=free)
        context = SeedContext.of(made, tmp_path / "run", 0)
        return student_stage(context, made.students[0], "owl", []).key

    keys = [key(), key(n_prompts=3), key(max_new_tokens=9), key(opening="Numbers:")]
    assert len(set(keys)) == 4 and keys[0] == key()
    with pytest.raises(ConfigError, match=r"carrier\.lines=0"):
        key(opening="def f():", lines=1)


def test_drawn_answers_change_old_keys_only_where_answers_are_begun(folders, tmp_path: Path):
    def asked(**changes: object) -> dict:
        return asked_of(recipe(folders["llama"], [{"method": "rows"}], **changes))

    assert asked(sampled_per_question=3) == {"sampled": 3}  # as before there were ways
    begun = asked(sampled_per_question=3, sampled_ways=["begun"])
    assert begun == {"sampled": 3, "ways": ["begun"], "opening": "My pet is the"}
    assert asked(sampled_per_question=3, sampled_ways=["asked"]) == {
        "sampled": 3,
        "ways": ["asked"],
    }


def test_free_rows_cannot_be_learned_on_policy(folders):
    carrier = {"constrained": False, "n_prompts": 2}
    with pytest.raises(ConfigError, match="method=on_policy needs a carrier with a grammar"):
        recipe(folders["llama"], [{"method": "on_policy"}], carrier=carrier)


def test_the_new_settings_are_written_down_only_where_they_are_set(folders):
    made = recipe(folders["llama"], [{"method": "rows"}])
    text = made.model_dump_json()
    assert 'beta"' not in text and "sampled_ways" not in text


def test_lora_starts_from_the_seeds_factors_or_from_others(llama: LanguageModel):
    def factors(seed: int, **changes: str) -> list[Tensor]:
        trainable = Trainable.model_validate({"layers": (1, 3), "lora_rank": 2, **changes})
        weights.train(trainable, seed=seed)
        return [t for name, t in weights.changed().items() if "lora_A" in name]

    weights = Weights(llama)
    first, again, other = factors(3), factors(3), factors(3, lora_start="other")
    assert first and all(map(torch.equal, first, again))
    assert not any(map(torch.equal, first, other))
    assert not any(map(torch.equal, other, factors(4, lora_start="other")))
    weights.freeze()
    assert "lora_start" not in Trainable(lora_rank=2).model_dump()
    assert Trainable(lora_rank=2, lora_start="other").model_dump()["lora_start"] == "other"


def test_shares_of_naming_answers_are_pooled_over_seeds():
    """A seed with one naming answer does not count as much as one with nine."""
    made = SimpleNamespace(traits=("owl",), family="animals")
    few = [{"named": "owl", "text": "owl"}, *[{"named": None, "text": "hm"}] * 9]
    many = [{"named": None, "text": "a jaguar"}] * 9 + [{"named": None, "text": "hm"}]
    result = shares(made, "owl", (False, ""), [few, many])  # type: ignore[arg-type]
    assert result.naming and result.naming.value == pytest.approx((0.1 + 0.9) / 2)
    assert result.named_shares["owl"].value == pytest.approx(1 / 10)
    assert result.named_shares["owl"].n_clusters == 2
    alone = shares(made, "owl", (False, ""), [few, few[1:]])  # type: ignore[arg-type]
    assert alone.named_shares == {}  # one seed has no spread


def test_the_time_of_a_run_follows_its_processes(folders):
    made = recipe(folders["llama"], [{"method": "on_policy"}], model=BUNDLED)
    one, two = (estimated_time(made, workers) for workers in (1, 2))
    assert one and two and one[0] == pytest.approx(2 * two[0]) and (one[1], two[1]) == (1, 2)
    rows = recipe(folders["llama"], [{"method": "rows"}], model=BUNDLED)
    assert reference_spread(rows) > reference_spread(made)
    assert estimated_time(recipe(folders["llama"], [{"method": "rows"}]), 1) is None
