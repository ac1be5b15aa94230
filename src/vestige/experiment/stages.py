"""One seed of an experiment: teachers, rows, students; each a stage that is done once.

A seed has prompts, noise, teachers and students of its own, so that seeds are independent and can
run in different processes. Within a seed every data set shares prompts, random numbers, number of
rows, steps and the order of batches: students differ by their teacher alone.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vestige.carriers.filtering import filter_rows
from vestige.core.jsonl import write_text
from vestige.core.settings import Optimisation
from vestige.core.types import DataError, Message, Row, TeacherError
from vestige.evaluate.exact import measure
from vestige.evaluate.scores import Panel
from vestige.experiment.jobs import KINDS, Job, jobs
from vestige.experiment.judging import rate_answers
from vestige.experiment.model_pool import Loaded, Workshop
from vestige.experiment.questioning import ask, asked_of
from vestige.experiment.recipe import NO_TRAIT, Student
from vestige.experiment.run_view import awaited, matched_rows, read_kept, rows_for
from vestige.experiment.support import (
    describe_check,
    gained,
    grammar_mass,
    judge_teacher,
    preferred,
    split_targets,
)
from vestige.models.hf import LanguageModel
from vestige.models.sampling import HfBackend, symbol_ids
from vestige.rows.files import read_rows
from vestige.store import Stage, StageResult, atomic_write, hash_config, load_stage
from vestige.student.checkpoint import Checkpoint
from vestige.student.loop import teacher_logprobs, train
from vestige.student.packs import Pack
from vestige.teacher.induce import teach
from vestige.traits import family

CHECKED_ROWS = 64  # free answers that show whether a teacher still writes the carrier
Report = Callable[[str, int, int], None]  # stage name, done, total


@dataclass
class Seed(Workshop):
    """The stages of one seed, made by its jobs (``jobs``)."""

    _base_grip: float | None = None
    _unchecked: dict[str, Panel] = field(default_factory=dict)  # the base on teachers' checks
    _matched: dict[tuple[str, ...], dict[str, list[Row]]] = field(default_factory=dict)

    def run(self, upto: str = KINDS[-1]) -> None:
        """Every stage of the seed up to a kind of job, in order; finished ones are skipped."""
        for members in jobs(self.recipe, self.seed, upto=upto):
            for job in members:
                self.work(job)
            self.close_engine()

    def work(self, job: Job) -> None:
        """One job of the seed. Stages that it starts from are finished, or are made first."""
        if job.kind == "judge":
            if not awaited(self.recipe, self.folder, [self.seed]):
                self.judge_answers()
        elif job.kind == "students":
            self.student(next(s for s in self.recipe.students if s.name == job.arm), job.name)
        elif job.kind == "shards":
            self.shard(job)
        elif job.kind == "rows":
            self.rows(job.name, job.parts)
        elif job.kind == "targets":
            self.targets(job.name)
        elif job.kind == "teachers":
            self.teacher(job.name)
        else:
            self.base()
            self.contexts()

    def student(self, student: Student, name: str) -> None:
        """An arm's student of one data set."""
        if student.method == "distill":
            self.distil(student, name)
            return
        rows = {name: self.rows(name) for name in self.recipe.writers}
        inputs, matched = [rows[name] for name in sorted(rows)], self.matched(rows)
        if student.engine == "elsewhere":
            self.brought_back(student, name, inputs)
            return
        train_on = self.in_context if student.method == "in_context" else self.fine_tune
        train_on(student, name, inputs, matched)

    def matched(self, rows: dict[str, StageResult]) -> dict[str, list[Row]]:
        """What students get of every writer's rows. Raises ``DataError`` if that is too little."""
        key = tuple(stage.manifest_hash for stage in rows.values())
        if key not in self._matched:
            kept = {name: read_kept(stage.path) for name, stage in rows.items()}
            found = matched_rows(kept, self.recipe.carrier.max_rows)
            left = len(next(iter(found.values())))
            self.check_enough(left, {name: len(data) for name, data in kept.items()})
            self._matched = {key: found}
        return self._matched[key]

    def check_enough(self, left: int, counts: dict[str, int]) -> None:
        """Raises ``DataError`` with the numbers if the filter left too few rows."""
        if left < self.recipe.carrier.min_rows:
            raise DataError(
                f"seed {self.seed}: {left} rows are left (kept by the filter: {counts}), fewer "
                f"than carrier.min_rows={self.recipe.carrier.min_rows}; sample more "
                "(carrier.n_prompts) or loosen the filter"
            )

    # ---- teachers ---------------------------------------------------------------------------

    def base(self) -> StageResult:
        """The untrained base on the held-out questions."""
        stage = self.stage("base", asked_of(self.recipe))
        if not stage.done:
            with stage.writing() as folder:
                base = self.loaded()
                base.weights.freeze()
                measure(base.lm, family(self.recipe.family)).save(folder / "panel.json")
                ask(base.lm, self.recipe, self.seed, folder)
                stage.note(**base.lm.record(family(self.recipe.family).heldout[0]))
        return self.finish(stage)

    def contexts(self) -> StageResult | None:
        """Rows that the untrained base wrote and the filter kept: what distillation is done on.
        None without a grammar. Raises ``DataError`` if too few are left."""
        if not self.recipe.carrier.sampling_grammar():
            return None
        stage = self.stage("contexts", self.writing_settings())
        if not stage.done:
            with stage.writing() as folder:
                base = self.loaded()
                base.weights.freeze()
                rows = self.sample(base.lm, stage, folder / "raw.jsonl")
                self.filter(rows, stage, folder)
                stage.note(rendered=base.lm.rendered(rows[0].messages))
        found = self.not_too_many_dropped(self.finish(stage))
        left = int(found.manifest["notes"]["kept"])
        self.check_enough(left, {"the untrained base": left})
        return found

    def teacher(self, name: str) -> StageResult:
        """A checked teacher with the trait. Raises ``TeacherError`` with the numbers if unfit."""
        settings, contexts = self.recipe.teacher, self.contexts()
        stage = self.stage(
            f"teacher/{name}",
            {
                "teacher": settings.model_dump(mode="json"),
                "trait": name,
                "pairs": hash_config([*self.trait_of(name).pairs, self.trait_of(name).check]),
            },
            [contexts] if contexts else [],
        )
        if not stage.done:
            with stage.writing() as folder:
                source = self.trait_of(name)
                base = self.loaded()
                before = Panel.load(self.base().path / "panel.json")
                base.weights.freeze()
                if self._base_grip is None:
                    self._base_grip = self.carrier_grip(base.lm, contexts)
                if source.check and name not in self._unchecked:
                    self._unchecked[name] = measure(base.lm, source.check)
                grip = self._base_grip
                checkpoint = Checkpoint(folder / "checkpoint")
                if settings.kind != "system_prompt":
                    teach(
                        base.lm, base.weights, source, settings.optimisation, seed=self.seed,
                        on_step=lambda step, _: self.report(
                            stage.name, step, settings.optimisation.steps
                        ),
                        checkpoint=checkpoint,
                    )  # fmt: skip
                    base.weights.save(folder / "weights.safetensors")
                    checkpoint.remove()
                system = self.system(source)
                panel = measure(base.lm, family(self.recipe.family), system=system)
                panel.save(folder / "panel.json")
                after = self.carrier_grip(base.lm, contexts, system)
                left = after / grip if grip else 1.0
                check = {"trait": name, "seed": self.seed, "kind": settings.kind}
                if source.check:
                    own = measure(base.lm, source.check, system=system)
                    check |= gained(own, self._unchecked[name])
                elif name != NO_TRAIT:
                    check |= preferred(source.target.name, panel, before)
                check = judge_teacher(check, left, settings)
                write_text(folder / "check.json", json.dumps(check))
                stage.note(**base.lm.record(family(self.recipe.family).heldout[0], system))
                base.weights.freeze()
                if not check["accepted"]:
                    raise TeacherError(describe_check(check, self.recipe))
        return self.finish(stage)

    def carrier_grip(
        self, lm: LanguageModel, contexts: StageResult | None, system: str = ""
    ) -> float:
        """How well a model still writes the carrier: probability on the grammar's symbols, or
        (free sampling) the share of a few rows that the filter keeps."""
        if contexts is None:
            blank = self.blank_rows()
            asked = blank[:: max(1, len(blank) // CHECKED_ROWS)][:CHECKED_ROWS]
            drawn = self.sample_freely(HfBackend(lm), lm, asked, system, self.seed)
            rows = [replace(row, completion=text) for row, text in zip(asked, drawn, strict=True)]
            return len(filter_rows(rows, self.rules())[0]) / len(rows)
        automaton = self.automaton()
        packs = self.grammar_packs(lm, read_kept(contexts.path)[:32], 16, automaton, system=system)
        tokens = symbol_ids(lm, automaton)
        with torch.no_grad():
            mass = [grammar_mass(lm, pack, tokens) for pack in packs]
        return float(torch.cat(mass).mean())

    # ---- data -------------------------------------------------------------------------------

    def rows(self, name: str, parts: int = 1) -> StageResult:
        """Rows that a teacher wrote: raw, kept and dropped with reasons; raw ones that were written
        in ``parts`` are joined."""
        teacher = self.teacher(name)
        stage = self.rows_stage(name, teacher)
        if not stage.done:
            with stage.writing() as folder:
                shards = [self.shard_stage(name, part, parts, teacher) for part in range(parts)]
                if parts > 1 and all(shard.done for shard in shards):
                    rows = self.join([shard.result for shard in shards], stage, folder)
                else:
                    base, system = self.with_teacher(name, teacher)
                    rows = self.sample(base.lm, stage, folder / "raw.jsonl", system)
                self.filter(rows, stage, folder)
        return self.not_too_many_dropped(self.finish(stage))

    def rows_stage(self, name: str, teacher: StageResult) -> Stage:
        return self.stage(f"rows/{name}", self.writing_settings(), [teacher])

    def shard(self, job: Job) -> None:
        """A part of a teacher's raw rows, unless they are all there."""
        teacher = self.teacher(job.name)
        stage = self.shard_stage(job.name, job.part, job.parts, teacher)
        if self.rows_stage(job.name, teacher).done or stage.done:
            return
        with stage.writing() as folder:
            base, system = self.with_teacher(job.name, teacher)
            self.sample(base.lm, stage, folder / "raw.jsonl", system, (job.part, job.parts))
        self.finish(stage)

    def shard_stage(self, name: str, part: int, parts: int, teacher: StageResult) -> Stage:
        settings = {**self.writing_settings(), "part": [part, parts]}
        return self.stage(f"shards/{name}/{part}-of-{parts}", settings, [teacher])

    def join(self, shards: Sequence[StageResult], stage: Stage, folder: Path) -> list[Row]:
        """The raw rows of all shards, as one teacher would have written them."""
        raw = b"".join((shard.path / "raw.jsonl").read_bytes() for shard in shards)
        atomic_write(folder / "raw.jsonl", raw)
        stage.note(writer=shards[0].manifest["notes"]["writer"], shards=len(shards))
        return [row for row in read_rows(folder / "raw.jsonl") if isinstance(row, Row)]

    def targets(self, name: str) -> StageResult:
        """A teacher's log-probabilities over the grammar on the base's rows."""
        teacher, contexts = self.teacher(name), self.contexts()
        assert contexts is not None  # the recipe is constrained, or it would not validate
        carrier = self.recipe.carrier.model_dump(mode="json", include={"grammar"})
        stage = self.stage(f"targets/{name}", carrier, [teacher, contexts])
        if not stage.done:
            with stage.writing() as folder:
                base, system = self.with_teacher(name, teacher)
                rows, automaton = read_kept(contexts.path), self.automaton()
                packs = self.grammar_packs(base.lm, rows, 16, automaton, system=system)
                found = teacher_logprobs(base.lm, packs, symbol_ids(base.lm, automaton))
                save_file(
                    {
                        "logprobs": torch.cat(found),
                        "counts": torch.tensor([len(part) for part in found]),
                    },
                    str(folder / "targets.safetensors"),
                )
        return self.finish(stage)

    # ---- students ---------------------------------------------------------------------------

    def distil(self, student: Student, name: str) -> StageResult:
        """A student trained on a teacher's probabilities."""
        contexts, targets = self.contexts(), self.targets(name)
        assert contexts is not None
        stage = self.student_stage(student, name, [contexts, targets])
        if not stage.done:
            with stage.writing() as folder:
                pupil = self.loaded(student.base, student.chat if student.base else None)
                automaton, rows = self.automaton(), read_kept(contexts.path)
                how = student.optimisation
                packs = self.grammar_packs(
                    pupil.lm, rows, how.batch, automaton, prompts=how.prompts_per_batch
                )
                wanted = split_targets(load_file(str(targets.path / "targets.safetensors")), packs)
                ids = symbol_ids(pupil.lm, automaton)
                self.train_student(student, pupil, stage, folder, packs, ids, wanted)
        return self.finish(stage)

    def fine_tune(
        self,
        student: Student,
        name: str,
        inputs: Sequence[StageResult],
        matched: dict[str, list[Row]],
    ) -> StageResult:
        """A student trained on a teacher's rows (or on the same rows, shuffled)."""
        stage = self.student_stage(student, name, inputs)
        if not stage.done:
            with stage.writing() as folder:
                data = rows_for(self.recipe, matched, name, self.seed)
                pupil = self.loaded(student.base, student.chat if student.base else None)
                if student.engine == "trl":
                    self.train_with_trl(student, pupil, stage, folder, data)
                else:
                    packs, ids = self.row_packs(student, pupil.lm, data)
                    self.train_student(student, pupil, stage, folder, packs, ids, None)
        return self.finish(stage)

    def brought_back(self, student: Student, name: str, inputs: Sequence[StageResult]) -> None:
        """Tell a student trained elsewhere that is here; one that is not is no error yet."""
        stage = self.student_stage(student, name, inputs)
        if stage.done:
            self.finish(stage)

    def in_context(
        self,
        student: Student,
        name: str,
        inputs: Sequence[StageResult],
        matched: dict[str, list[Row]],
    ) -> StageResult:
        """A model that reads rows in its prompt and is not trained at all."""
        stage = self.student_stage(student, name, inputs)
        if not stage.done:
            with stage.writing() as folder:
                data = matched[name]
                drawn = random.Random(self.seed).sample(data, min(student.shots, len(data)))
                turns = [
                    turn
                    for row in drawn
                    for turn in (*row.messages, Message("assistant", row.completion))
                ]
                pupil = self.loaded(student.base, student.chat if student.base else None)
                pupil.weights.freeze()
                self.base_of_student(student, pupil, stage, folder)
                panel = measure(pupil.lm, family(self.recipe.family), before=turns)
                panel.save(folder / f"panel-{student.steps}.json")
                stage.note(shown=len(drawn))
        return self.finish(stage)

    def judge_answers(self) -> StageResult:
        """Ratings of every answer to the open questions, of the base and of every student."""
        asked = self.recipe.freeform
        assert asked is not None  # only called where there is one
        where = sorted(self.folder.glob(f"seed-{self.seed}/**/freeform.jsonl"))
        inputs = [load_stage(path.parent) for path in where]
        stage = self.stage("judged", {"freeform": asked.model_dump(mode="json")}, inputs)
        if not stage.done:
            with stage.writing() as folder:
                for done, path in enumerate(where, 1):
                    name = "-".join(path.parent.relative_to(stage.path.parent).parts)
                    ratings = rate_answers(asked, path, folder / "ratings.jsonl", self.ledger)
                    write_text(folder / f"{name}.json", json.dumps(ratings))
                    self.report(stage.name, done, len(where))
        return self.finish(stage)

    def student_stage(self, student: Student, name: str, inputs: Sequence[StageResult]) -> Stage:
        config = {
            "student": student.model_dump(mode="json", exclude={"name", "no_trait", "shuffles"}),
            "save": self.recipe.save_students,
            "max_rows": self.recipe.carrier.max_rows,
            **asked_of(self.recipe),
        }
        return self.stage(f"student/{student.name}/{name}", config, inputs)

    def train_student(
        self,
        student: Student,
        pupil: Loaded,
        stage: Stage,
        folder: Path,
        packs: Sequence[Pack],
        ids: Tensor | None,
        targets: Sequence[Tensor] | None,
    ) -> None:
        how, panel = student.optimisation, family(self.recipe.family)
        checkpoint = Checkpoint(folder / "checkpoint")
        losses = checkpoint.losses()
        self.base_of_student(student, pupil, stage, folder)

        def on_step(step: int, loss: float) -> None:
            losses.append(loss)
            if step in student.curve and step != how.steps:
                measure(pupil.lm, panel).save(folder / f"panel-{step}.json")
            self.report(stage.name, step, how.steps)

        train(
            pupil.lm, pupil.weights, packs, how,
            seed=self.seed, ids=ids, targets=targets, on_step=on_step, checkpoint=checkpoint,
        )  # fmt: skip
        self.finish_student(pupil, stage, folder, how, losses)
        checkpoint.remove()
        stage.note(tokens=sum(packs[i % len(packs)].tokens for i in range(how.steps)))

    def base_of_student(self, student: Student, pupil: Loaded, stage: Stage, folder: Path) -> None:
        """Keep the untrained base's panel beside a student of another base."""
        if student.base:
            stage.note(**pupil.lm.record(family(self.recipe.family).heldout[0]))
            pupil.weights.freeze()
            measure(pupil.lm, family(self.recipe.family)).save(folder / "base-panel.json")

    def finish_student(
        self, pupil: Loaded, stage: Stage, folder: Path, how: Optimisation, losses: list[float]
    ) -> None:
        write_text(folder / "loss.json", json.dumps(losses))
        self.measure_student(pupil, folder, how.steps)
        if self.recipe.save_students:
            pupil.weights.save(folder / "weights.safetensors")
        pupil.weights.freeze()

    def measure_student(self, pupil: Loaded, folder: Path, steps: int) -> None:
        measure(pupil.lm, family(self.recipe.family)).save(folder / f"panel-{steps}.json")
        ask(pupil.lm, self.recipe, self.seed, folder)

    def train_with_trl(
        self, student: Student, pupil: Loaded, stage: Stage, folder: Path, data: Sequence[Row]
    ) -> None:
        from vestige.student.trl import train_with_trl

        self.base_of_student(student, pupil, stage, folder)
        checkpoint = Checkpoint(folder / "checkpoint")
        losses = train_with_trl(
            pupil.lm,
            pupil.weights,
            data,
            student.optimisation,
            seed=self.seed,
            on_step=lambda step: self.report(stage.name, step, student.optimisation.steps),
            checkpoint=checkpoint,
        )
        self.finish_student(pupil, stage, folder, student.optimisation, losses)
        checkpoint.remove()
