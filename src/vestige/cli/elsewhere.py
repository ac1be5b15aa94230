"""The commands for students trained elsewhere: ``export``, ``train``, ``import``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vestige.cli.options import AsJson, RunFolder
from vestige.cli.output import err, out, print_result
from vestige.cli.progress import ProgressBar
from vestige.cli.run import run_recipe
from vestige.core.types import ConfigError, StoreError, VestigeError, unknown_name

Arm = Annotated[str, typer.Option(help="An arm of students (default: all trained on rows).")]
BaseName = Annotated[
    str, typer.Option(help="What the base model is called where students are trained.")
]


def export(
    run_folder: RunFolder,
    target: Annotated[
        str, typer.Option("--for", help="axolotl, trl, openai (any such service) or accelerate.")
    ],
    output: Annotated[Path, typer.Option("--out", help="A new folder.", metavar="DIR")],
    arm: Arm = "",
    base: BaseName = "",
    as_json: AsJson = False,
) -> None:
    """Write each student's rows and settings for another trainer."""
    from vestige.handoff.export import export as export_students

    recipe = recipe_of(run_folder)
    folders = export_students(recipe, run_folder, output, target, arm=arm, base=base)
    print_result(
        {"out": str(output), "folders": [str(f) for f in folders]},
        as_json,
        lambda: out.print(f"{len(folders)} students written below {output}", soft_wrap=True),
    )


def train(
    folder: Annotated[Path, typer.Argument(help="A student's folder, exported for accelerate.")],
) -> None:
    """Train one exported student; under accelerate launch, on many GPUs."""
    from vestige.student.accelerate_job import train_job

    adapter = train_job(folder)
    if adapter is not None:
        out.print(f"trained  {adapter}", soft_wrap=True)


def import_students(
    run_folder: RunFolder,
    adapter: Annotated[
        Path,
        typer.Option(help="A PEFT adapter, a model's folder, or an exported folder with many."),
    ],
    arm: Arm = "",
    seed: Annotated[int | None, typer.Option(help="The student's seed.")] = None,
    data: Annotated[str, typer.Option(help="The student's data: a trait's name, or none.")] = "",
    base: BaseName = "",
    as_json: AsJson = False,
) -> None:
    """Bring students trained elsewhere back; when none is awaited any more, finish the run."""
    recipe, awaited = adopt_students(run_folder, adapter, (arm, seed, data), base)
    if not awaited:
        run_recipe(recipe, run_folder.resolve().parent, as_json, overwrite=False, workers=1)
        return
    print_result(
        {"run": str(run_folder), "awaited": awaited},
        as_json,
        lambda: out.print(f"kept; {len(awaited)} students are still awaited: {', '.join(awaited)}"),
    )


def adopt_students(
    run_folder: Path, source: Path, which: tuple[str, int | None, str], base: str
) -> tuple[Any, list[str]]:
    """Bring students trained elsewhere back; the recipe, and the stages that are still awaited.

    Args:
        which: arm, seed and data of a single student; without seed and data, all that are new.
    """
    from vestige.experiment.run import describe_awaited
    from vestige.experiment.run_view import awaited
    from vestige.handoff.import_students import adopt, find_trained
    from vestige.models.loading import quiet_transformers
    from vestige.store import Run

    quiet_transformers()
    recipe = recipe_of(run_folder)
    trained = find_trained(recipe, run_folder, source, cell_of(recipe, *which), which[0])
    config = recipe.model_dump(mode="json")
    with Run.open(run_folder.resolve().parent, recipe.name, config) as opened:
        if opened.folder.resolve() != run_folder.resolve():
            raise StoreError(f"{run_folder} was renamed; call it {opened.folder.name} again")
        try:
            with ProgressBar("measuring") as bar:
                stages = adopt(recipe, run_folder, trained, base=base, report=bar.stage)
        except VestigeError:
            opened.end_as_before()
            raise
        for stage in stages:
            err.print(describe_comparison(stage.manifest), soft_wrap=True)
        left = awaited(recipe, run_folder)
        opened.finish("failed", describe_awaited(left, run_folder) if left else "not yet analysed")
    return recipe, left


def describe_comparison(manifest: dict[str, Any]) -> str:
    """What an imported student was compared with, from its stage's manifest."""
    compared = manifest["notes"]["compared"]
    return (
        f"{manifest['stage']}: within {compared['max_difference_nats']:.1e} nats of "
        f"{compared['against']} (at most {compared['tolerance_nats']:.1e} is taken); it moves "
        f"log-probabilities by up to {compared['moved_from_base_nats']:.2g} nats from the base"
    )


def cell_of(recipe: Any, arm: str, seed: int | None, data: str) -> Any:
    """The student that the options name; None if they name none."""
    from vestige.handoff.export import cells

    if seed is None and not data:
        return None
    elsewhere = [c for c in cells(recipe, arm) if c.student.engine == "elsewhere"]
    fitting = [c for c in elsewhere if c.seed == seed and c.data == data]
    if len(fitting) > 1:
        raise ConfigError(f"name the arm: --arm {' or '.join(c.student.name for c in fitting)}")
    if not fitting:
        known = [
            f"--arm {c.student.name} --seed {c.seed} --data {c.data}"
            for c in cells(recipe)
            if c.student.engine == "elsewhere"
        ]
        if not known:
            raise ConfigError("the recipe has no arm with engine=elsewhere to bring a student to")
        raise unknown_name("student", f"--arm {arm} --seed {seed} --data {data}", known)
    return fitting[0]


def recipe_of(run_folder: Path) -> Any:
    """The recipe of a run on language models."""
    from vestige.experiment.recipe import Experiment, load_recipe

    path = run_folder / "recipe.json"
    if not path.exists():
        raise StoreError(f"{run_folder} is not a run folder: it has no recipe.json")
    recipe = load_recipe(path)
    if not isinstance(recipe, Experiment):
        raise ConfigError(f"{run_folder} is a run on small networks: it has no rows")
    return recipe
