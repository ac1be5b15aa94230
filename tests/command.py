"""The command in a process of its own that does not pay five seconds for starting.

A server per test process has loaded the libraries and does nothing else; each call is a fork of it,
with the call's own arguments, environment, folder and exit status. What is read from the
environment when a library is imported (HF_ENDPOINT, OMP_NUM_THREADS) is the server's: tests about
that, and about how light a start is, start Python themselves.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve()
SOURCE = HERE.parents[1] / "src"
READ_AT_IMPORT = {
    "PYTHONPATH": str(SOURCE),
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "COLUMNS": "200",
    "NO_COLOR": "1",
}


def vestige(
    *words: object, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """``python -m vestige WORDS``: exit status, output and errors.

    Args:
        env: the whole environment; None is this process's.
    """
    arguments = [str(word) for word in words]
    if sys.platform == "win32":
        return subprocess.run(
            [sys.executable, "-m", "vestige", *arguments],
            capture_output=True,
            encoding="utf-8",
            env={**(env or os.environ), **READ_AT_IMPORT},
            cwd=cwd,
        )
    server = _server()
    assert server.stdin and server.stdout
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        call = {
            "words": arguments,
            "cwd": str(cwd or Path.cwd()),
            "out": str(out),
            "err": str(err),
            "env": {**(env or os.environ), **READ_AT_IMPORT},
        }
        server.stdin.write(json.dumps(call) + "\n")
        server.stdin.flush()
        answer = server.stdout.readline()
        if not answer:
            pytest.fail("the server that starts commands has died")
        code = int(answer)
        said = (out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8"))
        return subprocess.CompletedProcess(arguments, code, *said)


def here(*words: object) -> str:
    """A command in this process: what it printed; what it raised is raised here."""
    from typer.testing import CliRunner

    from vestige.cli.main import app

    done = CliRunner().invoke(app, [str(word) for word in words])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


class Outcome:
    """What a command said; ``said``: all of it, in one line."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr
        self.said = " ".join((done.stdout + done.stderr).split())


def refused(outcome: Outcome, *words: str) -> None:
    """A one-line error on stderr, nothing on stdout."""
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.startswith("error: ") and outcome.err.count("\n") == 1
    for word in words:
        assert word in outcome.err


@cache
def _server() -> subprocess.Popen[str]:
    """The server of this test process; it ends when its input does."""
    return subprocess.Popen(
        [sys.executable, str(HERE)],
        env=os.environ | READ_AT_IMPORT,
        encoding="utf-8",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def serve() -> None:
    """Fork for each line of the input; write the child's exit status."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _load()
    gc.freeze()  # a collection in a fork would copy every page
    for line in sys.stdin:
        call = json.loads(line)
        child = os.fork()
        if not child:
            answers.close()
            _become(call)
            return
        _, status = os.waitpid(child, 0)
        answers.write(f"{os.waitstatus_to_exitcode(status)}\n")
        answers.flush()


def _load() -> None:
    """Import what commands import, and nothing that starts a thread."""
    import numpy  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import torch
    from transformers import AutoModelForCausalLM, LlamaForCausalLM  # noqa: F401

    import vestige.audit.run
    import vestige.cli.main
    import vestige.experiment.run
    import vestige.experiment.seed_jobs
    import vestige.report  # noqa: F401

    torch.set_num_threads(1)


def _become(call: dict[str, Any]) -> None:
    """Be the command, in this fork of the server; ends the process."""
    for number, name in ((1, "out"), (2, "err")):
        file = os.open(call[name], os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(call["env"])
    os.chdir(call["cwd"])
    sys.argv = ["vestige", *call["words"]]
    from vestige.cli.main import main

    code: Any = 1
    try:
        main()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))  # not a second to tear down


if __name__ == "__main__":
    serve()
