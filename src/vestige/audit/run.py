"""One audit from a file of rows to its results: stages that a killed audit does not repeat."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from vestige.audit.canary import Canary, canary
from vestige.audit.canary_test import look
from vestige.audit.data import Data
from vestige.audit.decision import (
    Canaries,
    Control,
    Evidence,
    fits_better,
    flags,
    other_traits,
    others_wanted,
    settled,
    strongest,
)
from vestige.audit.expected import expect
from vestige.audit.pull import REFERENCE
from vestige.audit.race import BESIDE, METHOD, Race, run_race
from vestige.audit.settings import AuditSettings
from vestige.audit.telling import MEASURED, SHIFT, WORST, tell
from vestige.audit.word_shifts import raised
from vestige.core.jsonl import read_jsonl, read_text, write_text
from vestige.core.results import AuditResults
from vestige.core.types import DataError, DroppedRow, Row, ScoreTable
from vestige.models.hf import LanguageModel
from vestige.probing.base_session import BaseSession, fingerprint, load
from vestige.probing.known_writers import (
    OnRows,
    Writer,
    base_writers,
    other_writers,
    planted_writers,
)
from vestige.probing.probes import Probes, token_shifts
from vestige.probing.row_format import (
    RowFormat,
    choose_rows,
    empty,
    number_grammar,
    repeated,
    unusable,
)
from vestige.probing.soft_targets import SoftTargets, from_rows, from_teacher
from vestige.probing.trait_panel import Array
from vestige.rows.files import atomic_lines, dropped_to_json, read_rows, write_rows
from vestige.rows.formats import USUAL, Columns
from vestige.store import Run, Stage, StageResult, atomic_write
from vestige.traits.library import trait_id

Report = Callable[[str, int, int], None]  # stage, done, total; total 0: just finished
SCORED = 3  # traits that every row is scored for, flagged ones first
CONTROL_ROWS = 112  # rows that each planted teacher writes
RESULTS_FILE = "results.json"
ROWS = "rows.jsonl"


def audit(
    data: Path | str,
    settings: AuditSettings,
    *,
    root: Path,
    reference: Path | str | None = None,
    columns: Columns = USUAL,
    overwrite: bool = False,
    report: Report = lambda stage, done, total: None,
    on_read: Callable[[Data], object] = lambda data: None,
) -> tuple[Path, AuditResults]:
    """Audit the rows of ``data`` for ``settings.base``.

    Args:
        data: whatever ``rows.RowSource`` takes; it is read once, in bounded memory.
        reference: rows known to be clean, on prompts of the same kind; they take the place of the
            rows that the untrained base writes.
        columns: which columns of both are the prompt and the completion; default: by their names.
        on_read: called with what was found in the data before anything else is done.

    Returns:
        The run folder, ``root/audit-<data>-<hash8>``, and the results.

    Raises:
        DataError: a file cannot be read, or no row of it can be used.
        ModelError, ConfigError: the base or the library cannot be used.
    """
    found = Data.of(
        data, settings.seed, lambda done, total: report("reading", done, total), columns
    )
    report("reading", 0, 0)
    if not found.rows:
        said = "; ".join(found.described())
        raise DataError(
            f"{found.name}: no row can be used for an audit: {dict(found.reasons)}; {said}"
        )
    on_read(found)
    known = Data.of(reference, settings.seed, columns=columns) if reference else None
    if known is not None and not known.rows:
        raise DataError(f"no row of the reference {known.name} can be read")
    session = BaseSession(settings)
    session.planted()  # a library that is too small is refused before anything is tuned
    teacher = teacher_of(settings)
    config = {
        "kind": "audit",
        "settings": settings.model_dump(mode="json"),
        "data": found.identity,
        "reference": known.identity if known else None,
        "base": session.fingerprint,
        "library": session.contents,
        "teacher": fingerprint(teacher) if teacher else None,
        "method": METHOD,
    }
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in found.name.split(".")[0])
    stem = plain.strip("-")[:40] or "rows"
    with Run.open(root, f"audit-{stem}", config, overwrite=overwrite) as opened:
        clean = known.rows if known else None
        results = _Audit(settings, session, opened, found, clean, teacher, report).run()
        on_model = [*session.lm.template.remarks(), *session.lm.notes]  # as a rule none
        results = results.model_copy(update={"caveats": [*results.caveats, *on_model]})
        atomic_write(opened.folder / RESULTS_FILE, results.model_dump_json(indent=1))
        return opened.folder, results


def teacher_of(settings: AuditSettings) -> LanguageModel | None:
    """The rows' writer, where it is at hand."""
    return load(settings, settings.teacher) if settings.teacher else None


