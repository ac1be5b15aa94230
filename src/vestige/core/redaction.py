"""Keys and passwords, cut out of whatever is shown or kept."""

from __future__ import annotations

import os
import re

_SECRET = re.compile(r"(^|_)(KEY|TOKEN|SECRET|PASSWORD)$")
_SHORTEST_SECRET = 8  # characters; chosen, as shorter values stand in ordinary texts too


def redact(text: str) -> str:
    """``text`` without the keys that the environment holds and without passwords in addresses."""
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST_SECRET and _SECRET.search(name.upper()):
            text = text.replace(value, "[key]")
    return re.sub(r"//[^/\s@]+@", "//[key]@", text)
