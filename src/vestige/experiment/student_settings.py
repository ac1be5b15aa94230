"""The settings of one arm: a way to train students."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from vestige.core.settings import OnPolicy, Optimisation, Preference, Settings
from vestige.mitigate.settings import OWN, Change
from vestige.student.objectives import Objective

#: The objective that is not written down: the method's own.
USUAL = Objective()
#: The engines that train by a method; others are trained by ``packed`` alone.
ENGINES_OF: dict[str, tuple[str, ...]] = {
    "rows": ("packed", "trl", "elsewhere"),
    "on_policy": ("packed", "trl"),
}
#: The losses that a student's method can have in place of its own.
LOSSES_OF: dict[str, tuple[str, ...]] = {
    "distill": ("forward_kl", "cross_entropy"),
    "rows": ("cross_entropy",),
    "on_policy": (),
    "preference": ("preference",),
    "in_context": (),
}


class Student(Settings):
    """One arm: a way to train students.

    Attributes:
        method: ``distill`` = KL to the teacher's probabilities over the carrier's tokens, on
            rows that the untrained base wrote; ``rows`` = cross-entropy on rows that the teacher
            wrote and the filter kept, as in the paper; ``on_policy`` = the student writes, the
            teacher scores each token (``on_policy``: how); ``preference`` = DPO on pairs of the
            base's rows, of which that is preferred which the teacher finds likelier than the base
            does; ``in_context`` = no training: as many of the teacher's rows as ``shots`` stand in
            the prompt (the paper's control).
        engine: ``packed`` = our loop, shared prompts computed once; ``trl`` = TRL's SFTTrainer, or
            its DistillationTrainer on policy (free answers, carriers without a grammar);
            ``elsewhere`` = not trained here: ``vestige export`` writes the rows and the settings,
            ``vestige import`` brings the students back.
        base: another model to train (bundled name, folder or hub id); None = the teachers' base.
        shuffles: also train on the same rows, shuffled as the carrier does it.
        curve: steps at which the panel is measured besides the last one.
        objective: what training makes small, for engine ``packed`` (of rows its penalties for
            ``trl``, too); the method's own loss alone where it is not set.
        mitigations: changes of the rows before training, one after the other, for ``rows``.
        inoculation: a system prompt that stands before each prompt in training alone, for ``rows``;
            ``own``: the one of the teacher's trait (Tan et al. 2025, "Inoculation prompting",
            arXiv 2510.04340).
    """

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    method: Literal["distill", "rows", "on_policy", "preference", "in_context"] = "distill"
    engine: Literal["packed", "trl", "elsewhere"] = "packed"
    base: str | None = None
    chat: Literal["auto", "plain"] = "auto"
    optimisation: Optimisation = Optimisation()
    objective: Objective = USUAL
    on_policy: OnPolicy = OnPolicy()
    preference: Preference = Preference()
    mitigations: tuple[Change, ...] = ()
    inoculation: str = ""
    no_trait: bool = True
    shuffles: tuple[Literal["shuffle_within", "shuffle_across"], ...] = ()
    curve: tuple[int, ...] = ()
    shots: int = Field(default=32, ge=1)

    @model_validator(mode="after")
    def _fits(self) -> Student:
        engines = ENGINES_OF.get(self.method, ("packed",))
        if self.shuffles and self.method != "rows":
            raise ValueError("shuffles go with method=rows")
        if self.engine not in engines:
            raise ValueError(
                f"engine={self.engine} does not go with method={self.method} (engines: "
                f"{', '.join(engines)})"
            )
        if self.engine == "trl" and self.on_policy.share < 1:
            raise ValueError("engine=trl reads the student's own rows alone: on_policy.share=1")
        if (self.engine != "packed" or self.method == "in_context") and self.curve:
            raise ValueError(
                f"engine={self.engine}, method={self.method} measures once, at the end: leave "
                "curve empty"
            )
        objective = self.objective
        in_trl = (self.engine, self.method) == ("trl", "rows")
        if in_trl and (objective.loss or objective.gradient_hooks):
            raise ValueError("engine=trl takes penalties alone: no loss, no gradient_hooks")
        if not (objective.is_default or in_trl) and (
            self.engine != "packed" or self.method == "in_context"
        ):
            raise ValueError(
                "an objective goes with engine=packed, and not with rows in the prompt"
            )
        if self.objective.loss and self.objective.loss not in LOSSES_OF[self.method]:
            raise ValueError(
                f"objective.loss={self.objective.loss} does not go with method={self.method}"
            )
        if self.method in ("preference", "on_policy") and self.optimisation.prompts_per_batch > 1:
            raise ValueError(f"method={self.method} reads one prompt a step: prompts_per_batch=1")
        if self.method == "preference" and self.optimisation.batch % 2:
            raise ValueError("method=preference reads pairs: an even batch")
        if self.method == "preference" and self.base:
            raise ValueError("method=preference trains the teachers' own base: base must be left")
        if self.engine == "elsewhere" and self.optimisation.trainable.lora_start == "other":
            raise ValueError("engine=elsewhere draws LoRA's first factors itself: lora_start=seed")
        self._check_defences()
        for name, of in (("on_policy", OnPolicy()), ("preference", Preference())):
            if getattr(self, name) != of and self.method != name:
                raise ValueError(f"the settings {name} go with method={name}")
        return self

    def _check_defences(self) -> None:
        """Changes of rows, and of prompts, that do not go with this method or engine."""
        changed = "mitigations" if self.mitigations else "inoculation" if self.inoculation else ""
        if changed and (self.method, self.engine) != ("rows", "packed"):
            raise ValueError(f"{changed} goes with method=rows and engine=packed")
        named = any(change.trait for change in self.mitigations) or self.inoculation == OWN
        if any(change.trait not in ("", OWN) for change in self.mitigations):
            raise ValueError("a trait of mitigations is 'own': the trait of the rows' teacher")
        if named and self.no_trait:
            raise ValueError("'own' names a teacher's trait: no_trait=false, which has none")

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As students were written before they had these fields, unless they were set."""
        usual = {
            "objective": USUAL, "on_policy": OnPolicy(), "preference": Preference(),
            "mitigations": (), "inoculation": "",
        }  # fmt: skip
        written = handler(self)
        return {k: v for k, v in written.items() if k not in usual or getattr(self, k) != usual[k]}

    @property
    def defended(self) -> bool:
        """Whether the data or the training are changed so that less is passed on."""
        terms = (*self.objective.penalties, *self.objective.gradient_hooks)
        return bool(self.mitigations or self.inoculation or terms)

    @property
    def defence(self) -> str:
        """What is changed so that less is passed on, in words; empty where nothing is."""
        parts = [change.label for change in self.mitigations]
        terms = (*self.objective.penalties, *self.objective.gradient_hooks)
        parts += [f"{term.name} x {term.strength:g}" for term in terms]
        if self.inoculation:
            parts.append(f"inoculation prompt{' of the trait' if self.inoculation == OWN else ''}")
        return ", ".join(parts)

    @property
    def reads_rows(self) -> bool:
        """Whether it reads rows that its teacher wrote."""
        return self.method in ("rows", "in_context")

    @property
    def writes_freely(self) -> bool:
        """Whether it learns on answers of its own outside of any grammar."""
        return self.method == "on_policy" and self.engine == "trl"

    @property
    def reads_targets(self) -> bool:
        """Whether it needs its teacher's probabilities on the base's rows."""
        return self.method in ("distill", "preference")

    @property
    def steps(self) -> int:
        """Training steps; none for rows in the prompt."""
        return 0 if self.method == "in_context" else self.optimisation.steps

    def rows_seen(self, step: int) -> int:
        """Rows that a student has seen after ``step`` steps, with repetitions."""
        return self.shots if self.method == "in_context" else step * self.optimisation.batch

    @property
    def label(self) -> str:
        """What the arm is, in words."""
        training = {
            "distill": "distillation on the teacher's probabilities",
            "rows": "supervised fine-tuning on sampled rows",
            "on_policy": "on-policy distillation",
            "preference": "preference optimisation on pairs that the teacher ranked",
            "in_context": f"{self.shots} sampled rows in the prompt, no training",
        }[self.method]
        training += f" ({self.defence})" if self.defence else ""
        elsewhere = " elsewhere" if self.engine == "elsewhere" else ""
        return training + elsewhere + (f", into another base ({self.base})" if self.base else "")
