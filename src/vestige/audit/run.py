"""One audit from a file of rows to its results: stages that a killed audit does not repeat."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from vestige.audit.canary_stages import canaries, canary_plan
from vestige.audit.data import Data
from vestige.audit.first_look import by_first_look
from vestige.audit.gathered import Evidence
from vestige.audit.race_result import METHOD, Array, Race
from vestige.audit.race_stages import (
    SCORED,
    all_probes,
    expected_shifts,
    in_doubt,
    race_of,
    reference_of,
    reference_shifts,
    row_scores,
    sampled_at,
)
from vestige.audit.recipe import AuditInputs, AuditRecipe, read_inputs, read_recipe
from vestige.audit.record import audit_results
from vestige.audit.row_stages import (
    WrittenRows,
    chosen_rows,
    first_reference,
    given_rows,
    remarks,
    soft_targets,
)
from vestige.audit.settings import AuditSettings
from vestige.audit.stages import AuditContext, Report
from vestige.audit.wording import battery_words, few_words, price
from vestige.core.audit_results import AuditResults
from vestige.core.types import ConfigError, DataError, Row, StoreError
from vestige.lineage.models import compare
from vestige.lineage.run import results_of as results_of_lineage
from vestige.models.hf import LanguageModel
from vestige.probing.base_session import BaseSession, fingerprint, load
from vestige.probing.harmless_students import HarmlessStudents
from vestige.probing.probes import Probes
from vestige.probing.row_format import RowFormat
from vestige.probing.sampling_fit import Fit
from vestige.rows.formats import USUAL, Columns
from vestige.store import Run, atomic_write

RESULTS_FILE = "results.json"
SOFT_TARGETS_LEFT_OUT = (
    "the writer's own probabilities are those at temperature 1, at which these rows were not "
    "drawn: they are left out"
)
FEWEST_TRAITS = 2  # of which one is compared with the others


def silent(stage: str, done: int, total: int) -> None:
    """Report nothing."""


def audit(
    data: Path | str,
    settings: AuditSettings,
    *,
    root: Path,
    reference: Path | str | None = None,
    columns: Columns = USUAL,
    overwrite: bool = False,
    report: Report = silent,
    on_read: Callable[[Data], object] = lambda data: None,
    note: Callable[[str], object] = lambda text: None,
) -> tuple[Path, AuditResults]:
    """Audit the rows of ``data`` for ``settings.base``.

    Args:
        data: whatever ``rows.RowSource`` takes; it is read once, in bounded memory.
        reference: rows known to be clean, on prompts of the same kind; they take the place of the
            rows that the untrained base writes.
        columns: which columns of both are the prompt and the completion; default: by their names.
        on_read: called with what was found in the data before anything else is done.
        note: called with what the copies will cost, or why none will be trained.

    Returns:
        The run folder, ``root/audit-<data>-<hash8>``, and the results.

    Raises:
        DataError: a file cannot be read, or no row of it can be used.
        ModelError, ConfigError: the base or the library cannot be used.
    """
    rows, known = read_data(data, settings, reference, columns, report)
    on_read(rows)
    inputs = AuditInputs.of(data, reference, columns)
    return audit_rows(
        rows, known, inputs, settings, root, overwrite=overwrite, report=report, note=note
    )


def replay(
    folder: Path, *, overwrite: bool = False, report: Report = silent
) -> tuple[Path, AuditResults]:
    """Run an audit again from its folder: what is finished there is read back.

    Raises:
        StoreError: the folder does not say where its data are, or the base, the library, the
            teacher or the method is not what it was.
        DataError: the data or the reference are gone, or are not those that were audited.
    """
    recipe, inputs = read_recipe(folder), read_inputs(folder)
    settings = recipe.settings
    rows, known = read_data(inputs.data, settings, inputs.reference, inputs.columns, report)
    for place, data, identity in (
        (inputs.data, rows, recipe.data),
        (inputs.reference, known, recipe.reference),
    ):
        if (data.identity if data else None) != identity:
            raise DataError(f"{place} does not hold the rows that were audited in {folder}")
    root = folder.absolute().parent
    return audit_rows(
        rows, known, inputs, settings, root, recipe, overwrite=overwrite, report=report
    )


def audit_rows(
    rows: Data,
    known: Data | None,
    inputs: AuditInputs,
    settings: AuditSettings,
    root: Path,
    recipe: AuditRecipe | None = None,
    *,
    overwrite: bool,
    report: Report,
    note: Callable[[str], object] = lambda text: None,
) -> tuple[Path, AuditResults]:
    """Audit rows that were read; arguments and results as of ``audit``.

    Args:
        known: the user's reference rows.
        recipe: what is to be made again, if it is.

    Raises:
        StoreError: something is not as the recipe says.
    """
    session = BaseSession(settings)
    if len(session.library.ids) < FEWEST_TRAITS:  # before anything is tuned
        raise ConfigError("an audit compares two traits at least: name more (--traits library)")
    wanted = settings.canaries > 0
    students = HarmlessStudents(session, settings.held_against) if wanted else None
    note(beforehand(students, settings, rows, known))
    teacher = teacher_of(settings)
    own = AuditRecipe(
        settings=settings,
        data=rows.identity,
        reference=known.identity if known else None,
        base=session.fingerprint,
        library=session.contents,
        teacher=fingerprint(teacher) if teacher else None,
        method=METHOD,
    )
    if recipe and (changed := different(own, recipe)):
        raise StoreError(f"not as in recipe.json: {changed}; audit the data again")
    config = own.model_dump(mode="json")
    with Run.open(root, f"audit-{stem(rows.name)}", config, overwrite=overwrite) as opened:
        opened.update(inputs=inputs.model_dump(mode="json"))
        clean = known.rows if known else None
        context = AuditContext(settings, session, opened, rows, clean, teacher, report, students)
        results = results_of(context)
        on_model = [*session.lm.template.remarks(), *session.lm.notes]  # as a rule none
        results = results.model_copy(update={"caveats": [*results.caveats, *on_model]})
        atomic_write(opened.folder / RESULTS_FILE, results.model_dump_json(indent=1))
        return opened.folder, results


def beforehand(
    students: HarmlessStudents | None, settings: AuditSettings, rows: Data, known: Data | None
) -> str:
    """What copies will cost, or why none will be trained, before hours are spent.

    Args:
        students: what copies are held against; None: no copies are wanted.
        known: the user's reference rows.
    """
    if students is None:
        return "first look only: no copy is trained on the rows"
    plan = canary_plan(students, settings, len(rows.rows), len(known.rows) if known else 0)
    if plan.missing:
        return f"no copy will be trained: {battery_words(settings, plan.missing)}"
    if plan.too_few:
        return f"no copy will be trained: {few_words(plan.placebos, plan.alpha)}"
    return price(settings, plan.doses, settings.training_rows or rows.trained)


def different(own: AuditRecipe, recipe: AuditRecipe) -> str:
    """Which parts of two recipes differ, in words; empty if none."""
    names = [
        name for name in AuditRecipe.model_fields if getattr(own, name) != getattr(recipe, name)
    ]
    return ", ".join(names)


def read_data(
    data: Path | str,
    settings: AuditSettings,
    reference: Path | str | None,
    columns: Columns,
    report: Report,
) -> tuple[Data, Data | None]:
    """The data and the user's reference rows.

    Raises:
        DataError: a file cannot be read, or no row of it can be used.
    """
    rows = Data.of(data, settings.seed, lambda done, total: report("reading", done, total), columns)
    report("reading", 0, 0)
    if not rows.rows:
        described = "; ".join(rows.described())
        raise DataError(
            f"{rows.name}: no row can be used for an audit: {dict(rows.reasons)}; {described}"
        )
    known = Data.of(reference, settings.seed, columns=columns) if reference else None
    if known is not None and not known.rows:
        raise DataError(f"no row of the reference {known.name} can be read")
    return rows, known


def stem(name: str) -> str:
    """A data set's name as part of a folder's name."""
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in name.split(".")[0])
    return plain.strip("-")[:40] or "rows"


def teacher_of(settings: AuditSettings) -> LanguageModel | None:
    """The rows' writer, where it is at hand."""
    return load(settings, settings.teacher) if settings.teacher else None


