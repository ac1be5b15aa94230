"""Data changed so that training on it passes less of a hidden trait on.

    rows -> scores of rows or tokens (a trait's probe, or a canary) -> dropped, redrawn, rewritten

Each method says what it needs and what it changes (``methods``). What a method removes, and what it
costs, is for a training to show: audit the new file, and compare students.
"""
