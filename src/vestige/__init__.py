"""Vestige: see, measure, predict, detect and prevent subliminal learning.

The package follows the data: a trait makes a teacher, the teacher writes a carrier, a filter keeps
clean rows, a student is trained on them, an evaluation measures the student, a report tells.
"""

__version__ = "0.1.0"
