"""Tests that modules import only from lower levels and that importing has no side effects."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "tfp_bayes"
# From the bottom level to the top: a package may import itself and those on earlier lines.
ORDER = [
    ["_plumbing"],
    ["uncertainty", "datasets", "losses", "metrics", "monitor"],
    ["posteriors", "priors"],
    ["layers"],
    ["prediction"],
    ["inference", "plots", "robustness"],
    ["export"],
    ["active", "models"],
    ["networks"],
    ["evaluation"],
    ["label"],
    ["scale", "studies"],
    ["commands"],
    ["cli"],
    ["__main__"],
]
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names}


def imports(path):
    """Yield every module that a file imports, anywhere in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "tfp_bayes":
                yield from (f"tfp_bayes.{alias.name}" for alias in node.names)
            else:
                yield node.module


FILES = [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "tfp_bayes" or len(parts) == 1 or parts[1] == "__version__":
            continue
        other = parts[1]
        assert LEVEL[other] < LEVEL[own] or other == own, f"{own} imports {other}"
        if own == "active":
            assert other not in ("layers", "models")
        if own == "uncertainty":
            assert other in ("_plumbing", "uncertainty")


def test_nothing_is_called_utils():
    assert not [path for path in ROOT.rglob("*util*.py") if ".venv" not in path.parts]


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={"PATH": "", "HOME": "/nonexistent", **environment},
    )


def test_importing_has_no_side_effects():
    code = (
        "import sys, random, keras\n"  # Keras itself draws from Python's generator
        "before = random.getstate()\n"
        "policy, floatx = keras.config.dtype_policy().name, keras.config.floatx()\n"
        "import tfp_bayes\n"
        "assert not {'tfp_bayes.active', 'tfp_bayes.plots'} & set(sys.modules)\n"
        "tfp_bayes.BayesianCNN, tfp_bayes.active, tfp_bayes.datasets\n"
        "tfp_bayes.plots, tfp_bayes.studies\n"
        "assert before == random.getstate()\n"
        "assert (policy, floatx) == (keras.config.dtype_policy().name, keras.config.floatx())\n"
        "assert 'tensorflow_datasets' not in sys.modules\n"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_the_command_answers_before_tensorflow_starts():
    code = (
        "import sys\n"
        "sys.argv = ['/bin/tfp-bayes', '--help']\n"
        "from tfp_bayes.cli import main\n"
        "try: main()\n"
        "finally: assert 'tensorflow' not in sys.modules\n"
    )
    done = python(code)
    assert "AssertionError" not in done.stderr
    assert "active-learning" in done.stdout


def test_public_names_exist():
    code = "import tfp_bayes; [getattr(tfp_bayes, n) for n in tfp_bayes.__all__]; tfp_bayes.nothing"
    assert "has no attribute 'nothing'" in python(code).stderr


def test_a_backend_that_cannot_be_imported_is_named():
    done = python("import tfp_bayes", KERAS_BACKEND="jax")
    assert done.returncode == 1
    assert "Hint: pip install tensorflow. If KERAS_BACKEND is set" in done.stderr


def test_another_backend_is_refused():
    # Only TensorFlow is installed here, so a stand-in module replaces Keras on JAX.
    code = (
        "import sys, types\n"
        "keras = sys.modules['keras'] = types.ModuleType('keras')\n"
        "keras.config = types.SimpleNamespace(backend=lambda: 'jax')\n"
        "import tfp_bayes\n"
    )
    done = python(code)
    assert done.returncode == 1
    assert "ImportError: Expected Keras to run on TensorFlow. Received" in done.stderr
    assert "'jax'" in done.stderr


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_module_docstrings_begin_with_what_is_there(path):
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring
    assert docstring.split()[0] not in ("What", "Whether", "How", "From", "Which")
