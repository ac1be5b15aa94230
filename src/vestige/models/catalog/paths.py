"""From the name of a model to what ``from_pretrained`` takes."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from vestige.core.types import ConfigError, ModelError, unknown_name
from vestige.models.catalog.entries import CATALOG
from vestige.models.catalog.files import check_local
from vestige.models.catalog.pulling import pull

API_PREFIX = "api:"  # of models that are asked over a network, see ``vestige.api``
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def path(name: str, *, echo: Callable[[str], object] = print) -> str:
    """What to give to ``from_pretrained`` for a bundled name, a folder or a hub id.

    A bundled name wins over a folder of that name (write ``./name`` for the folder). A free
    bundled model that is not in the cache is pulled. A hub id (``org/name``) is returned as it is.

    Raises:
        ConfigError: no bundled model, folder or hub id looks like this.
        LicenceError: the model's terms have to be accepted first; gives the command.
        ModelError: the cache is corrupt, or the folder holds no usable weights.
    """
    if name in CATALOG:
        return str(pull(name, echo=echo))
    if name.startswith(API_PREFIX):
        raise ConfigError(
            f"{name} is behind an API: it cannot be trained or asked for every probability. It can "
            "write rows (vestige write), judge, and answer Inspect's tasks; name a local model here"
        )
    if Path(name).exists():
        check_local(Path(name))
        return name
    if _HUB_ID.fullmatch(name):
        return name
    if "/" in name or os.sep in name:
        raise ModelError(f"there is no folder {name!r}, and it has not the form of a hub id")
    raise unknown_name("model (no bundled model or folder)", name, CATALOG)
