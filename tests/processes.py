"""Processes of their own for tests, forked from one that has TensorFlow imported and not started.

Importing TensorFlow takes each process five seconds, more than most of what is tested in it. Here
it is imported once, with Keras, and has neither runtime nor devices before the fork; this library
and all else is imported anew in each process. What is about the start of an interpreter (what is
imported, what is printed, how long it takes) or must do without Keras needs a `subprocess`.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import types
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tensorflow"])


def run_python(program, *arguments, cwd=None) -> subprocess.CompletedProcess:
    """Runs a program in a new process, as `subprocess.run` does with its output captured.

    Args:
        program: Path of a script, or source as after `python -c`.
        *arguments: `sys.argv[1:]`.
        cwd: Folder to run in.
    """
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder, name) for name in ("stdout", "stderr")]
        arguments = [*map(str, arguments)]
        process = _CONTEXT.Process(
            target=_run, args=(program, arguments, cwd or Path.cwd(), outputs)
        )
        process.start()
        process.join()
        texts = [path.read_text() if path.exists() else "" for path in outputs]
    return subprocess.CompletedProcess([program, *arguments], process.exitcode, *texts)


def _run(program, arguments, cwd, outputs):
    for path, descriptor in zip(outputs, (1, 2), strict=True):
        with path.open("wb") as file:
            os.dup2(file.fileno(), descriptor)
    assert "tensorflow" in sys.modules
    assert "tfp_bayes" not in sys.modules
    os.chdir(cwd)
    if isinstance(program, Path):
        sys.argv = [str(program), *arguments]
        sys.path.insert(0, str(program.parent))
        runpy.run_path(str(program), run_name="__main__")
    else:
        sys.argv = ["-c", *arguments]
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(program, vars(main))
