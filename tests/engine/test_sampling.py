from __future__ import annotations

import pytest

from sgcore.engine.sampling import preferred_sampling, sampling_from
from sgcore.errors import LaunchError


def test_a_request_beats_preferred_values() -> None:
    preferred = preferred_sampling('{"temperature": 0.2, "seed": 4, "max_new_tokens": 9}')
    params = sampling_from({"temperature": 0.7}, preferred, fill_context=True)
    assert (params.temperature, params.sampling_seed, params.max_new_tokens) == (0.7, 4, 9)


@pytest.mark.parametrize("text", ["{", "[]", '"a"', '{"temperature": "hot"}', '{"temprature": 1}', '{"top_p": 2}'])
def test_bad_preferred_values_are_refused_with_the_option(text: str) -> None:
    with pytest.raises(LaunchError, match="--preferred-sampling-params: ") as caught:
        preferred_sampling(text)
    assert caught.value.exit_code == 2
