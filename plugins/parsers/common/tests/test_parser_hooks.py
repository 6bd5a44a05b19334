"""Formats are found in what chat templates say; the snippets are from the templates of the families."""

from __future__ import annotations

import pytest

from sgcore_parsers.hooks import sgcore_select_reasoning_parser, sgcore_select_tool_call_parser

QWEN_3 = """{{- '\\n<tool_call>\\n{"name": "' }}{{- tool_call.name }}{{- '", "arguments": ' }}
{%- set content = content.split('</think>')[-1].lstrip('\\n') %}"""
QWEN_25 = """{{- '\\n<tool_call>\\n{"name": "' }}{{- tool_call.name }}{{- '", "arguments": ' }}"""
QWEN_3_CODER = (
    """{{- '\\n<tool_call>\\n<function=' + tool_call.name + '>\\n' }}{{- '<parameter=' + args_name + '>\\n' }}"""
)
LLAMA_31 = """{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}{{- '{"name": "' + tool_call.name + '", ' }}
{{- '"parameters": ' }}{{- tool_call.arguments | tojson }}"""
MISTRAL_3 = """{{- "[TOOL_CALLS] [" }}{{- out[:-1] }}{{- ', "id": "' + tool_call.id + '"}' }}"""
MISTRAL_32 = """{{- "[TOOL_CALLS]" }}{{- tool.function.name }}{{- "[ARGS]" }}{{- arguments }}"""
DEEPSEEK_R1 = """{{'<｜Assistant｜><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + tool['type'] + '<｜tool▁sep｜>'
+ tool['function']['name']
+ '\\n' + '```json' + '\\n'}}{% set content = content.split('</think>')[-1] %}"""
DEEPSEEK_V31 = """{{'<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>'
+ tool['function']['name'] + '<｜tool▁sep｜>' + arguments}}</think>"""
GLM_45 = """{{ '\\n<tool_call>' + tc.name }}<arg_key>{{ k }}</arg_key><arg_value>{{ v }}</arg_value>"""
SMOLLM_2 = """{% for message in messages %}
{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>'}}"""


@pytest.mark.parametrize(
    ("template", "calls", "reasoning"),
    [
        (QWEN_3, "hermes", "qwen3"),
        (QWEN_25, "hermes", None),
        (QWEN_3_CODER, "qwen3_coder", None),
        (LLAMA_31, "llama3", None),
        (MISTRAL_3, "mistral", None),
        (MISTRAL_32, "mistral-args", None),
        (DEEPSEEK_R1, "deepseekv3", "qwen3"),
        (DEEPSEEK_V31, "deepseekv31", "qwen3"),
        (GLM_45, None, None),
        (SMOLLM_2, None, None),
    ],
)
def test_a_template_tells_its_formats(template: str, calls: str | None, reasoning: str | None) -> None:
    assert sgcore_select_tool_call_parser(template) == calls
    assert sgcore_select_reasoning_parser(template) == reasoning
