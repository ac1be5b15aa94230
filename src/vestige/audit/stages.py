"""What the stages of one audit share: its base, its run folder, and what was counted so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vestige.audit.data import Data
from vestige.audit.settings import AuditSettings
from vestige.core.types import Row
from vestige.models.hf import LanguageModel
from vestige.probing.base_session import BaseSession
from vestige.probing.harmless_students import HarmlessStudents
from vestige.store import Run, StageResult

Report = Callable[[str, int, int], object]  # stage, done, total; total 0: just finished
Write = Callable[[Path], Mapping[str, Any] | None]


@dataclass
class AuditContext:
    """One audit under way.

    Attributes:
        known: the user's reference rows; None: the base writes them.
        teacher: the rows' writer, where it is at hand.
        students: what canaries are held against; None: none are wanted.
        seconds: by kind of stage.
        tokens: that canaries were trained on.
        logprobs: of the rows' tokens, by use.
    """

    settings: AuditSettings
    session: BaseSession
    opened: Run
    data: Data
    known: list[Row] | None
    teacher: LanguageModel | None
    report: Report
    students: HarmlessStudents | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    tokens: int = 0
    logprobs: Counter[str] = field(default_factory=Counter)

    @property
    def training_rows(self) -> int:
        """Rows that the training which is to be spared would read."""
        return self.settings.training_rows or self.data.trained

    def once(
        self, name: str, config: Mapping[str, Any], inputs: Sequence[StageResult], write: Write
    ) -> StageResult:
        """A finished stage: ``write`` fills its folder unless it is there already; what ``write``
        gives is noted in its manifest. Its time is added up by kind."""
        stage = self.opened.stage(name, config, inputs)
        if not stage.done:
            with stage.writing() as folder:
                stage.note(**(write(folder) or {}))
        result = stage.result
        kind = stage.name.partition("/")[0]
        self.seconds[kind] = self.seconds.get(kind, 0.0) + float(result.manifest["seconds"])
        self.report(stage.name, 0, 0)
        return result

    def counter(self, name: str, total: int) -> Callable[[int], None]:
        """How far a stage of known length is, for whoever watches."""

        def on_done(done: int) -> None:
            self.report(name, done, total)

        return on_done

    def progress(self, name: str) -> Callable[[int, int], None]:
        """How far a stage is, for whoever watches."""

        def on_done(done: int, total: int) -> None:
            self.report(name, done, total)

        return on_done