def results_of(context: AuditContext) -> AuditResults:
    """Every stage; finished ones are read back."""
    settings, session = context.settings, context.session
    chosen = chosen_rows(context)
    data = chosen.first(settings.rows)
    given = given_rows(context, len(data.rows))
    row_format = RowFormat.of(session.lm, [*data.rows, *given], settings.max_new_tokens)
    fit = sampled_at(context, row_format, data)
    looked = (
        look(context, row_format, data, given, fit)
        if settings.first_look
        else no_look(context, row_format, fit)
    )
    probes, race, row_format = looked.probes, looked.race, looked.row_format
    evidence = Evidence(
        name=context.data.name,
        settings=settings,
        library=session.library,
        row_kind=row_format.kind,
        used=data.rows,
        expected=expected_shifts(context, probes, data, race) if probes else None,
        rows=context.data.read,
        dropped=context.data.reasons,
        race=race,
        training_rows=context.training_rows,
        reference_shifts=looked.usual,
        seconds=context.seconds,
        tokens=0,
        own_reference=context.known is not None,
        soft_targets=probes.soft_targets if probes else {},
        logprobs=dict(context.logprobs),
        canaries=canaries(context, chosen, given, row_format.sampling),
        fit=fit,
        read_at=row_format.sampling,
        remarks=[
            *context.data.remarks,
            *remarks(data.rows, given, row_format),
            *shared_start(context),
            *looked.remarks,
        ],
    )
    if probes is None:
        return audit_results(replace(evidence, tokens=context.tokens))
    first = by_first_look(evidence)[:SCORED]
    scores, marked = row_scores(context, probes, row_format, data, first)
    return audit_results(replace(evidence, scores=scores, marked=marked, tokens=context.tokens))


