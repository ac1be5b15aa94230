"""The packages that Vestige and its extras ask for: here, missing, or out of range."""

from __future__ import annotations

import importlib
import importlib.metadata

from packaging.requirements import Requirement

from vestige.doctor.bundled_model import BundledModel
from vestige.doctor.checks import Wrong


def requirements(extra: str = "") -> list[Requirement]:
    """What Vestige asks for: always, or for one extra alone."""
    try:
        named = importlib.metadata.requires("vestige") or []
    except importlib.metadata.PackageNotFoundError:
        raise Wrong("vestige is not installed as a package", "pip install -e .") from None
    asked = [Requirement(text) for text in named]
    always = [r for r in asked if r.marker is None or r.marker.evaluate({"extra": ""})]
    if not extra:
        return always
    extras = [r for r in asked if r.marker and r.marker.evaluate({"extra": extra})]
    return [r for r in extras if r not in always]


def _installed(name: str) -> str:
    """The version of a package, or of its build for CPUs."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return importlib.metadata.version(f"{name}-cpu")


def versions(wanted: list[Requirement], extra: str = "") -> tuple[list[str], list[str]]:
    """(installed versions, missing names). Raises ``Wrong`` for one out of range."""
    installed, missing = [], []
    for each in wanted:
        try:
            version = _installed(each.name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(each.name)
            continue
        if not each.specifier.contains(version, prereleases=True):
            named = f"vestige[{extra}]" if extra else "vestige"
            raise Wrong(
                f"{each.name} is {version}, {each.specifier} is needed",
                f"pip install -U '{each.name}{each.specifier}' (or '{named}' again)",
            )
        installed.append(f"{each.name} {version}")
    return installed, missing


def packages(_: BundledModel) -> str:
    installed, missing = versions(requirements())
    if missing:
        raise Wrong(f"missing: {', '.join(missing)}", "pip install --upgrade vestige")
    shown = ("torch", "transformers", "peft", "numpy")
    named = [each for each in installed if each.split()[0] in shown]
    return f"{len(installed)} packages: {', '.join(named)}"


def extras() -> list[str]:
    """The names of the extras, but the one for development."""
    try:
        named = importlib.metadata.metadata("vestige").get_all("Provides-Extra") or []
    except importlib.metadata.PackageNotFoundError:
        return []  # named by "packages"
    return [name for name in named if name != "dev"]
