"""What keeps a trait from being passed on, and what it costs: every defence next to its random arm.

Two animals and four seeds are a laptop's size; six and four are reported (docs/mitigate.md).
The same as ``vestige bench defences``:

    vestige run recipes/defences.py
    vestige run recipes/defences.py --size full
"""

from vestige.experiment.defences import full, recipe

__all__ = ["full", "recipe"]
