"""``vestige calibrate``: make a base's battery before it is needed."""

from __future__ import annotations

from typing import Annotated

import typer

from vestige.cli.audit import Chat, Traits
from vestige.cli.detect import Members
from vestige.cli.options import AsJson
from vestige.cli.output import comma_separated, err, out, print_result
from vestige.cli.progress import ProgressBar

BaseModel = Annotated[str, typer.Argument(help="The base model.", metavar="BASE")]


def calibrate(
    base: BaseModel,
    traits: Traits = "library",
    members: Members = 100,
    chat: Chat = "auto",
    as_json: AsJson = False,
) -> None:
    """Make the harmless students that vestige audit and detect compare with.

    They are made once for each base and library and kept in the cache; a stopped command goes on.
    """
    from vestige.detect.calibrate import calibrate as make
    from vestige.models import catalog
    from vestige.models.loading import quiet_transformers
    from vestige.probing.settings import BatterySettings

    catalog.path(base, echo=err.print)
    quiet_transformers()
    settings = BatterySettings.model_validate(
        {"base": base, "traits": comma_separated(traits), "members": members, "chat": chat}
    )
    with ProgressBar("calibrate", members) as bar:
        made = make(settings, on_done=lambda done: bar.update(f"{done} of {members}", done))

    def text() -> None:
        out.print(
            f"{made.members} harmless students of {base} are kept ({made.made} made now); no "
            f"p-value is below {made.smallest_p:.3g}",
            markup=False,
        )

    print_result(made.model_dump(), as_json, text)
