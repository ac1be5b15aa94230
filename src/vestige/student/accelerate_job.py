"""One exported student, trained with TRL by as many processes as ``accelerate launch`` starts."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import ValidationError

from vestige.core.settings import JOB, ROWS, TRAINED, Job
from vestige.core.types import ConfigError, Row, StoreError
from vestige.models import catalog
from vestige.rows.files import read_rows


def train_job(folder: Path) -> Path | None:
    """Train the student that ``vestige export --for accelerate`` wrote to ``folder``.

    Returns:
        Where the adapter or the model is; None in all processes but the first.

    Raises:
        ConfigError: the folder holds no such student, or its settings cannot be used.
        StoreError: it has been trained already.
    """
    path, out = folder / JOB, folder / TRAINED
    try:
        job = Job.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise ConfigError(
            f"{path} is no exported student ({error}); vestige export RUN --for accelerate writes "
            "one"
        ) from error
    if out.exists():
        raise StoreError(f"{out} exists: this student has been trained; delete it to train again")
    import torch

    from vestige.models.hf import LanguageModel
    from vestige.models.weights import Weights
    from vestige.student.trl import train_with_trl

    rank, local = (int(os.environ.get(name, "0")) for name in ("RANK", "LOCAL_RANK"))
    lm = LanguageModel.load(
        catalog.path(job.base),
        style=job.chat,
        precision=job.precision,
        device=f"cuda:{local}" if torch.cuda.is_available() else "cpu",
    )
    lm.use_date(job.date)
    weights = Weights(lm, [job.optimisation.trainable])
    rows = [row for row in read_rows(folder / ROWS) if isinstance(row, Row)]
    train_with_trl(lm, weights, rows, job.optimisation, seed=job.seed, save=out)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return None if rank else out
