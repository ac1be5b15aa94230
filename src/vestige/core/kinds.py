"""What a kind of run is: an experiment, small networks, an audit, a benchmark. Free of torch.

Each kind is declared in its own folder (``KIND`` in ``audit/kind.py``, for instance) and listed in
``vestige.kinds``. The commands ``run``, ``show`` and ``report`` know a run by its kind alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from vestige.core.settings import Settings

#: Called with the name of a stage, how much of it is done, and of how much; total 0: just finished.
Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Kind:
    """A kind of run: what its ``recipe.json`` and ``results.json`` hold, and how it is run again.

    Attributes:
        name: ``kind`` in both files. ``cli/summaries/<name>.py`` prints such results on the
            terminal.
        settings: what ``recipe.json`` holds.
        record: what ``results.json`` holds.
        replay: ``replay(folder, *, overwrite, report)`` runs every unfinished stage of a run folder
            and gives the folder and its results. It imports torch when it is called.
        template: of the report, ``report/<template>.html.j2``, called like the kind, as what
            prepares it is: ``report/views/<name>.py``. Empty: the kind has no report.
        run: ``run(settings, root, *, overwrite, report, ...)`` starts a run from settings, below
            ``root``, for ``vestige run RECIPE``; None: such runs have a command of their own, and
            are only replayed.
        takes_executor: whether ``run`` takes ``workers``, ``cluster`` and ``keep_at``, too.
        models: the language models that a run with given settings needs: licences are shown, and
            weights fetched, before the progress bar begins.
        stages: how many stages a run with given settings has, for the progress bar; None: unknown.
        time: ``time(settings, workers)``: how long a run should take, in minutes, and in how many
            processes; None: unknown.
        verdict: what a run found, in one sentence, from its results.
    """

    name: str
    settings: type[Settings]
    record: type[BaseModel]
    replay: Callable[..., tuple[Path, BaseModel]]
    template: str = ""
    run: Callable[..., tuple[Path, BaseModel]] | None = None
    takes_executor: bool = False
    models: Callable[[Any], list[str]] = lambda settings: []
    stages: Callable[..., int] | None = None
    time: Callable[..., tuple[float, int] | None] | None = None
    verdict: Callable[[Any], str] = attrgetter("verdict")
