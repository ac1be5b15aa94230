"""Tiny files in the place of a bundled model's."""

from __future__ import annotations

import json
from pathlib import Path

from vestige.models import catalog

SOURCE = str(Path(catalog.__file__).resolve().parents[3])


def safetensors(data: bytes = b"\0" * 8) -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, len(data)]}})
    return len(header).to_bytes(8, "little") + header.encode() + data
