"""Which files hold rows, and in what form: told by the ending of their names."""

from __future__ import annotations

from typing import IO

from vestige.core.types import DataError
from vestige.rows.open_files import start_of
from vestige.rows.places import PACKED, Place, endings, name_of, shown

KINDS = {
    ".jsonl": "jsonl", ".json": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet",
    ".arrow": "arrow",
}  # fmt: skip
#: What the datasets library and the hub put beside rows.
METADATA = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
POINTER = b"version https://git-lfs"


def is_known(place: Place) -> bool:
    suffix, packing = endings(place)
    name = name_of(place)
    if name in METADATA or (suffix == ".arrow" and name.startswith("cache-")):
        return False
    return suffix in KINDS and not (packing and suffix in (".parquet", ".arrow"))


def kind_of(place: Place) -> str:
    suffix, packing = endings(place)
    if suffix not in KINDS or (packing and suffix in (".parquet", ".arrow")):
        raise DataError(
            f"{shown(place)}: cannot tell its format; name it .jsonl, .json, .csv, .parquet or "
            f".arrow (text also {', '.join(PACKED)})"
        )
    return KINDS[suffix]


def check_pointer(place: Place, raw: IO[bytes]) -> None:
    if start_of(raw, len(POINTER)) == POINTER:
        raise DataError(f"{shown(place)} is a pointer of Git LFS and not the file: git lfs pull")
