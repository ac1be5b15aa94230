"""What Inspect loads by the entry point ``inspect_ai``."""

from __future__ import annotations

from vestige.inspect_tasks.local import vestige_models
from vestige.inspect_tasks.questions import favorite, favorite_animal, favorite_tree, misalignment

__all__ = ["favorite", "favorite_animal", "favorite_tree", "misalignment", "vestige_models"]
