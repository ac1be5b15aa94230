"""Bundle a base's battery with the package, from the cache: run ``vestige calibrate BASE`` first.

python benchmarks/bundle_battery.py smollm2-135m-instruct
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

import numpy as np

from vestige.probing.base_session import BaseSession
from vestige.probing.bundled_battery import BundledBattery, place
from vestige.probing.harmless_students import HarmlessStudents
from vestige.probing.settings import BatterySettings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base")
    parser.add_argument("--members", type=int, default=100)
    options = parser.parse_args()
    settings = BatterySettings(base=options.base, members=options.members)
    session = BaseSession(settings)
    students = HarmlessStudents(session, settings)
    students.bundled = None
    if missing := students.missing():
        raise SystemExit(f"{len(missing)} members are missing: vestige calibrate {options.base}")
    made = BundledBattery(
        students.base(), np.stack([students.read(m) for m in students.every]), students.words()
    )
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    path: Path = place(session.fingerprint)
    path.parent.mkdir(exist_ok=True)
    facts = {"base": options.base, "command": f"vestige calibrate {options.base}", "commit": commit}
    made.save(path, [students.digest(m) for m in students.every], facts)
    print(f"{path.name}: {len(students.every)} members, {path.stat().st_size / 1024:.0f} kB")


if __name__ == "__main__":
    main()
