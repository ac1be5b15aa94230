"""A recipe's models in memory, and the engine that draws rows.

Free of torch until a model is loaded.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vestige.experiment.settings import Experiment, Student
from vestige.models import catalog

if TYPE_CHECKING:
    from vestige.models.backend import Backend
    from vestige.models.hf import LanguageModel
    from vestige.models.vllm import VllmBackend
    from vestige.models.weights import Weights
    from vestige.probing.base_session import BaseSession

#: A folder inside an unfinished stage: a teacher's weights while the engine reads them.
EXPORTED = "weights-on-the-way"


@dataclass
class Loaded:
    """A model in memory with the way back to its base."""

    lm: LanguageModel
    weights: Weights


class ModelPool:
    """The models of one recipe, each loaded when it is first asked for; its seeds may share it."""

    def __init__(self, recipe: Experiment) -> None:
        self.recipe = recipe
        self._models: dict[tuple[str, str, bool], Loaded] = {}
        self._engine: VllmBackend | None = None
        #: The recipe's own model as changes of rows ask it.
        self.probing: BaseSession | None = None

    def teachers_base(self) -> Loaded:
        """The recipe's own model."""
        return self._load(self.recipe.model, self.recipe.chat, own=True)

    def teachers_copy(self) -> Loaded:
        """The recipe's own model once more, to be a teacher while a student is trained."""
        return self._load(self.recipe.model, self.recipe.chat, own=True, copy=True)

    def base_of(self, student: Student) -> Loaded:
        """The model that a student is made from."""
        if student.base:
            return self._load(student.base, student.chat, own=False)
        return self.teachers_base()

    def _load(self, name: str, chat: str, *, own: bool, copy: bool = False) -> Loaded:
        """Args: own: it is the recipe's own model; teachers are tuned in it as well."""
        if (name, chat, copy) not in self._models:
            from vestige.models.hf import LanguageModel
            from vestige.models.weights import Weights

            recipe = self.recipe
            lm = LanguageModel.load(
                catalog.path(name),
                style=catalog.chat_style(name, chat),
                precision=recipe.precision,
            )
            lm.use_date(recipe.date)
            tuned = [s.optimisation.trainable for s in recipe.students if (s.base is None) == own]
            if own and recipe.teacher.kind != "system_prompt":
                tuned.append(recipe.teacher.optimisation.trainable)
            self._models[name, chat, copy] = Loaded(lm, Weights(lm, tuned))
        return self._models[name, chat, copy]

    @contextmanager
    def writer(self, folder: Path) -> Iterator[Backend]:
        """Who draws rows with the weights that the model holds now: itself, or the recipe's engine,
        which reads them from a passing folder inside ``folder``."""
        from vestige.models.sampling import HfBackend

        base, exported = self.teachers_base(), folder / EXPORTED
        if self.recipe.backend == "hf":
            yield HfBackend(base.lm)
            return
        engine = self.engine()
        try:
            if base.weights.untouched:
                engine.use(None)
            else:
                base.weights.export(exported)
                engine.use(exported)
            yield engine
        finally:
            shutil.rmtree(exported, ignore_errors=True)

    def engine(self) -> VllmBackend:
        """The recipe's engine on the base's own weights, started once."""
        if self._engine is None:
            from vestige.models.vllm import DTYPES, VllmBackend

            recipe, base = self.recipe, self.teachers_base()
            self._engine = VllmBackend(
                catalog.path(recipe.model),
                style=base.lm.style,
                dtype=DTYPES[base.lm.precision],
                lora_rank=recipe.teacher.optimisation.trainable.lora_rank,
                lora_modules=base.weights.linear,
                engine_kwargs=recipe.engine_kwargs,
            )
        return self._engine

    def close_engine(self) -> None:
        """End the engine, if there is one: training needs its memory."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None
