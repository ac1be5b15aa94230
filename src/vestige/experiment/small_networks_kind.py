"""Experiments on small networks as a kind of run. Free of torch until one is run."""

from __future__ import annotations

from vestige.core.kinds import Kind
from vestige.core.results import MlpResults
from vestige.experiment.kind import replay, run, stages
from vestige.toy.settings import MlpExperiment

KIND = Kind(
    name="mlp",
    settings=MlpExperiment,
    record=MlpResults,
    replay=replay,
    template="mlp",
    run=run,
    takes_executor=True,
    stages=stages,
)