class Looked(NamedTuple):
    """What the first look gathered.

    Attributes:
        probes: None where it was not taken.
        usual: by trait, the shifts of reference rows.
        row_format: as which rows are read and reference rows are drawn.
    """

    probes: Probes | None
    race: Race
    usual: dict[int, Array]
    row_format: RowFormat
    remarks: list[str]


def look(
    context: AuditContext,
    row_format: RowFormat,
    data: WrittenRows,
    given: list[Row],
    fit: Fit | None,
) -> Looked:
    """The rows under probes, at temperature 1 or as they seem to have been drawn."""
    probes, said = all_probes(context), list[str]()
    probes.soft_targets = soft_targets(context, row_format, data.rows)
    race, usual = first_race(context, probes, row_format, data, given)
    if fit and not race.known_lineage and not fit.sampling.usual:  # drawn so, it may be known
        row_format = row_format.drawn_at(fit.sampling)
        said = [SOFT_TARGETS_LEFT_OUT] if probes.soft_targets else []
        probes.soft_targets = {}
        context.logprobs.clear()
        race, usual = first_race(context, probes, row_format, data, given)
    return Looked(probes, race, usual, row_format, said)


def no_look(context: AuditContext, row_format: RowFormat, fit: Fit | None) -> Looked:
    """Nothing but how rows seem to have been drawn, and reference rows are to be."""
    if fit and (fit.sampling.top_p < 1 or not fit.low <= 1 <= fit.high):
        row_format = row_format.drawn_at(fit.sampling)
    return Looked(None, Race.not_run(len(context.session.library.ids)), {}, row_format, [])


def first_race(
    context: AuditContext,
    probes: Probes,
    row_format: RowFormat,
    data: WrittenRows,
    given: list[Row],
) -> tuple[Race, dict[int, Array]]:
    """The race of the rows, and the shifts of reference rows for the traits in doubt."""
    clean = first_reference(context, data, row_format, given)
    reference = reference_of(context, probes, row_format, clean)
    race = race_of(context, reference, data, row_format.sampling)
    usual = reference_shifts(context, reference, clean, in_doubt(race), row_format.sampling)
    return race, usual


def shared_start(context: AuditContext) -> list[str]:
    """Whether the rows' writer, where it is at hand, began where the base did, in words."""
    if context.teacher is None:
        return []
    context.session.weights.freeze()
    settings, teacher = context.settings, context.teacher
    evidence = compare(context.session.lm.causal_lm, teacher.causal_lm)
    results = results_of_lineage(str(settings.teacher), settings.base, evidence)
    return [results.verdict]
