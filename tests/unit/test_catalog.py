"""The catalogue and its cache: real wheels made here, fetched by the real pip, real kills."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from catalog_cases import SOURCE, safetensors

from vestige.core.types import ConfigError, ModelError
from vestige.models import catalog

SHA = re.compile(r"[0-9a-f]{64}")


# ---- the catalogue


def test_entries_are_pinned_and_consistent():
    assert catalog.names() == ["gemma-3-270m", "smollm2-135m-instruct"]
    for name in catalog.names():
        entry = catalog.entry(name)
        files = {wheel.file for wheel in entry.wheels}
        assert entry.name == name
        assert all(SHA.fullmatch(w.sha256) for w in entry.wheels) and SHA.fullmatch(
            entry.gguf_sha256
        )
        assert len({w.sha256 for w in entry.wheels}) == len(entry.wheels)
        assert {file for file, _ in entry.members + entry.papers} <= files
        for wheel in entry.wheels:
            assert wheel.file.startswith(f"{wheel.project.replace('-', '_')}-{wheel.version}-")
            assert wheel.file.endswith("-py3-none-any.whl")
    assert catalog.entry("smollm2-135m-instruct").terms is None
    assert catalog.entry("gemma-3-270m").terms
    parts = [member[-6:] for _, member in catalog.entry("gemma-3-270m").members]
    assert parts == ["part00", "part01", "part02", "part03"]


def test_unknown_names_get_the_nearest():
    with pytest.raises(ConfigError, match="did you mean smollm2-135m-instruct"):
        catalog.entry("smollm2-135m")
    with pytest.raises(ConfigError, match="did you mean gemma-3-270m"):
        catalog.path("gemma3-270m")


def test_import_is_light():
    code = """
        import sys
        import vestige.models.catalog
        print(sorted({"torch", "transformers", "numpy", "gguf"} & set(sys.modules)))
    """
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": SOURCE}, capture_output=True, text=True,
    )  # fmt: skip
    assert child.stdout == "[]\n", child.stderr


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("VESTIGE_CACHE", str(tmp_path / "x"))
    assert catalog.cache_dir() == tmp_path / "x"
    monkeypatch.setenv("VESTIGE_CACHE", "~/x")
    assert catalog.cache_dir() == Path.home() / "x"
    monkeypatch.delenv("VESTIGE_CACHE")
    assert catalog.cache_dir().name == "vestige"
    assert catalog.cache_dir().is_absolute()


# ---- folders and hub ids


def test_local_folder_is_itself(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(safetensors())
    assert catalog.path(str(tmp_path)) == str(tmp_path)


def test_folder_of_pickled_weights_is_refused(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin can run code"):
        catalog.path(str(tmp_path))


def test_folders_that_are_no_model(tmp_path: Path):
    with pytest.raises(ModelError, match=r"no config\.json"):
        catalog.path(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="holds an adapter"):
        catalog.path(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"no \*\.safetensors"):
        catalog.path(str(tmp_path))
    with pytest.raises(ModelError, match="is a file"):
        catalog.path(str(tmp_path / "config.json"))


@pytest.mark.parametrize("content", [b"", b"\x10", safetensors()[:-1], safetensors() + b"\0"])
def test_cut_weights_in_a_folder_are_named(tmp_path: Path, content: bytes):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors is not a whole safetensors file"):
        catalog.path(str(tmp_path))


def test_safetensors_of_the_real_library_pass(tmp_path: Path):
    import numpy as np
    from safetensors.numpy import save_file

    (tmp_path / "config.json").write_text("{}")
    tensors = {"a": np.zeros((3, 5)), "b": np.ones(2, dtype=np.float16)}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert catalog.path(str(tmp_path)) == str(tmp_path)


def test_hub_ids_and_what_is_none(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")
    assert catalog.path("some-org/Some.Model-1_2b") == "some-org/Some.Model-1_2b"
    for missing in ("./none/x", "/none/x", "a/b/c", "../x"):
        with pytest.raises(ModelError, match="there is no folder"):
            catalog.path(missing)
    with pytest.raises(ConfigError, match="valid: gemma-3-270m, smollm2-135m-instruct"):
        catalog.path("zzz")
