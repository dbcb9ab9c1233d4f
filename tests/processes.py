"""Fresh processes for tests, forked from one that has imported but not started TensorFlow.

Importing TensorFlow takes five seconds per process, longer than most tests that need a process.
Here TensorFlow, Keras and TensorFlow Probability are imported once and have no runtime or devices
before the fork. Each process imports this library and all others itself. Use `subprocess` instead
to test the start of an interpreter (imports, output, duration) or a process without Keras.
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
_CONTEXT.set_forkserver_preload(["tensorflow", "tensorflow_probability"])


def run_python(program, *arguments, cwd=None) -> subprocess.CompletedProcess:
    """Run a program in a new process, like `subprocess.run` with captured output.

    Args:
        program: Path of a script, or source code as for `python -c`.
        *arguments: Command-line arguments, `sys.argv[1:]`.
        cwd: Working directory.
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
