"""Students trained elsewhere, the way back: a PEFT adapter or a model becomes a run's student.

Only safetensors are read and no code from a model's folder is run. What comes back must be the
student that the recipe describes: of the same base, changed in the same places, in the same shapes.
With its tensors in place, Vestige must compute what PEFT or transformers compute for it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from vestige.core.settings import TRAINED, Trainable
from vestige.core.types import ConfigError, StoreError
from vestige.experiment.events import Report, no_report
from vestige.experiment.model_pool import Loaded
from vestige.experiment.run_view import awaited, rows_for, rows_of
from vestige.experiment.seed_context import SeedContext
from vestige.experiment.settings import Experiment
from vestige.experiment.student_stages import student_stage
from vestige.experiment.student_training import (
    UnfinishedStudent,
    measure_own_base,
    measure_student,
)
from vestige.handoff.cells import Cell, cells
from vestige.handoff.export import INDEX
from vestige.handoff.peft_reference import Compared, Reference
from vestige.models import catalog
from vestige.models.adapters import ADAPTER, adapter_tensors, base_names, check_adapter
from vestige.models.loading import load_weights
from vestige.models.whole_models import (
    check_config,
    check_tokenizer,
    names_in_layers,
    trained_tensors,
)
from vestige.store import Stage, StageResult, load_stage
from vestige.store.layout import StageFile
from vestige.traits import family

TOKENIZER = "tokenizer.json"
ENCODED = 64  # rows of a student's data that its tokenizer must encode as the base's does; chosen


def find_trained(
    recipe: Experiment, run: Path, source: Path, wanted: Cell | None, arm: str = ""
) -> list[tuple[Cell, Path]]:
    """Which trained students ``source`` holds: one, or all of an exported folder that are new.

    Args:
        arm: take no other students of an exported folder; empty takes all.

    Raises:
        ConfigError: it is a single student and ``wanted`` does not say which.
        StoreError: it is an exported folder without a student that has been trained and is new.
    """
    index = source / INDEX
    if not index.exists():
        if wanted is None:
            raise ConfigError(
                f"{source} has no {INDEX}, it is one student: say which by --seed and --data "
                "(and --arm where the recipe has several)"
            )
        return [(wanted, source)]
    try:
        entries = {
            (e["arm"], e["seed"], e["data"]): source / e["folder"] / TRAINED
            for e in json.loads(index.read_text(encoding="utf-8"))["students"]
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{index} is corrupt ({error!r}); export again") from error
    missing = awaited(recipe, run)
    chosen = [wanted] if wanted else [c for c in cells(recipe, arm) if c.stage in missing]
    folders = [(cell, entries.get((cell.student.name, cell.seed, cell.data))) for cell in chosen]
    trained = [(cell, path) for cell, path in folders if path is not None and path.exists()]
    if not trained:
        raise StoreError(
            f"{source} holds no student that is trained and not yet in the run: each is expected "
            f"in a folder {TRAINED!r} beside its rows"
        )
    return trained


def adopt(
    recipe: Experiment,
    run: Path,
    trained: Sequence[tuple[Cell, Path]],
    *,
    base: str = "",
    report: Report = no_report,
) -> list[StageResult]:
    """Check each trained student, measure it as an own one and keep it as the run's.

    Args:
        base: what adapters call the base model, where that is neither its name nor its folder.

    Raises:
        ConfigError: an arm is trained here, or a student has another base or other settings.
        ModelError: a student computes otherwise here than where it was trained.
        StoreError: a student is there already, or its tensors do not fit.
    """
    stages = []
    for seed in dict.fromkeys(cell.seed for cell, _ in trained):
        importer = Importer(SeedContext.of(recipe, run, seed, report=report), base)
        stages += [importer.adopt(cell, source) for cell, source in trained if cell.seed == seed]
    return stages


class Importer:
    """Brings the students of one seed back.

    Attributes:
        base: what adapters call the base model; empty: its name or folder.
        inputs: the stages of the seed's rows.
    """

    def __init__(self, context: SeedContext, base: str) -> None:
        self.context, self.base = context, base
        layout, seed = context.layout, context.seed
        self.inputs = [load_stage(layout.rows(seed, w)) for w in sorted(context.recipe.writers)]
        self._references: dict[int, Reference] = {}  # by the model that is compared with them

    def adopt(self, cell: Cell, source: Path) -> StageResult:
        """One student, checked, measured and kept."""
        context, student, trainable = self.context, cell.student, cell.trainable
        stage = self.free_stage(cell)
        name = student.base or context.recipe.model
        adapter = is_adapter(source, trainable)
        if adapter:
            names = base_names(name, self.base)
            check_adapter(source, trainable, names, base_given=bool(self.base))
        base = context.models.base_of(student)
        base.weights.freeze()
        texts = self.texts(cell)
        check_tokenizer(source / TOKENIZER, base.lm.tokenizer, texts)
        if adapter:
            tensors, model = adapter_tensors(source), None
        else:
            model = load_weights(str(source))[0].eval()
            untrained = self.reference(name, base, texts).model
            check_config(source, model.config, untrained.config)
            inside = names_in_layers(base.lm, trainable)
            tensors = trained_tensors(source, model, untrained, inside)

        def make(folder: Path) -> None:
            weights = folder / StageFile.WEIGHTS
            save_file(tensors, str(weights))
            with weights.open("rb") as file:
                stage.note(weights_sha256=hashlib.file_digest(file, "sha256").hexdigest())
            put_in_place(source, tensors, weights, base, cell, name)
            reference = self.reference(name, base, texts)
            stage.note(compared=compare(reference, source, model, weights, trainable).note)
            self.measure(UnfinishedStudent(context, student, base, stage, folder))
            if not context.recipe.save_students:
                weights.unlink()

        return context.once(stage, make)

    def free_stage(self, cell: Cell) -> Stage:
        """The stage of a student that is awaited.

        Raises:
            ConfigError: its arm is trained here.
            StoreError: it is there already.
        """
        student = cell.student
        if student.engine != "elsewhere":
            raise ConfigError(
                f"arm {student.name} is trained here (engine={student.engine}); give the recipe an "
                "arm with engine=elsewhere"
            )
        stage = student_stage(self.context, student, cell.data, self.inputs)
        if stage.done:
            raise StoreError(
                f"{stage.path} holds a student already; delete that folder to replace it"
            )
        return stage

    @staticmethod
    def measure(student: UnfinishedStudent) -> None:
        """Measure the student in memory, and its own base where it has one."""
        measure_student(student)
        student.model.weights.freeze()
        measure_own_base(student)

    def reference(self, name: str, base: Loaded, texts: Sequence[str]) -> Reference:
        """The base as transformers has it, loaded once."""
        if id(base) not in self._references:
            self._references[id(base)] = Reference(name, base, texts)
        return self._references[id(base)]

    def texts(self, cell: Cell) -> list[str]:
        """Held-out questions, and rows that the student was trained on where they are here."""
        recipe, seed = self.context.recipe, self.context.seed
        texts = list(family(recipe.family).heldout)
        if all((stage.path / StageFile.KEPT).exists() for stage in self.inputs):
            matched = rows_of(recipe, self.context.layout.folder, seed)
            rows = rows_for(recipe, matched, cell.data, seed)
            for row in rows[:: max(1, len(rows) // ENCODED)]:
                texts.append(f"{row.messages[-1].content}\n{row.completion}")
        return texts


def is_adapter(source: Path, trainable: Trainable) -> bool:
    """Whether a folder holds an adapter, which is then what is taken, or a whole model.

    Raises:
        ConfigError: it holds neither, or not what the recipe's students are.
        StoreError: there is no such folder.
    """
    if not source.is_dir():
        raise StoreError(f"{source} is no folder; give the one that the trainer wrote")
    if (source / ADAPTER).exists():
        if not trainable.lora_rank and any(source.glob("model*.safetensors")):
            raise ConfigError(
                f"{source} holds a whole model and an adapter, and the recipe's students are whole "
                f"models: take {ADAPTER} and adapter_model.safetensors out of the folder, if the "
                "model is the student without it"
            )
        return True
    if not (source / "config.json").exists():
        inside = sorted(p.parent for n in (ADAPTER, "config.json") for p in source.glob(f"*/{n}"))
        if inside:
            raise ConfigError(
                f"{source} holds no student itself, its folders do: import one of "
                f"{', '.join(map(str, inside))}"
            )
    if trainable.lora_rank:
        merged = "; bring the adapter back before it is merged"
        raise ConfigError(
            f"{source} has no {ADAPTER}: the recipe's students are adapters (lora_rank="
            f"{trainable.lora_rank}){merged if (source / 'config.json').exists() else ''}"
        )
    catalog.path(str(source))  # says what is missing
    return False


def put_in_place(
    source: Path,
    tensors: dict[str, Tensor],
    weights: Path,
    base: Loaded,
    cell: Cell,
    name: str,
) -> None:
    """Load a student's tensors. Raises ``StoreError`` naming those that do not fit."""
    trainable = cell.trainable
    try:
        base.weights.load(weights, trainable)
    except StoreError as error:
        raise StoreError(
            f"{source} does not fit the {cell.student.name} students, which train "
            f"{trainable} of {name}: {_difference(tensors, base, trainable)}"
        ) from error


