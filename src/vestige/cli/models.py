"""``vestige models`` and ``vestige traits``: what is bundled."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from vestige.cli.options import AsJson, examples
from vestige.cli.output import err, out, print_result
from vestige.core.types import ConfigError

models_app = typer.Typer(no_args_is_help=True, help="Bundled models: list, pull, path.")


@models_app.command("list", epilog=examples("vestige models list"))
def list_models(as_json: AsJson = False) -> None:
    """The bundled models, their licences, and whether they are here."""
    from vestige.models import catalog

    rows = [
        {
            "name": name,
            "licence": catalog.entry(name).licence,
            "pulled": catalog.is_pulled(name),
        }
        for name in catalog.names()
    ]

    def text() -> None:
        table = Table("name", "licence", "pulled")
        for row in rows:
            table.add_row(row["name"], row["licence"], "yes" if row["pulled"] else "no")
        out.print(table)

    print_result(rows, as_json, text)


@models_app.command(
    "pull",
    epilog=examples(
        "vestige models pull smollm2-135m-instruct",
        "vestige models pull gemma-3-270m --accept-terms",
    ),
)
def pull_model(
    name: str,
    accept_terms: Annotated[bool, typer.Option(help="Accept the model's terms of use.")] = False,
    force: Annotated[bool, typer.Option(help="Fetch again, replacing what is there.")] = False,
) -> None:
    """Fetch a bundled model, check it, and keep it as safetensors."""
    from vestige.models import catalog

    folder = catalog.pull(name, accept_terms=accept_terms, force=force, echo=err.print)
    out.print(str(folder), soft_wrap=True)


@models_app.command("path", epilog=examples("vestige models path smollm2-135m-instruct"))
def model_path(name: str) -> None:
    """Where a pulled model is."""
    from vestige.models import catalog

    if not catalog.is_pulled(name):
        catalog.entry(name)
        raise ConfigError(f"{name} is not here yet: vestige models pull {name}")
    out.print(str(catalog.path(name, echo=err.print)), soft_wrap=True)


def traits(
    family: Annotated[str, typer.Option(help="This family alone, or a .toml file.")] = "",
    library: Annotated[
        bool, typer.Option("--library", help="All that an audit looks for; * = held out.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """The families and their traits."""
    from vestige.traits import families, names
    from vestige.traits import family as load_family

    if library:
        by_family = library_traits(family, stars=not as_json)
    else:
        chosen = [family] if family else families()
        by_family = {name: names(load_family(name)) for name in chosen}

    def text() -> None:
        for name, members in by_family.items():
            out.print(f"{name}: {', '.join(members)}")

    print_result(by_family, as_json, text)


def library_traits(family: str, stars: bool) -> dict[str, list[str]]:
    """The library's traits by family; with ``stars``, one marks those that are held out."""
    from vestige.traits.library import load_library, trait_id

    known = load_library([family] if family else ["library"])
    by_family: dict[str, list[str]] = {}
    for trait in known.traits:
        star = "*" if stars and trait_id(trait) in known.held_out else ""
        by_family.setdefault(trait.family.name, []).append(trait.name + star)
    return by_family
