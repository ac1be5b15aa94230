"""Vestige's evaluations as Inspect tasks, and its local models for Inspect.

- ``registry``: what Inspect finds by its entry point;
- ``questions``: the tasks and their scorers;
- ``local``: local models as a model API, ``vestige/NAME``;
- ``logs``: an Inspect log read back as our own answers and estimates.
"""
