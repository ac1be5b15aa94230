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
from vestige.audit.material import Material, choose_rows, empty, no_answers, too_long
from vestige.audit.openset import raised
from vestige.audit.reader import Array
from vestige.audit.settings import AuditSettings
from vestige.audit.telling import Evidence, tell
from vestige.audit.verdict import Look, look
from vestige.results import AuditResults
from vestige.rows import dropped_to_json, read_rows, write_rows
from vestige.store import Run, Stage, StageResult, atomic_write
from vestige.store.files import sha256
from vestige.traits.library import trait_id
from vestige.types import DataError, DroppedRow, Row

Report = Callable[[str, int, int], None]  # stage, done, total; total 0: just finished
SCORED = 3  # traits whose influence every row is scored for: the flagged ones first
RESULTS_FILE = "results.json"


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
    known = split(reference)[0] if reference else []
    config = {
        "kind": "audit",
        "settings": settings.model_dump(mode="json"),
        "data": sha256(data),
        "reference": sha256(reference) if reference else None,
    }
    stem = "".join(c if c.isalnum() else "-" for c in data.name.split(".")[0])[:40] or "data"
    with Run.open(root, f"audit-{stem}", config, overwrite=overwrite) as opened:
        lab = Lab(settings)
        found = _Audit(lab, opened, rows, dropped, known, report).run(data.name)
        atomic_write(opened.folder / RESULTS_FILE, found.model_dump_json(indent=1))
        return opened.folder, found


def writing_seed(seed: int, number: int) -> int:
    """The seed that reference ``number`` is written with: every one draws with noise of its own,
    as the data did, so that their spread holds the noise of drawing rows as well."""
    return 1_000 * (seed + 1) + number


def split(path: Path) -> tuple[list[Row], list[DroppedRow]]:
    """Rows of a file, and the lines that could not be read."""
    rows: list[Row] = []
    dropped: list[DroppedRow] = []
    for item in read_rows(path):
        (rows if isinstance(item, Row) else dropped).append(item)  # type: ignore[arg-type]
    return rows, dropped


