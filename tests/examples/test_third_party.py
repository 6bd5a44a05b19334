"""The packages of examples/third_party do in an environment without the repository what its users want of them."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import pytest
from transformers import Olmo2Config

from sgcore.testing.checkpoints import write_checkpoint
from tests.fresh import ROOT, FreshEnvironment, build_wheels

EXAMPLES = ROOT / "examples" / "third_party"
NEEDED = (ROOT, ROOT / "plugins/hardware/cpu", ROOT / "plugins/models/llama", ROOT / "plugins/lang/core")
THEIRS = {
    "sgcore-olmo2": EXAMPLES / "model",
    "sgcore-nf4": EXAMPLES / "quantization",
    "sgcore-lang-vote": EXAMPLES / "primitive",
}
ENGINE = """
import sys
from sgcore import Engine
with Engine(model_path=sys.argv[1], quantization="nf4", skip_tokenizer_init=True, max_total_tokens=256) as engine:
    print({decision.name: decision.value for decision in engine.plan.decisions}["quantization"])
    reply = engine.generate(input_ids=[5, 6, 7], sampling_params={"max_new_tokens": 4, "ignore_eos": True})
    assert len(reply["output_ids"]) == 4
"""
PROGRAM = """
import sgcore_lang as sgl
@sgl.function
def ask(s):
    s += "Q" + sgl.vote("a", times=3) + "!"
state = ask.run(backend=sgl.Scripted(["x", "y", "y"]))
assert (state["a"], state["a_votes"], state.text()) == ("y", 2, "Qy!"), state.text()
"""
Run = Callable[..., str]
pytestmark = pytest.mark.timeout(1800)  # whichever test comes first waits for wheels, with the kernels compiled


@contextmanager
def timed(what: str) -> Iterator[None]:
    began = monotonic()
    yield
    print(f"{what}: {monotonic() - began:.1f} s")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> FreshEnvironment:
    folder = tmp_path_factory.mktemp("outside")
    wheels = folder / "wheels"
    with timed("build wheels"):
        build_wheels([*NEEDED, *THEIRS.values()], wheels, compiles=True)
    made = FreshEnvironment(folder / "venv")
    with timed("install"):
        made.install(*(f"{name}[test]" for name in THEIRS), "sgcore-lang", wheels=wheels)
    return made


@pytest.fixture
def run(environment: FreshEnvironment, tmp_path: Path) -> Run:
    def run(*words: str) -> str:
        with timed(" ".join(words[:3]).partition("\n")[0]):
            done: subprocess.CompletedProcess[str] = environment.run(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    return run


def test_nothing_comes_from_the_repository(run: Run) -> None:
    found = run("python", "-c", "import sgcore, sgcore_olmo2, sys; print(sgcore.__file__, sgcore_olmo2.__file__)")
    assert str(ROOT) not in found and found.count("site-packages") == 2


@pytest.mark.slow
def test_their_suites_pass(run: Run, tmp_path: Path) -> None:
    for name, folder in THEIRS.items():
        shutil.copytree(folder / "tests", tmp_path / name)
    said = run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *THEIRS)
    assert " passed" in said and "skipped" not in said


def test_they_are_listed_and_load(run: Run) -> None:
    listed = json.loads(run("sgcore", "plugins", "list", "--json"))
    assert {entry["name"] for entry in listed if entry["distribution"] in THEIRS} == {"Olmo2ForCausalLM", "nf4", "vote"}
    assert all(entry["compatible"] for entry in listed)
    checked = run("sgcore", "plugins", "check")
    assert checked.count("ok ") == len(listed) and "FAIL" not in checked


def test_the_model_runs_with_the_quantization(run: Run, tmp_path: Path) -> None:
    config = Olmo2Config(
        vocab_size=99, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, pad_token_id=0,
        eos_token_id=1,
    )  # fmt: skip
    write_checkpoint(config, tmp_path / "tiny")
    doctor = run("sgcore", "doctor", "tiny")
    assert "Olmo2ForCausalLM (sgcore-olmo2 0.1.0)" in doctor and doctor.count("Disabled\nnothing") == 1
    assert "native kernels" in doctor or shutil.which("c++") is None
    assert "nf4 (sgcore-nf4 0.1.0)" in run("python", "-c", ENGINE, "tiny")


def test_a_program_has_the_word(run: Run) -> None:
    run("python", "-c", PROGRAM)