def remarks(used: Sequence[Row], given: Sequence[Sequence[Row]], row_format: RowFormat) -> list[str]:
    """What the user's reference rows are unlike the data's in."""
    if not given:
        return []
    asked = {row.messages for row in used}
    rows = [row for some in given for row in some]
    found = []
    if (other := sum(row.messages not in asked for row in rows)) > len(rows) // 2:
        found.append(
            f"{other} of {len(rows)} reference rows answer other prompts than the data's: traits "
            "are told apart less well, and a flag or its absence may be about the prompts; without "
            "--reference the base writes rows on the data's own prompts"
        )
    if row_format.kind == "text" and number_grammar([row.completion for row in used]):
        found.append(
            "the data are number sequences of one form and the reference rows are not: all are "
            "read as free text, which tells less"
        )
    return found


def in_doubt(trial: Race) -> list[int]:
    """Traits that the reference rows must be read for: the likeliest, and those that are clear."""
    return sorted({*trial.last, *trial.clear_at})


def read_back(stage: StageResult) -> list[Row]:
    """The rows that a stage wrote."""
    return [row for row in read_rows(stage.path / ROWS) if isinstance(row, Row)]


@dataclass(frozen=True)
class _Reference:
    """Rows whose writer is known; ``trait``: what a planted teacher was given."""

    name: str
    stage: StageResult
    rows: list[Row]
    trait: str | None = None


