"""Experiments: a recipe, the stages of each seed, the analysis, and the run that ties them.

- ``settings``, ``recipe``: what to do, as a frozen ``Experiment``, and where it is read from;
- ``jobs``, ``seed_jobs``: what can be worked on at once, and the function for each kind of job;
- ``*_stage``, ``student_stages``: the base, teachers, rows, targets, students and ratings of one
  seed, each a function of a ``SeedContext`` and a stage that is made once;
- ``run_view``, ``analysis``, ``wording``: saved evaluations -> ``Results``; no torch;
- ``run``, ``executors``: seeds over processes or a cluster, progress, resume;
- ``plan``: what a recipe will cost and how many seeds an interval needs.
"""
