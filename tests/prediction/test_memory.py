"""The memory of a prediction does not grow with the number of samples."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("measure_memory.py")


def peak(num_samples):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(num_samples)], capture_output=True, text=True, check=True
    )
    return int(done.stdout.splitlines()[-1])


def test_a_thousand_samples_take_the_memory_of_ten():
    assert peak(1000) < 1.1 * peak(10)
