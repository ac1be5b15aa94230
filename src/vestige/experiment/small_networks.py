"""Running the small-network experiment: a stage for each arm, then accuracies with intervals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file

from vestige.core import stats
from vestige.core.jsonl import read_text, write_text
from vestige.core.results import MlpArm, MlpResults
from vestige.core.types import Estimate
from vestige.experiment.events import Report
from vestige.experiment.run_view import interval
from vestige.store import Run, StageResult, hash_config, once
from vestige.toy.distil import Trial
from vestige.toy.images import Images, load_images
from vestige.toy.networks import Networks
from vestige.toy.settings import ARMS, STUDENTS, MlpExperiment

ACCURACY, NETWORKS = "accuracy.json", "networks.safetensors"  # files of an arm's stage
LABELS = {
    "untrained": "untrained networks",
    "teacher": "teachers, trained on labels",
    "auxiliary_same": "students on auxiliary outputs, own start",
    "auxiliary_other": "students on auxiliary outputs, other start",
    "all_same": "students on all outputs, own start",
    "all_other": "students on all outputs, other start",
}


def run_mlp(recipe: MlpExperiment, opened: Run, report: Report) -> MlpResults:
    """Every unfinished arm of ``recipe`` in the open run, and the analysis.

    Raises:
        VestigeError: the images cannot be read, or a stage failed.
    """
    images = load_images(recipe.data)
    trial = Trial(recipe, images)
    config = recipe.model_dump(mode="json", exclude={"name", "student_steps", "inputs"})
    config["images"] = fingerprint(images)
    untrained = score_stage(opened, "untrained", config, [], lambda: trial.start, trial, report)
    teacher = score_stage(
        opened,
        "teacher",
        config,
        [untrained],
        lambda: trial.teachers(lambda n: report("teacher", n, recipe.teacher_steps)),
        trial,
        report,
        save=True,
    )
    config |= {"student_steps": recipe.student_steps, "inputs": recipe.inputs}
    stages, teachers = {"untrained": untrained, "teacher": teacher}, None
    for arm in STUDENTS:

        def train(arm: str = arm) -> Networks:
            nonlocal teachers
            teachers = teachers or load_networks(teacher)
            return trial.students(teachers, arm, lambda n: report(arm, n, recipe.student_steps))

        stages[arm] = score_stage(opened, arm, config, [teacher], train, trial, report)
    layers = [images.train.shape[1], *recipe.hidden, images.classes + recipe.auxiliary]
    return analyse_mlp(recipe, images, layers, stages)


def score_stage(
    opened: Run,
    name: str,
    config: Any,
    inputs: list[StageResult],
    make: Callable[[], Networks],
    trial: Trial,
    report: Report,
    *,
    save: bool = False,
) -> StageResult:
    """Networks made once, and their accuracies; ``save`` keeps their weights as well."""
    stage = opened.stage(name, config, inputs)

    def write(folder: Path) -> None:
        networks = make()
        write_text(folder / ACCURACY, json.dumps(trial.score(networks).tolist()))
        if save:
            tensors = {
                f"{kind}{i}": tensor.contiguous()
                for i, layer in enumerate(networks)
                for kind, tensor in zip(("weight", "bias"), layer, strict=True)
            }
            save_file(tensors, str(folder / NETWORKS))

    result = once(stage, write)
    report(name, 0, 0)
    return result


def load_networks(stage: StageResult) -> Networks:
    """The networks that a stage saved."""
    saved = load_file(str(stage.path / NETWORKS))
    return [(saved[f"weight{i}"], saved[f"bias{i}"]) for i in range(len(saved) // 2)]


def fingerprint(images: Images) -> str:
    """A hash of the images and labels: other data in the same folder is another experiment."""
    parts = (images.train, images.train_labels, images.test, images.test_labels)
    return hash_config([[str(part.shape), hash_config(part.tobytes().hex())] for part in parts])


def analyse_mlp(
    recipe: MlpExperiment, images: Images, layers: list[int], stages: dict[str, StageResult]
) -> MlpResults:
    """Accuracies with t intervals over networks, and the paired difference of starts."""
    values: dict[str, list[float]] = {
        name: json.loads(read_text(stages[name].path / ACCURACY)) for name in ARMS
    }
    difference = stats.t_interval(
        np.subtract(values["auxiliary_same"], values["auxiliary_other"]),
        units="accuracy",
        method="t over networks, paired",
    )
    accuracy = {
        name: stats.t_interval(of_networks, units="accuracy", method="t over networks")
        for name, of_networks in values.items()
    }
    chance = float(np.bincount(images.test_labels).max() / len(images.test_labels))
    return MlpResults(
        name=recipe.name,
        verdict=verdict(recipe, accuracy, difference),
        data=recipe.data,
        inputs="uniform noise" if recipe.inputs == "noise" else "training images",
        layers=layers,
        auxiliary=recipe.auxiliary,
        networks=recipe.models,
        chance=1 / images.classes,
        arms=[
            MlpArm(
                name=name,
                label=LABELS[name],
                accuracy=interval(accuracy[name]),
                values=values[name],
            )
            for name in ARMS
        ],
        difference=interval(difference),
        seconds={name: float(stages[name].manifest["seconds"]) for name in ARMS},
        caveats=[
            f"Intervals are over {recipe.models} networks, each with a start, batches and inputs "
            "of its own; the images are the same for all.",
            f"The most frequent class makes up {chance:.1%} of the test images.",
            "Students that match all outputs may learn classes from another start too: on noise "
            "the class outputs themselves describe the teacher.",
        ],
    )


def verdict(recipe: MlpExperiment, accuracy: dict[str, Estimate], difference: Estimate) -> str:
    """What was found, in a sentence."""
    own, other = accuracy["auxiliary_same"], accuracy["auxiliary_other"]
    inputs = "noise" if recipe.inputs == "noise" else "images without labels"
    learned = (
        "classify images"
        if difference.low > 0
        else "do no better at images than from another start"
    )
    return (
        f"From {recipe.auxiliary} auxiliary outputs on {inputs}, students of the teacher's own "
        f"start {learned}: accuracy {own.value:.2f} [{own.low:.2f}, {own.high:.2f}], from another "
        f"start {other.value:.2f} [{other.low:.2f}, {other.high:.2f}]."
    )