def compare(
    reference: Reference, source: Path, model: Any, weights: Path, trainable: Trainable
) -> Compared:
    """The student as Vestige has it now and as it was trained.

    Args:
        model: the whole model as transformers has loaded it; None for an adapter.

    Raises:
        ModelError: they differ.
    """
    own = reference.own(weights, trainable)
    if model is None:
        theirs = reference.of_adapter(source)
        return reference.compare(source, "PEFT's own loading of the adapter", theirs, own)
    theirs = reference.plain(model)
    return reference.compare(source, "transformers' own loading of the model", theirs, own)


def _difference(tensors: dict[str, Tensor], base: Loaded, trainable: Trainable) -> str:
    """The first tensors that are missing, of another shape, or too many."""
    base.weights.train(trainable, seed=0)
    wanted = {n: tuple(t.shape) for n, t in base.weights.changed().items()}
    base.weights.freeze()
    given = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    other = [n for n in sorted(wanted.keys() | given.keys()) if wanted.get(n) != given.get(n)]
    if not other:
        return "a tensor cannot be read"
    name = other[0]
    more = f" (and {len(other) - 1} more)" if other[1:] else ""
    saved = name.replace(".default.", ".")  # as it is called in the file
    return f"{saved} is {given.get(name, 'missing')}, wanted {wanted.get(name, 'nothing')}{more}"
