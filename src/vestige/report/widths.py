"""Every chart is drawn twice: for wide windows and for phones."""

from __future__ import annotations

from collections.abc import Callable

from markupsafe import Markup

from vestige.report.charts import NARROW, WIDE


def both_widths(draw: Callable[..., Markup], *args: object) -> Markup:
    """The wide and the narrow drawing of a chart; the style sheet shows the one that fits."""
    wide, narrow = draw(*args, width=WIDE), draw(*args, width=NARROW)
    return Markup('<div class="wide">{}</div><div class="narrow">{}</div>').format(wide, narrow)
