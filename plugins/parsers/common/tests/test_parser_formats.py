"""Every format of this package, by the suite that all formats pass."""

from __future__ import annotations

import json

from sgcore.parsing.formats import Format
from sgcore.plugins import drivers
from sgcore.plugins.installed import Installed
from sgcore.testing.formats import Example, FormatSuite, Read, read, split
from sgcore_parsers import formats

PARIS = ("get_weather", {"city": "Paris"})
NOW = ("now", {})
TRICKY = {"city": 'a "quoted" \\ {brace} </tool_call> 世界', "days": 3}
TRICKY_JSON = '{"city": "a \\"quoted\\" \\\\ {brace} </tool_call> 世界", "days": 3}'


class TestThink(FormatSuite):
    format = formats.THINK
    examples = (
        Example("<think>\nFirst, <b>2 < 3</b>.\n\nThen?\n</think>\n\nYes.", "Yes.", "First, <b>2 < 3</b>.\n\nThen?"),
        Example("Hm.\n</think>\n\nYes.", "Yes.", "Hm.", prompt="<|im_start|>assistant\n<think>\n"),
        Example("Yes.", "Yes.", prompt="<|im_start|>assistant\n<think>\n\n</think>\n\n"),
        Example("Hm.</think>Yes.", "Yes.", "Hm.", prompt="<｜User｜>a <think> b<｜Assistant｜><think>\n"),
    )


class TestHermes(FormatSuite):
    format = formats.HERMES
    examples = (
        Example('<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>', calls=(PARIS,)),
        Example(
            'Let me see.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>\n'
            '<tool_call>{"arguments": {}, "name": "now"}</tool_call>\nDone.',
            "Let me see.Done.",
            calls=(PARIS, NOW),
        ),
    )

    def test_a_delimiter_inside_a_string_is_text(self) -> None:
        """transformers ends the call there."""
        text = f'<tool_call>{{"name": "get_weather", "arguments": {TRICKY_JSON}}}</tool_call>ok'
        for seed in range(100):
            message = read(Format.of(self.format), split(text, seed))
            assert message == Read("ok", calls=[("get_weather", TRICKY_JSON)])
        assert json.loads(TRICKY_JSON) == TRICKY


class TestLlama3(FormatSuite):
    format = formats.LLAMA_3
    examples = (
        Example('{"name": "get_weather", "parameters": {"city": "Paris"}}', calls=(PARIS,)),
        Example('<|python_tag|>{"name": "now", "parameters": {}}', calls=(NOW,)),
    )


class TestMistral(FormatSuite):
    format = formats.MISTRAL
    examples = (
        Example('[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris"}}]', calls=(PARIS,)),
        Example(
            'Look:[TOOL_CALLS][{"name": "now", "arguments": {}}, '
            '{"name": "get_weather", "arguments": {"city": "Paris"}}]',
            "Look:",
            calls=(NOW, PARIS),
        ),
    )

    def test_the_models_own_ids_are_left_out(self) -> None:
        text = '[TOOL_CALLS] [{"name": "now", "arguments": {}, "id": "a1b2c3d4e"}]'
        assert read(Format.of(self.format), text) == Read(calls=[("now", "{}")])


class TestMistralArgs(FormatSuite):
    format = formats.MISTRAL_ARGS
    examples = (Example('[TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}', calls=(PARIS,)),)

    def test_the_models_own_ids_are_left_out(self) -> None:
        text = "[TOOL_CALLS]now[CALL_ID]a1b2c3d4e[ARGS]{}"
        assert read(Format.of(self.format), text) == Read(calls=[("now", "{}")])

    def test_calls_follow_one_another(self) -> None:
        """transformers takes the first call's arguments to go on to the end."""
        text = 'Hm.[TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}[TOOL_CALLS]now[ARGS]{}'
        read_calls = Read("Hm.", calls=[("get_weather", '{"city": "Paris"}'), ("now", "{}")])
        assert read(Format.of(self.format), text) == read_calls


class TestQwen3Coder(FormatSuite):
    format = formats.QWEN_3_CODER
    examples = (
        Example(
            "I look.\n<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n<parameter=days>\n3\n"
            "</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>",
            "I look.",
            calls=(("get_weather", {"city": "Paris", "days": 3}), NOW),
        ),
    )


class TestDeepSeekV3(FormatSuite):
    format = formats.DEEPSEEK_V3
    examples = (
        Example(
            "Well.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n"
            '{"city": "Paris"}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n'
            "```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            "Well.",
            calls=(PARIS, NOW),
        ),
    )


class TestDeepSeekV31(FormatSuite):
    format = formats.DEEPSEEK_V31
    examples = (
        Example(
            'Well.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": "Paris"}'
            "<｜tool▁call▁end｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            "Well.",
            calls=(PARIS, NOW),
        ),
    )


def test_every_entry_point_is_tested() -> None:
    installed = Installed.read()
    mine = [e for e in installed.group("sgcore.parsers") if e.distribution == "sgcore-parsers"]
    tested = [suite.format for suite in FormatSuite.__subclasses__()]
    assert len(mine) >= 10
    for entry in mine:
        assert drivers.load(drivers.find("parser", entry.name, installed)) in tested, entry.name
