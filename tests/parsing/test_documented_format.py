"""The format of docs/how-to/tool-calls.md, by the suite that it tells authors to use."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sgcore.api import ResponseFormat
from sgcore.testing.formats import Example, FormatSuite

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "tool-calls.md"


def documented() -> ResponseFormat:
    """What the page's first block with a format defines."""
    block = next(
        block for block in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S) if "ANGLE =" in block
    )
    names: dict[str, Any] = {}
    exec(block, names)
    format: ResponseFormat = names["ANGLE"]
    return format


class TestDocumented(FormatSuite):
    format = documented()
    examples = (
        Example("Wait.<call:now>{}</call>", "Wait.", calls=(("now", {}),)),
        Example(
            'Hm.\n</think>\n\n<call:get_weather>\n{"city": "Paris"}\n</call>',
            reasoning="Hm.",
            calls=(("get_weather", {"city": "Paris"}),),
            prompt="<|assistant|>\n<think>\n",
        ),
    )
