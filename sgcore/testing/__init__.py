"""The conformance kit: suites that a plugin's tests inherit, and the sample model.

`pip install "sgcore[testing]"`; then, in the plugin's `tests/`:

    from sgcore.testing.models import ModelSuite

    class TestMyModel(ModelSuite):
        config = transformers.MyConfig(...)
"""

import importlib.util

SUITES = (
    "attention", "formats", "grammars", "kernels", "languages", "models", "platforms", "primitives", "quantization",
    "weights",
)  # fmt: skip

if importlib.util.find_spec("pytest"):
    import pytest

    # So that a failed assertion of a suite shows its values.
    pytest.register_assert_rewrite(*(f"{__name__}.{suite}" for suite in SUITES))
