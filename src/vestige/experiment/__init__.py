"""Experiments: a recipe, the stages of each seed, the analysis, and the run that ties them.

- ``recipe``: what to do, as a frozen ``Experiment``; no torch;
- ``stages``: one seed's teachers, rows and students, each a resumable stage;
- ``analysis``: saved evaluations -> ``Results``; no torch;
- ``run``: seeds over processes, progress, resume;
- ``plan``: what a recipe will cost and how many seeds an interval needs.
"""