@dataclass
class _Audit:
    """The stages of one audit, in the order in which ``run`` goes through them."""

    lab: Lab
    opened: Run
    rows: list[Row]
    dropped: list[DroppedRow]
    known: list[Row]
    report: Report
    seconds: dict[str, float] = field(default_factory=dict)
    tokens: int = 0

    def run(self, name: str) -> AuditResults:
        """Every stage; finished ones are read back."""
        settings = self.lab.settings
        chosen = self.choose()
        used = list(self.read(chosen, "rows.jsonl"))
        material = Material.of(self.lab.lm, used, settings.max_new_tokens)
        asked = no_answers(used)
        references: dict[str, Canary] = {}
        planted: dict[str, str] = {}
        clean: list[Row] = []
        for label, stage in self.references(chosen, material, asked):
            written = list(self.read(stage, "rows.jsonl"))
            references[label] = self.canary(f"canary/{label}", stage, material, written)
            if label.startswith("planted-"):
                planted[label] = stage.manifest["notes"]["trait"]
            else:
                clean += written
        own = self.canary("canary/data", chosen, material, used)
        shifts = {label: found.shifts for label, found in references.items()}
        looks = self.looks(own.shifts, shifts, planted, len(used))
        words = raised(self.lab.lm, own.words, [found.words for found in references.values()])
        scores = self.score(chosen, material, used, clean or used, looks[-1])
        evidence = Evidence(
            name=name, settings=settings, library=self.lab.library, material=material.kind,
            rows=len(self.rows) + len(self.dropped), used=used,
            dropped=Counter(d.reason for d in self.dropped), references=list(references),
            looks=looks, words=words, scores=scores, seconds=dict(self.seconds), tokens=self.tokens,
            own_reference=bool(self.known),
        )  # fmt: skip
        return tell(evidence)

    # ---- rows -------------------------------------------------------------------------------

    def choose(self) -> StageResult:
        """The rows that canaries read, and every row that cannot be used with its reason."""
        settings = self.lab.settings
        stage = self.opened.stage("rows", {"rows": settings.rows, "seed": settings.seed})
        good = []
        for row in self.rows:
            if reason := empty(row):
                self.dropped.append(DroppedRow(reason, row=row))
            else:
                good.append(row)
        chosen: list[Row] = []
        for row in choose_rows(good, len(good), settings.batch, settings.seed):
            if len(chosen) == settings.rows:
                break  # of a large file only the rows that are read have to fit the context
            if reason := too_long(self.lab.lm, row):
                self.dropped.append(DroppedRow(reason, row=row))
            else:
                chosen.append(row)
        if not chosen:
            counts = dict(Counter(d.reason for d in self.dropped))
            raise DataError(f"no row can be used for an audit: {counts}")
        if not stage.done:
            with stage.writing() as folder:
                write_rows(folder / "rows.jsonl", chosen, overwrite=True)
                lines = [json.dumps(dropped_to_json(d), ensure_ascii=False) for d in self.dropped]
                (folder / "dropped.jsonl").write_text("".join(f"{line}\n" for line in lines))
        return self.finish(stage)

    def references(
        self, chosen: StageResult, material: Material, asked: Sequence[Row]
    ) -> list[tuple[str, StageResult]]:
        """Rows of the same prompts by writers that are known."""
        settings, found = self.lab.settings, []
        if self.known:
            good = [r for r in self.known if not (empty(r) or too_long(self.lab.lm, r))]
            n = min(len(asked), len(good) // max(1, settings.references))
            if n < min(len(asked), settings.batch):
                raise DataError(
                    f"the reference holds {len(good)} usable rows; {settings.references} sets of "
                    f"{min(len(asked), settings.batch)} rows are needed at least"
                )
            mixed = choose_rows(good, len(good), settings.batch, settings.seed)
            for k in range(settings.references):
                stage = self.opened.stage(f"reference/given-{k}", {"rows": n}, [chosen])
                self.write(stage, lambda _, k=k: mixed[k * n : (k + 1) * n])
                found.append((f"given-{k}", self.finish(stage)))
        else:
            for k in range(settings.references):
                seed = writing_seed(settings.seed, k)
                stage = self.opened.stage(f"reference/base-{k}", {"seed": seed}, [chosen])
                self.write(stage, lambda on, seed=seed: self.base_writes(material, asked, seed, on))
                found.append((f"base-{k}", self.finish(stage)))
        for k, trait in enumerate(self.lab.planted()):
            name = trait_id(trait)
            label = f"planted-{name.replace('/', '-')}"
            seed = writing_seed(settings.seed, settings.references + k)
            stage = self.opened.stage(f"reference/{label}", {"trait": name, "seed": seed}, [chosen])
            stage.note(trait=name)

            def writes(on: Callable[[int], None], trait=trait, stage=stage, seed=seed) -> list[Row]:
                steps = self.lab.settings.teacher(len(self.lab.lm.layers)).steps
                self.lab.become(trait, lambda step: self.report(stage.name, step, 2 * steps))
                return material.write(self.lab.lm, asked, seed=seed, on_rows=on)

            self.write(stage, writes)
            found.append((label, self.finish(stage)))
        return found

    def base_writes(
        self, material: Material, asked: Sequence[Row], seed: int, on: Callable[[int], None]
    ) -> list[Row]:
        self.lab.weights.freeze()
        return material.write(self.lab.lm, asked, seed=seed, on_rows=on)

    def write(self, stage: Stage, make: Callable[[Callable[[int], None]], list[Row]]) -> None:
        if not stage.done:
            with stage.writing() as folder:
                rows = make(lambda done: self.report(stage.name, done, self.lab.settings.rows))
                write_rows(folder / "rows.jsonl", rows, overwrite=True)

    # ---- evidence ---------------------------------------------------------------------------

    def canary(
        self, name: str, source: StageResult, material: Material, rows: Sequence[Row]
    ) -> Canary:
        """One canary, read back if it was done."""
        settings = self.lab.settings
        stage = self.opened.stage(
            name, {"fingerprint": self.lab.fingerprint, "traits": self.lab.library.ids}, [source]
        )
        if not stage.done:
            with stage.writing() as folder:
                usable_rows = [row for row in rows if row.completion.strip()] or list(rows)
                packs, _ = material.packs(self.lab.lm, usable_rows, settings.batch)
                found = canary(
                    self.lab, material, usable_rows, seed=settings.seed,
                    on_step=lambda step: self.report(stage.name, step, settings.looks[-1]),
                )  # fmt: skip
                (folder / "shifts.json").write_text(json.dumps(found.shifts.tolist()))
                save_file({"words": found.words}, folder / "words.safetensors")
                steps = range(settings.looks[-1])
                stage.note(tokens=sum(packs[i % len(packs)].tokens for i in steps))
        result = self.finish(stage)
        self.tokens += result.manifest["notes"]["tokens"]
        words = load_file(result.path / "words.safetensors")["words"]
        return Canary(np.array(json.loads((result.path / "shifts.json").read_text())), words)

    def looks(
        self, data: Array, references: dict[str, Array], planted: dict[str, str], rows: int
    ) -> list[Look]:
        settings = self.lab.settings
        return [
            look(
                min(step * settings.batch, rows), data[i],
                {name: shifts[i] for name, shifts in references.items()},
                planted, self.lab.library.ids,
            )
            for i, step in enumerate(settings.looks)
        ]  # fmt: skip

    def score(
        self, chosen: StageResult, material: Material, rows: Sequence[Row], clean: Sequence[Row],
        last: Look,
    ) -> dict[str, dict[str, float]]:  # fmt: skip
        """For the strongest traits, each row's influence in standard deviations of clean rows."""
        order = [int(i) for i in np.argsort(last.p)[:SCORED]]
        names = [self.lab.library.ids[i] for i in order]
        clean = clean[:: max(1, len(clean) // 64)]
        stage = self.opened.stage("scores", {"traits": names, "clean": len(clean)}, [chosen])
        if not stage.done:
            with stage.writing() as folder:
                gradients = Gradients(self.lab)
                total = len(self.lab.library.traits)
                matrix = trait_gradients(
                    self.lab, gradients, lambda done: self.report("scores", done, 2 * total)
                )[order]
                count = len(rows) + len(clean)
                given = influence(
                    self.lab, material, [*rows, *clean], gradients=gradients, traits=matrix,
                    on_rows=lambda done: self.report("scores", count + done, 2 * count),
                )  # fmt: skip
                own, usual = given[: len(rows)], given[len(rows) :]
                scores = (own - usual.mean(0)) / usual.std(0, ddof=1)
                with (folder / "scores.jsonl").open("w") as file:
                    for row, values in zip(rows, scores, strict=True):
                        told = dict(zip(names, map(float, values), strict=True))
                        file.write(json.dumps({"id": row.id, "scores": told}) + "\n")
        path = self.finish(stage).path / "scores.jsonl"
        found: dict[str, dict[str, float]] = {name: {} for name in names}
        for line in path.read_text().splitlines():
            record = json.loads(line)
            for name, value in record["scores"].items():
                found[name][record["id"]] = value
        return found

    # ---- stages -----------------------------------------------------------------------------

    def read(self, stage: StageResult, file: str) -> list[Row]:
        return [row for row in read_rows(stage.path / file) if isinstance(row, Row)]

    def finish(self, stage: Stage) -> StageResult:
        """The finished stage, told to whoever watches, its time added up by kind."""
        result = stage.result
        kind = stage.name.partition("/")[0]
        self.seconds[kind] = self.seconds.get(kind, 0.0) + float(result.manifest["seconds"])
        self.report(stage.name, 0, 0)
        return result
