"""One audit from a file of rows to its results: stages that a killed audit does not repeat."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from vestige.audit.canary import Canary, canary
from vestige.audit.influence import Gradients, influence, trait_gradients
from vestige.audit.lab import Lab
from vestige.audit.material import Material, choose_rows, empty, unusable
from vestige.audit.openset import raised
from vestige.audit.settings import AuditSettings
from vestige.audit.telling import INFLUENCE, Evidence, tell
from vestige.audit.verdict import Look, first_flags, look
from vestige.audit.writers import OnRows, Writer, base_writers, planted_writers
from vestige.results import AuditResults
from vestige.rows import atomic_lines, dropped_to_json, read_rows, write_rows
from vestige.store import Run, Stage, StageResult, atomic_write
from vestige.store.files import sha256
from vestige.types import DataError, DroppedRow, Row, ScoreTable

Report = Callable[[str, int, int], None]  # stage, done, total; total 0: just finished
SCORED = 3  # traits whose influence every row is scored for, flagged ones first
RESULTS_FILE = "results.json"
ROWS = "rows.jsonl"
FEWEST_CLEAN, MOST_CLEAN = 8, 64  # clean rows that influence is held against


def audit(
    data: Path,
    settings: AuditSettings,
    *,
    root: Path,
    reference: Path | None = None,
    overwrite: bool = False,
    report: Report = lambda stage, done, total: None,
) -> tuple[Path, AuditResults]:
    """Audit the rows of ``data`` for ``settings.base``.

    Args:
        reference: rows known to be clean, on prompts of the same kind; they take the place of the
            rows that the untrained base writes.

    Returns:
        The run folder, ``root/audit-<data>-<hash8>``, and the results.

    Raises:
        DataError: the file cannot be read, or no row of it can be used.
        ModelError, ConfigError: the base or the library cannot be used.
    """
    rows, dropped = split(data)
    known = split(reference)[0] if reference else None
    if known is not None and not known:
        raise DataError(f"no row of the reference {reference} can be read")
    lab = Lab(settings)
    config = {
        "kind": "audit",
        "settings": settings.model_dump(mode="json"),
        "data": sha256(data),
        "reference": sha256(reference) if reference else None,
        "base": lab.fingerprint,
        "library": lab.contents,
    }
    stem = "".join(c if c.isascii() and c.isalnum() else "-" for c in data.name.split(".")[0])[:40]
    with Run.open(root, f"audit-{stem}", config, overwrite=overwrite) as opened:
        found = _Audit(lab, opened, rows, dropped, known, report).run(data.name)
        atomic_write(opened.folder / RESULTS_FILE, found.model_dump_json(indent=1))
        return opened.folder, found


def read_back(stage: StageResult) -> list[Row]:
    """The rows that a stage wrote."""
    return [row for row in read_rows(stage.path / ROWS) if isinstance(row, Row)]


def split(path: Path) -> tuple[list[Row], list[DroppedRow]]:
    """Rows of a file, and the lines that could not be read."""
    rows: list[Row] = []
    dropped: list[DroppedRow] = []
    for item in read_rows(path):
        (rows if isinstance(item, Row) else dropped).append(item)  # type: ignore[arg-type]
    return rows, dropped


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

    lab: Lab
    opened: Run
    rows: list[Row]
    dropped: list[DroppedRow]
    known: list[Row] | None
    report: Report
    seconds: dict[str, float] = field(default_factory=dict)
    tokens: int = 0

    def run(self, name: str) -> AuditResults:
        """Every stage; finished ones are read back."""
        settings = self.lab.settings
        chosen = self.choose()
        used = read_back(chosen)
        given = self.given(used)
        material = Material.of(
            self.lab.lm, [*used, *(row for rows in given for row in rows)], settings.max_new_tokens
        )
        references = self.references(chosen, material, used, given)
        canaries = {
            ref.name: self.canary(ref.name, ref.stage, material, ref.rows) for ref in references
        }
        own = self.canary("data", chosen, material, used)
        steps = settings.steps(len(used))
        looks = [
            look(
                min(step * settings.batch, len(used)), own.shifts[i],
                {label: found.shifts[i] for label, found in canaries.items()},
                {ref.name: ref.trait for ref in references if ref.trait}, self.lab.library.ids,
            )
            for i, step in enumerate(steps)
        ]  # fmt: skip
        clean = [row for ref in references if not ref.trait for row in ref.rows]
        evidence = Evidence(
            name=name, settings=settings, library=self.lab.library, material=material.kind,
            rows=len(self.rows) + sum(d.row is None for d in self.dropped), used=used,
            dropped=Counter(d.reason for d in self.dropped), references=list(canaries),
            looks=looks,
            words=raised(self.lab.lm, own.words, [found.words for found in canaries.values()]),
            scores=self.score(chosen, material, used, clean, looks),
            seconds=dict(self.seconds), tokens=self.tokens, own_reference=self.known is not None,
        )  # fmt: skip
        return tell(evidence)

    # ---- rows -------------------------------------------------------------------------------

    def choose(self) -> StageResult:
        """The rows that canaries read, and every row that cannot be used with its reason."""
        settings = self.lab.settings
        good = []
        for row in self.rows:
            if reason := empty(row):
                self.dropped.append(DroppedRow(reason, row=row))
            else:
                good.append(row)
        chosen = []
        for row in choose_rows(good, len(good), settings.batch, settings.seed):
            if len(chosen) == settings.rows:
                break  # of a large file only the rows that are read have to fit the model
            if reason := unusable(self.lab.lm, row, settings.max_new_tokens):
                self.dropped.append(DroppedRow(reason, row=row))
            else:
                chosen.append(row)
        if not chosen:
            counts = dict(Counter(d.reason for d in self.dropped))
            raise DataError(f"no row can be used for an audit: {counts}")
        stage = self.opened.stage("rows", {"rows": settings.rows})
        if not stage.done:
            with stage.writing() as folder:
                write_rows(folder / ROWS, chosen, overwrite=True)
                with atomic_lines(folder / "dropped.jsonl", overwrite=True) as write:
                    for row in self.dropped:
                        write(dropped_to_json(row))
        return self.finish(stage)

    def given(self, used: Sequence[Row]) -> list[list[Row]]:
        """Sets of the user's reference rows, each as large as the data's.

        Raises:
            DataError: there are not enough rows for one.
        """
        if self.known is None:
            return []
        settings, lm, n = self.lab.settings, self.lab.lm, len(used)
        good = [r for r in self.known if not (empty(r) or unusable(lm, r, settings.max_new_tokens))]
        if len(good) < n:
            raise DataError(
                f"the reference holds {len(good)} usable rows, the data {n}: as many are needed; "
                "give more, or a smaller --budget"
            )
        mixed = choose_rows(good, len(good), settings.batch, settings.seed)
        sets = min(settings.base_written, len(good) // n)
        return [mixed[k * n : (k + 1) * n] for k in range(sets)]

    def references(
        self, chosen: StageResult, material: Material, used: Sequence[Row], given: list[list[Row]]
    ) -> list[_Reference]:
        """Rows of known writers, on the same prompts unless the user gave them."""
        found = [
            self.written(f"given-{k}", chosen, lambda on, rows=rows: rows)
            for k, rows in enumerate(given)
        ]
        base = [] if given else base_writers(self.lab, self.lab.settings.base_written)
        for writer in [*base, *planted_writers(self.lab)]:

            def write(on: OnRows, writer: Writer = writer) -> list[Row]:
                return writer.write(material, used, on)

            found.append(self.written(writer.name, chosen, write, writer.planted))
        return found

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
                rows = make(lambda done: self.report(stage.name, done, self.lab.settings.rows))
                write_rows(folder / ROWS, rows, overwrite=True)
        result = self.finish(stage)
        return _Reference(name, result, read_back(result), trait)

    # ---- evidence ---------------------------------------------------------------------------

    def canary(
        self, name: str, source: StageResult, material: Material, rows: Sequence[Row]
    ) -> Canary:
        """One canary, read back if it was done."""
        stage = self.opened.stage(f"canary/{name}", {}, [source])
        if not stage.done:
            with stage.writing() as folder:
                total = self.lab.settings.steps(len(rows))[-1]
                found = canary(
                    self.lab, material, rows, seed=self.lab.settings.seed,
                    on_step=lambda step: self.report(stage.name, step, total),
                )  # fmt: skip
                (folder / "shifts.json").write_text(json.dumps(found.shifts.tolist()))
                save_file({"words": found.words}, folder / "words.safetensors")
                stage.note(tokens=found.tokens)
        result = self.finish(stage)
        tokens = int(result.manifest["notes"]["tokens"])
        self.tokens += tokens
        shifts = np.array(json.loads((result.path / "shifts.json").read_text()))
        return Canary(shifts, load_file(result.path / "words.safetensors")["words"], tokens)

    def score(
        self, chosen: StageResult, material: Material, rows: Sequence[Row], clean: Sequence[Row],
        looks: Sequence[Look],
    ) -> list[ScoreTable]:  # fmt: skip
        """For the strongest traits, each row's influence in standard deviations over clean rows.

        None where too few clean rows differ to tell a spread.
        """
        if len(clean) < FEWEST_CLEAN:
            return []
        levels = self.lab.settings.levels(len(rows))
        flagged = list(first_flags(looks, levels))
        order = list(dict.fromkeys([*flagged, *map(int, np.argsort(looks[-1].p))]))[:SCORED]
        names = [self.lab.library.ids[i] for i in order]
        clean = clean[:: max(1, len(clean) // MOST_CLEAN)]
        stage = self.opened.stage("scores", {"traits": names}, [chosen])
        if not stage.done:
            with stage.writing() as folder:
                gradients = Gradients(self.lab)
                total, count = len(self.lab.library.traits), len(rows) + len(clean)
                matrix = trait_gradients(
                    self.lab, gradients, lambda done: self.report("scores", done, 2 * total)
                )[order]
                found = influence(
                    self.lab, material, [*rows, *clean], gradients=gradients, traits=matrix,
                    on_rows=lambda done: self.report("scores", count + done, 2 * count),
                )  # fmt: skip
                own, usual = found[: len(rows)], found[len(rows) :]
                spread = usual.std(0, ddof=1)
                scores = (own - usual.mean(0)) / np.where(spread > 0, spread, np.nan)
                with atomic_lines(folder / "scores.jsonl", overwrite=True) as write:
                    for row, values in zip(rows, scores.tolist(), strict=True):
                        known = [v if np.isfinite(v) else None for v in values]
                        write({"id": row.id, "scores": dict(zip(names, known, strict=True))})
        lines = (self.finish(stage).path / "scores.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        return [
            ScoreTable(
                {r["id"]: r["scores"][name] for r in records}, f"{INFLUENCE}{name}",
                "standard deviations over clean rows", "pulls the base further towards the trait",
            )
            for name in names
            if all(r["scores"][name] is not None for r in records)
        ]  # fmt: skip

    # ---- stages -----------------------------------------------------------------------------

    def finish(self, stage: Stage) -> StageResult:
        """The finished stage, told to whoever watches, its time added up by kind."""
        result = stage.result
        kind = stage.name.partition("/")[0]
        self.seconds[kind] = self.seconds.get(kind, 0.0) + float(result.manifest["seconds"])
        self.report(stage.name, 0, 0)
        return result
