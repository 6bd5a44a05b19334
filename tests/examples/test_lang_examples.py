"""The language's examples: on a script, whose outcome is known, and on the sample model in this process."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import sgcore_lang as sgl
from sgcore import Engine
from sgcore.lang import Generate, Score
from sgcore_lang.backend import Call
from sgcore_lang.backends.engine import InProcess
from tests.integration.serving import MODEL, needs_model

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "lang"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py") if path.stem != "example")


@pytest.fixture(autouse=True)
def examples_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))


def example(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_multi_turn() -> None:
    backend = sgl.Scripted(["Jupiter.", "Ninety-five."])
    state = example("multi_turn").interview.run(["Largest?", "Moons?"], backend=backend)
    assert [message["content"] for message in state.messages()] == [
        "You answer in one short sentence.", "Largest?", "Jupiter.", "Moons?", "Ninety-five.",
    ]  # fmt: skip
    assert state["answer_1"] == "Ninety-five." and backend.requests == 1


def test_tool_use() -> None:
    module = example("tool_use")
    backend = sgl.Scripted(["calculator", " 6 * (5 + 2)", " 42"])
    state = module.with_tool.run("What is 6 times 7?", backend=backend)
    assert (state["tool"], state["result"], state["answer"]) == ("calculator", "42", " 42")
    assert state.text().endswith("Input: 6 * (5 + 2)\nResult: 42\nAnswer: 42") and backend.requests == 2
    assert module.calculate("__import__('os')") == module.calculate("1/0") == "not a sum"


def test_json_by_template_is_one_request_and_valid() -> None:
    backend = sgl.Scripted(["Polly", "bird", "2"])
    state = example("json_fields").by_template.run("Polly is a bird.", backend=backend)
    assert json.loads(state["json"]) == {"name": "Polly", "kind": "bird", "legs": 2}
    assert backend.requests == 1


def test_json_by_schema_sends_the_schema() -> None:
    backend = sgl.Scripted(['{"name": "Polly", "legs": 2}'])
    module = example("json_fields")
    assert json.loads(module.by_schema.run("Polly", backend=backend)["json"])["legs"] == 2
    assert json.loads(backend.calls[0].pieces[-1].params["json_schema"]) == module.SCHEMA


def test_parallel_tips() -> None:
    backend = sgl.Scripted(lambda text, request: " sum" if text.endswith("short:") else f" <{text.split()[-3]}>")
    state = example("parallel_tips").tips.run("health", backend=backend)
    assert state["detail"] == [" <sleeping,>", " <eating,>", " <moving,>"]
    assert state.text().endswith("sleeping: <sleeping,>\neating: <eating,>\nmoving: <moving,>\nIn short: sum")
    assert not backend.pinned


def test_tree_of_thought() -> None:
    def answer(text: str, request: Any) -> str:
        if isinstance(request, Score):
            return "3" if "Plan 2" in text else "1"
        return " eleven" if text.endswith("Answer:") and "Plan 2" in text else " nine"

    backend = sgl.Scripted(answer)
    state = example("tree_of_thought").solve.run("apples?", backend=backend)
    assert state["answer"] == "eleven" and state.ret_value == {"nine": 6, "eleven": 9}
    assert backend.requests == 1 + 3 + 9 and not backend.pinned


def test_react() -> None:
    script = [" search the orogeny", "search", " the Colorado orogeny", " High Plains next", "search", " High Plains",
              " I know", "finish", " 7,000 feet"]  # fmt: skip
    state = example("react").react.run("How high?", backend=sgl.Scripted(script))
    assert state.ret_value == "7,000 feet" and state.text().count("Observation:") == 3


def test_judge() -> None:
    backend = sgl.Scripted(lambda text, request: "B" if isinstance(request, Score) else f" so {text[-9:-1]}")
    state = example("judge").judge.run("Trains.", backend=backend)
    assert state["grade"] == "B" and state["view"] == [" so  clarity", " so ginality", " so evidence"]


def test_few_shot() -> None:
    backend = sgl.Scripted(lambda text, request: "bad" if "waste" in text.splitlines()[-2] else "good")
    module = example("few_shot")
    states = module.classify.run_batch([("A delight.",), ("A waste.",)], backend=backend)
    assert [state["label"] for state in states] == ["good", "bad"]
    assert backend.calls[0].group is not None and not backend.pinned


# -- on the sample model -----------------------------------------------------------------------------------------


class Brief(InProcess):
    """The engine, with few tokens for each generation: CI has few cores."""

    async def run(self, call: Call, progress: Any = None) -> Any:
        return await super().run(replace(call, pieces=[brief(piece) for piece in call.pieces]), progress)


def brief(piece: Any) -> Any:
    if not isinstance(piece, Generate) or piece.params.get("json_schema"):
        return piece
    return replace(piece, params={**piece.params, "max_new_tokens": min(4, piece.params["max_new_tokens"])})


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(model_path=str(MODEL), max_total_tokens=8192, served_model_name="smol") as started:
        yield started


@needs_model
@pytest.mark.parametrize("name", NAMES)
def test_on_the_sample_model(name: str, engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    sgl.set_default_backend(Brief(engine))
    module = example(name)
    module.show()
    assert capsys.readouterr().out.strip()
    assert engine.frontend.command("stats").stats.used_tokens == 0, "nothing is left running or pinned"