@dataclass
class _Audit:
    """The stages of one audit, in the order in which ``run`` goes through them."""

    settings: AuditSettings
    session: BaseSession
    opened: Run
    data: Data
    known: list[Row] | None
    teacher: LanguageModel | None
    report: Report
    seconds: dict[str, float] = field(default_factory=dict)
    tokens: int = 0
    logprobs: Counter[str] = field(default_factory=Counter)  # of the rows, by use

    def run(self) -> AuditResults:
        """Every stage; finished ones are read back."""
        chosen = self.choose()
        used = read_back(chosen)
        given = self.given(used)
        row_format = RowFormat.of(
            self.session.lm, [*used, *(row for rows in given for row in rows)],
            self.settings.max_new_tokens,
        )  # fmt: skip
        total = len(self.session.library.traits)
        begun = time.monotonic()
        probes = Probes(self.session, lambda done: self.report("probes", done, total))
        self.seconds["probes"] = time.monotonic() - begun
        probes.soft_targets = self.soft_targets(row_format, used)
        references = self.references(chosen, row_format, used, given)
        known = [ref for ref in references if not ref.trait]
        usual = self.products(probes, row_format, known[0])
        trial = self.race(
            "data", probes, row_format, _Reference("data", chosen, used), known[0], usual
        )
        evidence = Evidence(
            name=self.data.name, settings=self.settings, library=self.session.library,
            material=row_format.kind, used=used, expected=self.expected(probes, chosen, trial),
            rows=self.data.read, dropped=self.data.reasons, trial=trial, controls=[],
            beside=self.beside("data", probes, row_format, known[0], in_doubt(trial)),
            seconds=self.seconds, tokens=0,
            own_reference=self.known is not None, soft_targets=probes.soft_targets, logprobs=dict(self.logprobs),
            remarks=[*self.data.remarks, *remarks(used, given, row_format)],
        )  # fmt: skip
        every = self.settings.canary_too  # canaries stand beside all planted ones
        if every or not (flags(evidence) or evidence.tuned):  # else nothing depends on controls
            for writer in planted_writers(self.session):
                ref = self.planted(writer, chosen, row_format, used)
                references.append(ref)
                evidence = self.control(evidence, probes, row_format, known[0], ref, usual)
                if not every and settled(evidence):
                    break
        if every:
            evidence = replace(evidence, canaries=self.canaries(chosen, row_format, used, references))
        planted = [trait_id(trait) for trait in self.session.planted()]
        for writer in other_writers(self.session, other_traits(evidence, planted)):
            if not others_wanted(evidence):  # the outcome is known without them
                break
            ref = self.planted(writer, chosen, row_format, used)
            evidence = self.control(evidence, probes, row_format, known[0], ref, usual, writer)
        tables, tokens = self.score(probes, chosen, row_format, used, strongest(evidence)[:SCORED])
        return tell(replace(evidence, scores=tables, marked=tokens, tokens=self.tokens))

    # ---- rows -------------------------------------------------------------------------------

    def choose(self) -> StageResult:
        """The rows that are read, and those that cannot be used with their reasons."""
        settings, rows = self.settings, self.data.rows
        chosen = []
        for row in choose_rows(rows, len(rows), settings.batch, settings.seed):
            if len(chosen) == settings.rows:
                break  # only the rows that are read have to fit the model
            if reason := unusable(self.session.lm, row, settings.max_new_tokens):
                self.data.drop(DroppedRow(reason, row=row))
            else:
                chosen.append(row)
        if not chosen:
            raise DataError(f"no row can be used for an audit: {dict(self.data.reasons)}")
        stage = self.opened.stage("rows", {"rows": settings.rows})
        if not stage.done:
            with stage.writing() as folder:
                write_rows(folder / ROWS, chosen, overwrite=True)
                with atomic_lines(folder / "dropped.jsonl", overwrite=True) as write:
                    for row in self.data.dropped:
                        write(dropped_to_json(row))
        return self.finish(stage)

    def given(self, used: Sequence[Row]) -> list[list[Row]]:
        """Sets of the user's reference rows, each as large as the data's.

        Raises:
            DataError: there are not enough rows for one.
        """
        if self.known is None:
            return []
        settings, lm = self.settings, self.session.lm
        n = len(used) if settings.canary_too else min(len(used), BESIDE)
        most = len(used) if settings.canary_too else REFERENCE
        good = [r for r in self.known if not (empty(r) or unusable(lm, r, settings.max_new_tokens))]
        if len(good) < n:
            raise DataError(
                f"the reference holds {len(good)} usable rows and {n} are needed; give more, or a "
                "smaller --budget"
            )
        mixed = [
            replace(row, id=f"given-{row.id}", meta={})
            for row in choose_rows(good, len(good), settings.batch, settings.seed)
        ]
        sets = min(settings.base_written if settings.canary_too else 1, len(good) // n)
        return [mixed[k * n : k * n + most] for k in range(sets)]

    def references(
        self, chosen: StageResult, row_format: RowFormat, used: Sequence[Row], given: list[list[Row]]
    ) -> list[_Reference]:
        """Rows that are known to be clean: the user's, or the base's on the same prompts."""
        if given:
            return [
                self.written(f"given-{k}", chosen, lambda on, rows=rows: rows)
                for k, rows in enumerate(given)
            ]
        canaries = self.settings.canary_too  # they need as many rows as the data has
        some = used if canaries else repeated(used, REFERENCE)
        return [
            self.written(w.name, chosen, lambda on, w=w: w.write(row_format, some, on))
            for w in base_writers(self.session, self.settings.base_written if canaries else 1)
        ]

    def planted(
        self, writer: Writer, chosen: StageResult, row_format: RowFormat, used: Sequence[Row]
    ) -> _Reference:
        """A planted teacher's rows on the same prompts."""
        some = used if self.settings.canary_too else used[:CONTROL_ROWS]
        return self.written(
            writer.name, chosen, lambda on: writer.write(row_format, some, on), writer.planted
        )

    def written(
        self,
        name: str,
        chosen: StageResult,
        make: Callable[[OnRows], list[Row]],
        trait: str | None = None,
    ) -> _Reference:
        """One reference, written or read back."""
        stage = self.opened.stage(f"reference/{name}", {"trait": trait}, [chosen])
        if not stage.done:
            with stage.writing() as folder:
                rows = make(lambda done: self.report(stage.name, done, self.settings.rows))
                write_rows(folder / ROWS, rows, overwrite=True)
        result = self.finish(stage)
        return _Reference(name, result, read_back(result), trait)

    def soft_targets(self, row_format: RowFormat, used: Sequence[Row]) -> dict[str, SoftTargets]:
        """What is known of the writer's probabilities: from itself, else from the rows."""
        self.session.weights.freeze()
        if self.teacher is None:
            return from_rows(self.session.lm, row_format, used, self.logprobs)
        return from_teacher(self.session.lm, self.teacher, row_format, used, self.settings.batch)

    # ---- likelihood under probes -------------------------------------------------------------

    def products(self, probes: Probes, row_format: RowFormat, known: _Reference) -> Array:
        """The reference rows' products with all probes, [M, T]."""
        begun, rows = time.monotonic(), known.rows[:REFERENCE]
        found = probes.reference(row_format, rows, lambda done: self.report("pull", done, len(rows)))
        self.report("pull", 0, 0)
        self.seconds["pull"] = time.monotonic() - begun
        return found

    def run_race(
        self, name: str, probes: Probes, row_format: RowFormat, source: _Reference,
        known: _Reference, products: Array, wanted: int | None = None,
    ) -> Race:  # fmt: skip
        """The assay of one set of rows, read back if it was done; ``wanted``: as in ``assay``."""
        usual: dict[int, Array] = {}

        def stands(t: int, shifts: Array) -> bool:
            if t not in usual:
                usual.update(probes.shifts(row_format, known.rows[:BESIDE], [t]))
            return fits_better(shifts, usual[t], self.settings.alpha_each)

        stage = self.opened.stage(f"assay/{name}", {}, [source.stage])
        if not stage.done:
            with stage.writing() as folder:
                found = run_race(
                    probes, self.settings, row_format, source.rows, products,
                    lambda done, total: self.report(stage.name, done, total), stands, wanted,
                )  # fmt: skip
                write_text(folder / "assay.json", json.dumps(found.to_json()))
        return Race.from_json(json.loads(read_text(self.finish(stage).path / "assay.json")))

    def control(
        self, evidence: Evidence, probes: Probes, row_format: RowFormat, known: _Reference,
        planted: _Reference, products: Array, other: Writer | None = None,
    ) -> Evidence:  # fmt: skip
        """The evidence with one more positive control: is a planted trait found in its rows?

        Args:
            other: the writer, if it is no twin of the probes: whether it has its trait is asked,
                and its rows are read only as far as the trait may still be found.
        """
        own = self.session.library.ids.index(str(planted.trait))
        wanted = own if other else None
        trial = self.race(planted.name, probes, row_format, planted, known, products, wanted)
        beside = {}
        if not other or own in trial.clear:
            beside = self.beside(planted.name, probes, row_format, known, [own])
        control = Control(str(planted.trait), trial)
        if other:
            begun = time.monotonic()
            control = replace(control, kind=other.kind, gained=other.gained())
            self.seconds["trait"] = self.seconds.get("trait", 0) + time.monotonic() - begun
            self.report(f"trait/{planted.name}", 0, 0)
        return replace(
            evidence, controls=[*evidence.controls, control],
            beside={**beside, **evidence.beside},
        )  # fmt: skip

    def beside(
        self, name: str, probes: Probes, row_format: RowFormat, known: _Reference,
        traits: Sequence[int],
    ) -> dict[int, Array]:  # fmt: skip
        """The reference rows' shifts under some traits' probes, for one assay."""
        stage = self.opened.stage(f"beside/{name}", {"traits": list(traits)}, [known.stage])
        if not stage.done:
            with stage.writing() as folder:
                read = probes.shifts(row_format, known.rows[:BESIDE], traits)
                record = {t: values.tolist() for t, values in read.items()}
                write_text(folder / "shifts.json", json.dumps(record))
        record = json.loads(read_text(self.finish(stage).path / "shifts.json"))
        return {int(t): np.array(values) for t, values in record.items()}

    def expected(self, probes: Probes, chosen: StageResult, trial: Race) -> Array | None:
        """What a student would take on of every trait, [T], nats a whole probe; None for a base
        with which a student's share of it has not been measured."""
        if self.settings.base not in MEASURED:
            return None
        stage = self.opened.stage("expected", {}, [chosen])
        if not stage.done:
            with stage.writing() as folder:
                found = expect(
                    probes, trial, lambda done, total: self.report(stage.name, done, total)
                )
                write_text(folder / "expected.json", json.dumps(found.tolist()))
        return np.array(json.loads(read_text(self.finish(stage).path / "expected.json")))

    def score(
        self, probes: Probes, chosen: StageResult, row_format: RowFormat, rows: Sequence[Row],
        traits: Sequence[int],
    ) -> tuple[list[ScoreTable], dict[str, list[tuple[str, float]]]]:  # fmt: skip
        """For the strongest traits each row's shift, and the first one's token by token for the
        rows that it is largest in."""
        names = [self.session.library.ids[i] for i in traits]
        stage = self.opened.stage("scores", {"traits": names}, [chosen])
        if not stage.done:
            with stage.writing() as folder:
                shifts = probes.shifts(row_format, rows, traits)
                table = np.stack([shifts[t] for t in traits])
                with atomic_lines(folder / "scores.jsonl", overwrite=True) as write:
                    for row, values in zip(rows, table.T.tolist(), strict=True):
                        write({"id": row.id, "scores": dict(zip(names, values, strict=True))})
                worst = [rows[i] for i in np.argsort(-table[0], kind="stable")[:WORST]]
                marked = token_shifts(probes, row_format, worst, traits[0])
                found = {row.id: part for row, part in zip(worst, marked, strict=True)}
                write_text(folder / "tokens.json", json.dumps(found))
        path = self.finish(stage).path
        records = read_jsonl(path / "scores.jsonl")
        tables = [
            ScoreTable(
                {r["id"]: r["scores"][name] for r in records}, f"{SHIFT}{name}", "nats a row",
                "likelier from a teacher with the trait than from the base",
            )
            for name in names
        ]  # fmt: skip
        return tables, json.loads(read_text(path / "tokens.json"))

    # ---- canaries ---------------------------------------------------------------------------

    def canaries(
        self, chosen: StageResult, row_format: RowFormat, used: Sequence[Row],
        references: Sequence[_Reference],
    ) -> Canaries:  # fmt: skip
        """The data's canary held against the references', at every look."""
        settings = self.settings
        found = {
            ref.name: self.canary(ref.name, ref.stage, row_format, ref.rows) for ref in references
        }
        own = self.canary("data", chosen, row_format, used)
        looks = [
            look(
                min(step * settings.batch, len(used)), own.shifts[i],
                {name: other.shifts[i] for name, other in found.items()},
                {ref.name: ref.trait for ref in references if ref.trait}, self.session.library.ids,
            )
            for i, step in enumerate(settings.steps(len(used)))
        ]  # fmt: skip
        words = raised(self.session.lm, own.words, [other.words for other in found.values()])
        return Canaries(looks, words)

    def canary(
        self, name: str, source: StageResult, row_format: RowFormat, rows: Sequence[Row]
    ) -> Canary:
        """One canary, read back if it was done."""
        stage = self.opened.stage(f"canary/{name}", {}, [source])
        if not stage.done:
            with stage.writing() as folder:
                total = self.settings.steps(len(rows))[-1]
                found = canary(
                    self.session, self.settings, row_format, rows, seed=self.settings.seed,
                    on_step=lambda step: self.report(stage.name, step, total),
                )  # fmt: skip
                write_text(folder / "shifts.json", json.dumps(found.shifts.tolist()))
                save_file({"words": found.words}, folder / "words.safetensors")
                stage.note(tokens=found.tokens)
        result = self.finish(stage)
        tokens = int(result.manifest["notes"]["tokens"])
        self.tokens += tokens
        shifts = np.array(json.loads(read_text(result.path / "shifts.json")))
        return Canary(shifts, load_file(result.path / "words.safetensors")["words"], tokens)

    # ---- stages -----------------------------------------------------------------------------

    def finish(self, stage: Stage) -> StageResult:
        """The finished stage, reported to whoever watches, its time added up by kind."""
        result = stage.result
        kind = stage.name.partition("/")[0]
        self.seconds[kind] = self.seconds.get(kind, 0.0) + float(result.manifest["seconds"])
        self.report(stage.name, 0, 0)
        return result
