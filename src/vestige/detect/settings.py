"""A detection's settings, as plain data. Free of torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from vestige.core.settings import Settings
from vestige.probing.settings import BatterySettings


class DetectSettings(BatterySettings):
    """How a finished student is examined; ``base`` is the model that it was trained from.

    Attributes:
        model: the student, a whole model; or
        adapter: a folder with its LoRA adapter.
        control: another student of the base, trained in the same way on rows of the base, in the
            same form (a whole model, or an adapter); what both share is then taken out.
        adapter_base: what the adapter calls the base, where that is none of its names.
        alpha: chance that any trait is found in a harmless student whose writer is of a kind that
            the battery does not hold.
        limit: a share of the answers; where half of the traits would have to take more to be found,
            nothing found says nothing.
    """

    model: str | None = None
    adapter: str | None = None
    control: str | None = None
    adapter_base: str = ""
    alpha: float = Field(default=0.01, gt=0, lt=0.5)
    limit: float = Field(default=0.5, gt=0, lt=1)

    @model_validator(mode="after")
    def _one_student(self) -> DetectSettings:
        if bool(self.model) == bool(self.adapter):
            raise ValueError("give the student as model (a whole one) or as adapter, one of both")
        return self

    @property
    def student(self) -> str:
        """The student's name or folder."""
        return self.model or self.adapter or ""


class DetectRecipe(Settings):
    """``recipe.json`` of a detection.

    Attributes:
        base: what identifies the base's weights and how it is asked.
        library: what identifies the traits.
        student: what identifies the student's weights; control: the control's.
        method: version of the method.
    """

    kind: Literal["detect"] = "detect"
    settings: DetectSettings
    base: str
    library: str
    student: str
    control: str | None = None
    method: int
