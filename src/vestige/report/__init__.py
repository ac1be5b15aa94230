"""One self-contained HTML page from saved run folders. Reads files only; loads no model code."""

from __future__ import annotations

from vestige.report.page import render, render_runs

__all__ = ["render", "render_runs"]
