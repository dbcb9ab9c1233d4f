"""Names that the examples in docstrings use without importing them."""

import pytest


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace, tmp_path):
    import keras  # only where tests run, not in the process that hands them out
    import numpy as np
    import tensorflow as tf

    import tfp_bayes

    doctest_namespace.update(np=np, keras=keras, tf=tf, tfp_bayes=tfp_bayes, tmp_path=tmp_path)
    for module in (tfp_bayes, tfp_bayes.layers, tfp_bayes.inference):
        for name in module.__all__:
            doctest_namespace[name] = getattr(module, name)
    doctest_namespace["NoisyOracle"] = tfp_bayes.active.NoisyOracle
