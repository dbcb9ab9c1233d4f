"""Run the checks on the models of the zoo."""

import pytest
import zoo_checks
from zoo import ZOO


def pytest_generate_tests(metafunc):
    large = metafunc.config.getoption("--zoo")
    # Order by model, so that each model is built once per process.
    cases = [
        (name, check)
        for name, entry in ZOO.items()
        for check in zoo_checks.CHECKS
        if large or not (entry.large or zoo_checks.is_left_to_option(name, check))
    ]
    ids = [f"{name}-{check}" for name, check in cases]
    metafunc.parametrize(("name", "check"), cases, ids=ids)


def test_model(name, check, tmp_path):
    reason = zoo_checks.CHECKS[check](zoo_checks.subject(name), tmp_path)
    if reason is not None:
        pytest.skip(reason)
