"""What keeps a trait from being passed on, and what it costs.

Defences that choose rows or tokens stand next to random ones. Two animals and four seeds are a
laptop's size, six and four the full one. The same as ``vestige bench defences``:

    vestige run recipes/defences.py
    vestige run recipes/defences.py --size full
"""

from vestige.experiment import defences
from vestige.experiment.recipe import Experiment


def recipe() -> Experiment:
    return defences.recipe()


def full() -> Experiment:
    return defences.full()
