"""What a benchmark of audits is asked to do, and what its run folder holds. Free of torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vestige.audit.settings import AuditSettings
from vestige.core.settings import Settings
from vestige.core.types import ConfigError

#: Functions (session, row_format, rows) -> scores [N, T], higher for a likelier trait, NaN for one
#: of which nothing is known. ``influence`` is given the traits' gradients, too.
SCORES = {
    "influence": "vestige.audit.influence:influence",
    "activations": "vestige.probing.activations:activations",
    "prompts": "vestige.audit.prompts:prompted",
}
#: What an audit is compared with (docs/audit.md).
METHODS = tuple(SCORES)


class BenchSettings(Settings):
    """A benchmark of audits.

    Attributes:
        audit: how each data set is audited.
        seeds: those of the runs to take; None takes all.
        clean: further draws of the untrained base for each seed, as clean data sets.
        methods: of ``METHODS``, to compare with.
        share: of each data set's rows that are its writer's; the base writes the others. Truth
            stays what students of the writer's rows alone took on.
        with_logprobs: the rows come with what their writer gave each token's likeliest choices.
    """

    audit: AuditSettings
    seeds: tuple[int, ...] | None = None
    clean: int = Field(default=4, ge=0)
    methods: tuple[str, ...] = ()
    share: float = Field(default=1.0, gt=0, le=1)
    with_logprobs: bool = False

    def check(self) -> None:
        """Raises ``ConfigError`` for a method that is not there, or what does not go together."""
        if self.with_logprobs and self.share < 1:
            raise ConfigError("--with-logprobs is for data sets of one writer: leave --share out")
        if unknown := set(self.methods) - set(METHODS):
            raise ConfigError(f"no method {', '.join(unknown)}; there are {', '.join(METHODS)}")


class Source(Settings):
    """A run, or a file of clean rows: where it was, and what identifies it."""

    path: str
    identity: str


class BenchRecipe(Settings):
    """``recipe.json`` of a benchmark of audits.

    Attributes:
        runs: finished runs whose data sets are audited.
        known_clean: files of rows that no teacher with a trait wrote.
        base, library: what identifies the base and the traits; method: version of the audit's.
    """

    kind: Literal["bench"] = "bench"
    settings: BenchSettings
    runs: tuple[Source, ...]
    known_clean: tuple[Source, ...]
    base: str
    library: str
    method: int
