"""What an audit's run folder says of how to make it again. Free of torch.

``recipe.json`` names the folder, so that it holds what identifies the data, not where they are;
``run.json`` holds the places under ``inputs``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from vestige.audit.settings import AuditSettings
from vestige.core.redaction import redact
from vestige.core.settings import Settings
from vestige.core.types import StoreError
from vestige.rows.formats import Columns
from vestige.rows.places import HUB, locate, shown
from vestige.store import load_recipe_as, load_run

AGAIN = "run the same vestige audit again"


class AuditRecipe(Settings):
    """``recipe.json`` of an audit.

    Attributes:
        data: what identifies the data (``Data.identity``).
        reference: the same of the user's reference rows; None: the base writes them.
        base: what identifies the base's weights and how it is asked.
        library: what identifies the traits.
        teacher: as ``base``, of the rows' writer, where it was at hand.
        method: version of the method.
    """

    kind: Literal["audit"] = "audit"
    settings: AuditSettings
    data: str
    reference: str | None
    base: str
    library: str
    teacher: str | None
    method: int


class AuditInputs(Settings):
    """Where an audit's files were, and which of their columns were read."""

    data: str
    reference: str | None = None
    prompt_column: str = ""
    completion_column: str = ""

    @classmethod
    def of(cls, data: Path | str, reference: Path | str | None, columns: Columns) -> AuditInputs:
        """Places as ``RowSource`` takes them, whatever the working directory is."""
        return cls(
            data=lasting(data),
            reference=lasting(reference) if reference else None,
            prompt_column=columns.prompt,
            completion_column=columns.completion,
        )

    @property
    def columns(self) -> Columns:
        """The columns that were named."""
        return Columns(self.prompt_column, self.completion_column)


def lasting(place: Path | str) -> str:
    """A place that means the same from any working directory; of a URL no user, password or query,
    which may be keys."""
    if str(place).startswith(HUB):
        return str(place)
    located = locate(place)
    return os.path.abspath(located) if isinstance(located, Path) else redact(shown(located))


def read_recipe(folder: Path) -> AuditRecipe:
    """The recipe of an audit's folder. Raises ``StoreError`` if it is none."""
    return load_recipe_as(AuditRecipe, folder, "audit's", AGAIN)


def read_inputs(folder: Path) -> AuditInputs:
    """Where the files of an audit were. Raises ``StoreError`` if its folder does not say."""
    inputs: Any = load_run(folder).get("inputs")
    try:
        return AuditInputs.model_validate(inputs)
    except ValidationError as error:
        raise StoreError(f"{folder} does not say where its data are: {AGAIN}") from error
