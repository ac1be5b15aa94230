"""What the stages of a seed that need a model in memory work with: models, samples, packs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from vestige.core.types import Row
from vestige.experiment.recipe import Student
from vestige.experiment.seed_context import Desk
from vestige.experiment.support import append_rows, whole_rows
from vestige.models import catalog
from vestige.models.backend import Backend, SampleRequest
from vestige.models.grammar import Automaton, compile_grammar
from vestige.models.hf import LanguageModel
from vestige.models.sampling import HfBackend, symbol_ids
from vestige.models.weights import Weights
from vestige.store import Stage, StageResult
from vestige.student.packs import Example, Pack, encode_grammar_rows, encode_rows, make_packs

if TYPE_CHECKING:
    from vestige.models.vllm import VllmBackend


@dataclass
class Loaded:
    """A model in memory with the way back to its base."""

    lm: LanguageModel
    weights: Weights


@dataclass
class Workshop(Desk):
    """One seed's models and data, loaded and made when they are first asked for."""

    _models: dict[tuple[str, str], Loaded] = field(default_factory=dict)
    _engine: VllmBackend | None = None

    def loaded(self, base: str | None = None, chat: str | None = None) -> Loaded:
        """The recipe's model (or another base), loaded once."""
        key = (base or self.recipe.model, chat or self.recipe.chat)
        if key not in self._models:
            name, style = key
            lm = LanguageModel.load(
                catalog.path(name),
                style=catalog.chat_style(name, style),
                precision=self.recipe.precision,
            )
            lm.use_date(self.recipe.date)
            recipe, own = self.recipe, base is None
            tuned = [s.optimisation.trainable for s in recipe.students if (s.base is None) == own]
            if own and recipe.teacher.kind != "system_prompt":
                tuned.append(recipe.teacher.optimisation.trainable)
            self._models[key] = Loaded(lm, Weights(lm, tuned))
        return self._models[key]

    def automaton(self) -> Automaton:
        grammar = self.recipe.carrier.sampling_grammar()
        assert grammar is not None  # only asked for where there is one
        return compile_grammar(grammar.next_chars, grammar.state)

    def ids(self, lm: LanguageModel, texts: Sequence[str], system: str = "") -> list[list[int]]:
        """Prompt token ids; equal neighbours are encoded once."""
        known: dict[str, list[int]] = {}
        for text in texts:
            if text not in known:
                known[text] = lm.question_ids(text, system) + self.lead(lm)
        return [known[text] for text in texts]

    def lead(self, lm: LanguageModel) -> list[int]:
        """What stands between a prompt and a number: the space before an answer, if any."""
        if not lm.lead or self.recipe.carrier.sampling_grammar() is None:
            return []
        return lm.answer_ids("1")[: -len(lm.token_ids("1"))]

    def sample(
        self, lm: LanguageModel, stage: Stage, out: Path, system: str = "",
        part: tuple[int, int] = (0, 1),
    ) -> list[Row]:  # fmt: skip
        """One completion for each row, written to ``out`` as it goes; an earlier part is kept.

        Args:
            part: (k, n): of the rows, the k-th of n parts; batches are whole in each, so that rows
                are the same in any number of parts.
        """
        wanted = self.blank_rows()
        with self.writer(out.parent) as writer:
            stage.note(writer=writer.facts)
            batches = -(-len(wanted) // writer.batch)
            first, last = (batches * k // part[1] * writer.batch for k in (part[0], part[0] + 1))
            last = min(last, len(wanted))
            rows = whole_rows(out, writer.batch, last - first)
            for at in range(first + len(rows), last, writer.batch):
                drawn = self.draw(writer, lm, wanted[at : at + writer.batch], system, at)
                append_rows(out, drawn)
                rows += drawn
                self.report(stage.name, len(rows), last - first)
            append_rows(out, [])  # a part of no rows has a file, too
        return rows

    def draw(
        self, writer: Backend, lm: LanguageModel, rows: Sequence[Row], system: str, at: int
    ) -> list[Row]:
        """``rows``, which begin with number ``at`` of their data set, with their completions."""
        if self.recipe.carrier.sampling_grammar() is None:
            texts = self.sample_freely(writer, lm, rows, system, self.seed * 1_000_003 + at)
        else:
            automaton, longest = self.automaton(), self.recipe.carrier.longest
            prompts = self.ids(lm, [row.messages[-1].content for row in rows], system)
            texts = writer.sample(
                [
                    SampleRequest(prompt, self.seed, number, longest, grammar=automaton)
                    for number, prompt in enumerate(prompts, at)
                ]
            )
        return [replace(row, completion=text) for row, text in zip(rows, texts, strict=True)]

    def sample_freely(
        self, writer: Backend, lm: LanguageModel, rows: Sequence[Row], system: str, seed: int
    ) -> list[str]:
        """Free answers, each with its opening if it has one."""
        carrier = self.recipe.carrier
        prompts = self.ids(lm, [row.messages[-1].content for row in rows], system)
        openings = [str(row.meta.get("opening", carrier.opening)) for row in rows]
        leads = [lm.answer_ids(text) if text else [] for text in openings]
        found = writer.sample(
            [
                SampleRequest([*prompt, *lead], seed, i, carrier.max_new_tokens, carrier.lines)
                for i, (prompt, lead) in enumerate(zip(prompts, leads, strict=True))
            ]
        )
        return [begun + text for begun, text in zip(openings, found, strict=True)]

    @contextmanager
    def writer(self, folder: Path) -> Iterator[Backend]:
        """Who draws rows with the weights that the model holds now: itself, or the recipe's engine,
        which reads them from a passing folder inside ``folder``."""
        base, exported = self.loaded(), folder / "weights-on-the-way"
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

            recipe, lm = self.recipe, self.loaded().lm
            self._engine = VllmBackend(
                catalog.path(recipe.model),
                style=lm.style,
                dtype=DTYPES[lm.precision],
                lora_rank=recipe.teacher.optimisation.trainable.lora_rank,
                lora_modules=self.loaded().weights.linear,
                engine_kwargs=recipe.engine_kwargs,
            )
        return self._engine

    def close_engine(self) -> None:
        """End the engine, if there is one: training needs its memory."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def with_teacher(self, name: str, teacher: StageResult) -> tuple[Loaded, str]:
        """The recipe's model turned into a teacher, and the system prompt it needs."""
        base = self.loaded()
        if self.recipe.teacher.kind == "system_prompt":
            base.weights.freeze()
        else:
            base.weights.load(
                teacher.path / "weights.safetensors", self.recipe.teacher.optimisation.trainable
            )
        return base, self.system(self.trait_of(name))

    def grammar_packs(
        self,
        lm: LanguageModel,
        rows: Sequence[Row],
        batch: int,
        automaton: Automaton,
        *,
        system: str = "",
        prompts: int = 1,
    ) -> list[Pack]:
        asked = self.ids(lm, [row.messages[-1].content for row in rows], system)
        examples = encode_grammar_rows(lm, asked, [r.completion for r in rows], automaton)
        ids = symbol_ids(lm, automaton)
        return make_packs(examples, batch, prompts=prompts, automaton=automaton, ids=ids)

    def row_packs(
        self, student: Student, lm: LanguageModel, data: Sequence[Row]
    ) -> tuple[list[Pack], Tensor | None]:
        how = student.optimisation
        if self.recipe.carrier.sampling_grammar():
            automaton = self.automaton()
            packs = self.grammar_packs(
                lm, data, how.batch, automaton, prompts=how.prompts_per_batch
            )
            return packs, symbol_ids(lm, automaton)
        asked = self.ids(lm, [row.messages[-1].content for row in data])
        examples: list[Example] = encode_rows(lm, asked, [row.completion for row in data])
        return make_packs(examples, how.batch, prompts=how.prompts_per_batch), None
