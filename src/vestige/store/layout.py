"""Where everything of an experiment is below its run folder, and what its data sets are called.

    recipe.json  run.json  results.json  report.html  ledger.jsonl
    seed-0/base/                  the untrained base's panel
    seed-0/contexts/              rows that the base wrote
    seed-0/teacher/<trait>/       weights, panel, check
    seed-0/rows/<writer>/         raw, kept and dropped rows
    seed-0/shards/<writer>/0-of-2/  a part of a writer's raw rows
    seed-0/mitigated/<arm>/<data>/  an arm's rows as its changes leave them
    seed-0/targets/<writer>/      the teacher's log-probabilities
    seed-0/student/<arm>/<data>/  panels, losses, answers
    seed-0/judged/                ratings of the answers to open questions

Every path is made here, and every name is read here. Names are compared with the names that a
recipe has: none is taken apart at a dash, which a trait's own name may hold (``polar-bear``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vestige.core.types import unknown_name

SEED = "seed-"  # before a seed's number in the name of its folder
NO_TRAIT = "none"  # the writer, and the data set, of the teacher without a trait
ANY = "*"  # in place of a name: every one


@dataclass(frozen=True)
class DataName:
    """What a data set is called: its writer (a trait, or ``none``), or how it was shuffled and its
    writer."""

    writer: str
    shuffle: str = ""

    def __str__(self) -> str:
        return f"{self.shuffle}-{self.writer}" if self.shuffle else self.writer

    @classmethod
    def find(cls, text: str, names: Iterable[DataName]) -> DataName:
        """The data set of this name among those that a recipe has.

        Raises:
            ConfigError: it has none of that name.
        """
        known = {str(name): name for name in names}
        if text not in known:
            raise unknown_name("data set", text, known)
        return known[text]


def same_name(names: Iterable[DataName]) -> str:
    """A name that two different data sets would have; empty if there is none."""
    kept: dict[str, DataName] = {}
    return next((str(n) for n in names if kept.setdefault(str(n), n) != n), "")


class StageFile:
    """Files inside a finished stage."""

    MANIFEST = "manifest.json"
    PANEL = "panel.json"  # of a base or a teacher on the held-out questions
    BASE_PANEL = "base-panel.json"  # of a student's own base, where it is another
    BEGUN_PANEL = "begun-panel.json"  # the same with each answer begun
    CHECK = "check.json"
    WEIGHTS = "weights.safetensors"
    RAW = "raw.jsonl"
    KEPT = "rows.jsonl"
    DROPPED = "dropped.jsonl"
    RATINGS = "ratings.jsonl"
    TARGETS = "targets.safetensors"
    LOSS = "loss.json"
    HELDOUT = "heldout.json"  # a student's loss on rows that none read
    SAMPLED = "sampled.jsonl"
    FREEFORM = "freeform.jsonl"
    CHECKPOINT = "checkpoint"  # a folder, in an unfinished stage alone

    @staticmethod
    def student_panel(step: int) -> str:
        """A student's panel after ``step`` steps."""
        return f"panel-{step}.json"

    @staticmethod
    def choices(source: str) -> str:
        """Answers to a multiple-choice set, by its name or file."""
        return f"choices-{Path(source).stem}.jsonl"


@dataclass(frozen=True)
class RunLayout:
    """The paths of a run. ``RunLayout(Path())`` gives the names of stages: paths below any run
    folder."""

    folder: Path

    # ---- files of the run -----------------------------------------------------------------------

    @property
    def recipe(self) -> Path:
        """The recipe that the run was made with."""
        return self.folder / "recipe.json"

    @property
    def results(self) -> Path:
        """What the analysis found."""
        return self.folder / "results.json"

    @property
    def ledger(self) -> Path:
        """What API models were asked in this run, and what they answered."""
        return self.folder / "ledger.jsonl"

    @property
    def locks(self) -> Path:
        """A lock for each job of a cluster that is worked on."""
        return self.folder / ".locks"

    # ---- stages of a seed -----------------------------------------------------------------------

    def seed(self, seed: int | str) -> Path:
        """The folder of a seed."""
        return self.folder / f"{SEED}{seed}"

    def base(self, seed: int | str) -> Path:
        """The untrained base's answers."""
        return self.seed(seed) / "base"

    def contexts(self, seed: int | str) -> Path:
        """Rows that the untrained base wrote."""
        return self.seed(seed) / "contexts"

    def teacher(self, seed: int | str, trait: str) -> Path:
        """A teacher."""
        return self.seed(seed) / "teacher" / trait

    def rows(self, seed: int | str, writer: str) -> Path:
        """A teacher's rows."""
        return self.seed(seed) / "rows" / writer

    def shards(self, seed: int | str, writer: str) -> Path:
        """The parts of a teacher's raw rows."""
        return self.seed(seed) / "shards" / writer

    def shard(self, seed: int | str, writer: str, part: int, parts: int) -> Path:
        """One of the parts of a teacher's raw rows, counted from 0."""
        return self.shards(seed, writer) / f"{part}-of-{parts}"

    def mitigated(self, seed: int | str, arm: str, data: str) -> Path:
        """A data set as an arm's changes leave it."""
        return self.seed(seed) / "mitigated" / arm / data

    def targets(self, seed: int | str, writer: str) -> Path:
        """A teacher's log-probabilities on the base's rows."""
        return self.seed(seed) / "targets" / writer

    def student(self, seed: int | str, arm: str, data: str) -> Path:
        """An arm's student of a data set."""
        return self.seed(seed) / "student" / arm / data

    def judged(self, seed: int | str) -> Path:
        """Ratings of the answers to open questions."""
        return self.seed(seed) / "judged"

    def judged_answers(self, seed: int | str, model: Path) -> Path:
        """The ratings of one model's answers; ``model`` is its stage."""
        name = "-".join(model.relative_to(self.seed(seed)).parts)
        return self.judged(seed) / f"{name}.json"

    # ---- names and what is there ----------------------------------------------------------------

    def name(self, stage: Path) -> str:
        """A stage's name: ``seed-0/rows/owl``."""
        return stage.relative_to(self.folder).as_posix()

    def path(self, name: str) -> Path:
        """The folder of the stage of this name."""
        return self.folder / name

    @staticmethod
    def kind(name: str) -> str:
        """What kind of stage a name is of: ``rows`` for ``seed-0/rows/owl``."""
        return name.split("/")[1]

    @staticmethod
    def is_of(name: str, seed: int) -> bool:
        """Whether the stage of this name is one of the seed's."""
        return name.startswith(f"{SEED}{seed}/")

    def below(self, pattern: Path) -> Iterator[Path]:
        """The paths that fit a path of this layout that was made with ``ANY`` in it."""
        return self.folder.glob(self.name(pattern))

    def manifests(self) -> Iterator[Path]:
        """The manifests of every stage, unfinished ones as well."""
        return self.folder.glob(f"{SEED}*/**/{StageFile.MANIFEST}")

    def open_answers(self, seed: int) -> list[Path]:
        """The stages of a seed in which a model has answered open questions, in order."""
        return [path.parent for path in sorted(self.seed(seed).glob(f"**/{StageFile.FREEFORM}"))]

    def locks_of(self, seed: int) -> list[Path]:
        """The locks of a seed's jobs."""
        return sorted(self.locks.glob(f"{SEED}{seed}-*.lock"))


def seed_name(seed: int) -> str:
    """What a seed is called: its folder, and its lock."""
    return f"{SEED}{seed}"
