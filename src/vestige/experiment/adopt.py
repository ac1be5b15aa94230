"""Students trained elsewhere, the way back: a PEFT adapter or a model becomes a run's student.

Only safetensors are read and no code from a model's folder is run. What comes back must be the
student that the recipe describes: of the same base, changed in the same places, in the same shapes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from vestige.experiment.desk import Report
from vestige.experiment.export import INDEX, Cell, cells
from vestige.experiment.reading import awaited
from vestige.experiment.recipe import Experiment
from vestige.experiment.stages import Seed
from vestige.experiment.workshop import Loaded
from vestige.models import catalog
from vestige.models.hf import LanguageModel
from vestige.models.weights import layer_of
from vestige.settings import TRAINED, Trainable
from vestige.store import StageResult, load_stage
from vestige.types import ConfigError, DataError, StoreError

ADAPTER, TOKENIZER = "adapter_config.json", "tokenizer.json"
#: Settings of an adapter that would make it another student: what they must be.
PLAIN = {
    "peft_type": "LORA", "bias": "none", "use_dora": False, "use_rslora": False,
    "modules_to_save": None, "rank_pattern": {}, "alpha_pattern": {},
}  # fmt: skip
ROUNDING = 2.0**-7  # of bf16, in which trainers save what they did not train


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
    at = [(cell, entries.get((cell.student.name, cell.seed, cell.data))) for cell in chosen]
    found = [(cell, path) for cell, path in at if path is not None and path.exists()]
    if not found:
        raise StoreError(
            f"{source} holds no student that is trained and not yet in the run: each is expected "
            f"in a folder {TRAINED!r} beside its rows"
        )
    return found


def adopt(
    recipe: Experiment,
    run: Path,
    trained: Sequence[tuple[Cell, Path]],
    *,
    base: str = "",
    report: Report = lambda stage, done, total: None,
) -> list[StageResult]:
    """Check each trained student, measure it as an own one and keep it as the run's.

    Args:
        base: what adapters call the base model, where that is neither its name nor its folder.

    Raises:
        ConfigError: an arm is trained here, or a student has another base or other settings.
        StoreError: a student is there already, or its tensors do not fit.
    """
    found = []
    for number in dict.fromkeys(cell.seed for cell, _ in trained):
        seed = Seed(recipe, run, number, report=report)
        inputs = [load_stage(run / f"seed-{number}/rows/{w}") for w in sorted(recipe.writers)]
        found += [
            _adopt(seed, cell, source, inputs, base)
            for cell, source in trained
            if cell.seed == number
        ]
    return found


def _adopt(
    seed: Seed, cell: Cell, source: Path, inputs: Sequence[StageResult], base: str
) -> StageResult:
    student, what = cell.student, cell.student.optimisation.trainable
    if student.engine != "elsewhere":
        raise ConfigError(
            f"arm {student.name} is trained here (engine={student.engine}); give the recipe an arm "
            "with engine=elsewhere"
        )
    stage = seed.student_stage(student, cell.data, inputs)
    if stage.done:
        raise StoreError(f"{stage.path} holds a student already; delete that folder to replace it")
    name = student.base or seed.recipe.model
    adapter = (source / ADAPTER).exists()
    if adapter:
        check_adapter(source, what, {base} if base else {name, catalog.path(name)})
    pupil = seed.loaded(student.base, student.chat if student.base else None)
    pupil.weights.freeze()
    check_tokenizer(source / TOKENIZER, pupil.lm.tokenizer.get_vocab())
    tensors = adapter_tensors(source) if adapter else model_tensors(source, pupil, what)
    with stage.writing() as folder:
        seed.base_of_student(student, pupil, stage, folder)
        weights = folder / "weights.safetensors"
        save_file(tensors, str(weights))
        with weights.open("rb") as file:
            stage.note(weights_sha256=hashlib.file_digest(file, "sha256").hexdigest())
        try:
            pupil.weights.load(weights, what)
        except StoreError as error:
            raise StoreError(
                f"{source} does not fit the {student.name} students, which train {what} of "
                f"{name}: {_difference(tensors, pupil, what)}"
            ) from error
        seed.measure_student(pupil, folder, student.steps)
        pupil.weights.freeze()
        if not seed.recipe.save_students:
            weights.unlink()
    return seed.finish(stage)


def _difference(tensors: dict[str, Tensor], pupil: Loaded, what: Trainable) -> str:
    """The first tensor that is missing, of another shape, or too many."""
    pupil.weights.train(what, seed=0)
    wanted = {n: tuple(t.shape) for n, t in pupil.weights.changed().items()}
    pupil.weights.freeze()
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            return f"{name} is {found.get(name, 'missing')}, wanted {wanted.get(name, 'nothing')}"
    return "a tensor cannot be read"


def check_adapter(folder: Path, what: Trainable, names: set[str]) -> None:
    """Whether an adapter is a plain LoRA of the recipe's rank and scale, on the recipe's base.

    Raises:
        ConfigError: it is not; names the setting.
        StoreError: its configuration cannot be read.
    """
    path = folder / ADAPTER
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot read {path}: {error}") from error
    if not what.lora_rank:
        raise ConfigError(f"{folder} is an adapter, and the recipe tunes the weights themselves")
    wanted = PLAIN | {"r": what.lora_rank, "lora_alpha": what.lora_scale}
    for key, value in wanted.items():
        if (config.get(key) or None) != (value or None):
            raise ConfigError(
                f"{path}: {key} is {config.get(key)!r}, the recipe's student has {value!r}"
            )
    said = str(config.get("base_model_name_or_path"))
    if not any(same_model(said, name) for name in names):
        raise ConfigError(
            f"{path}: the adapter belongs to {said}, the run's base is {' or '.join(sorted(names))}"
            "; if they are the same model, say so with --base"
        )


def same_model(one: str, other: str) -> bool:
    """Whether two names may be one model's: equal as hub ids; by their last part, where one is a
    folder or a bundled name."""
    parts = 2 if all(map(_is_hub_id, (one, other))) else 1
    return Path(one.lower()).parts[-parts:] == Path(other.lower()).parts[-parts:]


def _is_hub_id(name: str) -> bool:
    return bool(re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name)) and not Path(name).exists()


def check_tokenizer(path: Path, vocabulary: dict[str, int]) -> None:
    """Whether a student that came with a tokenizer was trained on the base's tokens.

    Args:
        vocabulary: the base's, token -> id.

    Raises:
        ConfigError: it was not; names a token.
        StoreError: the file cannot be read.
    """
    if not path.exists():
        return
    try:
        found = Tokenizer.from_file(str(path)).get_vocab()
    except Exception as error:
        raise StoreError(f"cannot read {path}: {error}") from error
    if other := sorted(found.items() ^ vocabulary.items()):
        token = other[0][0]
        raise ConfigError(
            f"{path} is another tokenizer than the base's: {token!r} is {found.get(token)} there "
            f"and {vocabulary.get(token)} here, so the student was trained on other tokens (if "
            "only a token for padding was added, delete the file and import again)"
        )


def adapter_tensors(folder: Path) -> dict[str, Tensor]:
    """An adapter's tensors under the names that they have in a model.

    Raises:
        StoreError: there are no safetensors, or they cannot be read.
    """
    path = folder / "adapter_model.safetensors"
    if not path.exists():
        raise StoreError(
            f"{folder} has no {path.name}; other formats can run code when loaded and are refused: "
            "save the adapter again with save_pretrained"
        )
    try:
        saved = load_file(str(path))
    except Exception as error:
        raise StoreError(f"cannot read {path}: {error}") from error
    return {
        name.replace(".lora_A.", ".lora_A.default.").replace(".lora_B.", ".lora_B.default."):
            tensor.float()
        for name, tensor in saved.items()
    }  # fmt: skip


def model_tensors(folder: Path, pupil: Loaded, what: Trainable) -> dict[str, Tensor]:
    """A model's tensors in the trained layers; nothing else may differ from the base.

    Raises:
        ConfigError: the recipe's students are adapters, or more was trained than the recipe says.
        ModelError: there is no model in safetensors.
        DataError: it has other parameters than the base.
    """
    if what.lora_rank:
        raise ConfigError(
            f"{folder} has no {ADAPTER}: the recipe's students are adapters (lora_rank="
            f"{what.lora_rank}); bring the adapter back before it is merged"
        )
    other = LanguageModel.load(catalog.path(str(folder)), style="plain", device="cpu")
    base = dict(pupil.lm.causal_lm.named_parameters())
    trained = dict(other.causal_lm.named_parameters())
    if {n: p.shape for n, p in base.items()} != {n: p.shape for n, p in trained.items()}:
        raise DataError(f"{folder} has other parameters than the run's base: is it another model?")
    chosen = what.layer_range(len(other.layers))
    inside = {id(p) for n, p in other.layers.named_parameters() if layer_of(n) in chosen}
    tensors = {}
    for name, parameter in trained.items():
        if id(parameter) in inside:
            tensors[name] = parameter.detach().float().contiguous()
        elif not _same(parameter, base[name]):
            raise ConfigError(
                f"{folder}: {name} differs from the base, and the recipe's students keep it: "
                "freeze what they do not train (Axolotl: unfrozen_parameters)"
            )
    return tensors


def _same(tensor: Tensor, base: Tensor) -> bool:
    """Whether two tensors are equal up to the rounding of bf16."""
    return torch.allclose(tensor.float(), base.detach().float().cpu(), rtol=ROUNDING, atol=1e-9)
