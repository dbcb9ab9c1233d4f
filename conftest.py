"""Names that the examples in docstrings use without importing them."""

import pytest


@pytest.fixture(autouse=True)
def _doctest_names(request):
    if not hasattr(request.node, "dtest"):  # a test like any other
        return
    import keras  # only where tests run, not in the process that hands them out
    import numpy as np
    import tensorflow as tf

    import tfp_bayes

    names = request.getfixturevalue("doctest_namespace")
    tmp_path = request.getfixturevalue("tmp_path")
    names.update(np=np, keras=keras, tf=tf, tfp_bayes=tfp_bayes, tmp_path=tmp_path)
    for module in (tfp_bayes, tfp_bayes.layers, tfp_bayes.inference):
        for name in module.__all__:
            names[name] = getattr(module, name)
    names["NoisyOracle"] = tfp_bayes.active.NoisyOracle
