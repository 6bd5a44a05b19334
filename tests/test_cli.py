from __future__ import annotations

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from sgcore import cli, cli_serve
from sgcore.config import FLAT_NAMES, Choices
from sgcore.errors import LaunchError

PYTHON_M = [sys.executable, "-m", "sgcore.cli"]


def run(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        [*PYTHON_M, *words], capture_output=True, text=True, env=os.environ | environ, timeout=200, check=False
    )


@pytest.fixture
def said(monkeypatch):
    """What `sgcore serve` makes of its words: the choices, and who said each."""

    def said(*words: str) -> tuple[Choices, dict[str, str]]:
        seen = []

        def stop(layers):
            seen.append((layers.choices(), layers.origins))
            raise KeyboardInterrupt

        monkeypatch.setattr(cli_serve, "_resolved", stop)
        code = cli.main(["serve", *words])
        assert code == 130, code
        return seen[0]

    return said


def test_the_launcher_imports_no_torch():
    modules = "sgcore, sgcore.cli, sgcore.cli_serve, sgcore.cli_plugins, sgcore.hookspecs, sgcore.config, sgcore.api"
    modules += ", sgcore.plugins.resolve, sgcore.plugins.check, sgcore.plugins.builtin, sgcore.plugins.manager"
    code = f"import sys, {modules}; from sgcore.plugins.manager import load_hooks; load_hooks()"
    subprocess.run([sys.executable, "-c", f"{code}; assert 'torch' not in sys.modules"], check=True, timeout=60)


@pytest.mark.parametrize(
    ("code", "most"), [("import sgcore", 60), ("from sgcore.cli import main; main(['--help'])", 400)]
)
def test_the_first_words_need_few_modules(code, most):
    """What a start costs: a module takes about half a millisecond, the ones named here a tenth of a second and more."""
    heavy = "torch", "transformers", "numpy", "pydantic", "huggingface_hub", "starlette", "zmq", "asyncio"
    program = f"import sys; before = len(sys.modules)\n{code}\n"
    program += f"print(len(sys.modules) - before, *set({heavy}) & set(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    count, *imported = done.stderr.split()
    assert (int(count) < most, imported) == (True, [])


def test_help_names_every_command():
    result = run("--help")
    assert result.returncode == 0
    assert all(name in result.stdout for name in cli.COMMANDS)


def test_serve_help_has_every_option_and_alias():
    text = run("serve", "--help", COLUMNS="200").stdout
    assert text.startswith("Usage: sgcore serve MODEL [OPTIONS]") and "Example: sgcore serve path/" in text
    flags = [f"--{name.replace('_', '-')}" for name in FLAT_NAMES if name not in cli_serve.HIDDEN]
    aliases = [alias for names in cli_serve.ALIASES.values() for alias in names]
    assert [flag for flag in flags + aliases if flag not in text] == []


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["serve", "/no/such/model"], 1, "error: no such model folder or file: /no/such/model"),
        (["serve"], 2, "error: which model?"),
        (["serve", "x", "--prot", "1"], 2, "Did you mean --port?"),
        (["serve", "x", "--port", "many"], 2, "--port"),
        (["serve", "x", "--port", "70000"], 2, "error: --port: Input should be less than or equal to 65535"),
        (["serve", "x", "--schedule-policy", "lifo"], 2, 'Choose from: "fcfs", "lpm"'),
        (["serve", "x", "--log-level", "loud"], 2, 'Choose from: "debug", "info"'),
        (["serve", "x", "--disable-plugin", "nobody"], 2, "no such plugin"),
        (["serve", "x", "--config", "/no/file.yaml"], 2, "error: --config /no/file.yaml: No such file"),
        (["nonsense"], 2, 'Unknown command "nonsense"'),
        (["chat", "--base-url", "http://127.0.0.1:9"], 1, "no answer from http://127.0.0.1:9"),
    ],
)
def test_errors_are_one_line_and_a_hint(words, code, text):
    result = run(*words)
    assert (result.returncode, text in result.stderr) == (code, True), result.stderr
    assert "Traceback" not in result.stderr
    assert all(line.startswith(("error: ", "hint: ")) for line in result.stderr.strip().splitlines())


def test_a_missing_plugin_is_said_by_name(tmp_path):
    config = {"architectures": ["NobodyForCausalLM"], "max_position_embeddings": 8}
    (tmp_path / "config.json").write_text(json.dumps(config))
    result = run("serve", str(tmp_path), "--load-format", "dummy")
    assert result.returncode == 1
    assert "no installed plugin provides the model 'NobodyForCausalLM'; installed:" in result.stderr


def test_debug_shows_the_traceback():
    result = run("serve", "/no/such/model", "--debug")
    assert result.returncode == 1 and "Traceback" in result.stderr and "locate.py" in result.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [(LaunchError("x"), 1), (LaunchError("x", exit_code=2), 2), (KeyboardInterrupt(), 130), (OSError(), 1)],
)
def test_exit_codes(monkeypatch, error, code):
    def fail(layers):
        raise error

    monkeypatch.setattr(cli_serve, "_resolved", fail)
    assert cli.main(["serve", "x"]) == code


@pytest.mark.parametrize("words", [["m"], ["--model-path", "m"], ["--model", "m"], ["--port", "1", "m"]])
def test_the_model_with_and_without_its_flag(said, words):
    assert said(*words)[0].model.model_path == "m"


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--max-model-len", "9"], "context_length", 9),
        (["--gpu-memory-utilization", "0.5"], "mem_fraction_static", 0.5),
        (["--mem-fraction-static", "0.5"], "mem_fraction_static", 0.5),
        (["--host", "0.0.0.0"], "host", "0.0.0.0"),
        (["--disable-radix-cache"], "disable_radix_cache", True),
        (["--prefer", "a=b", "--prefer", "c=d"], "prefer", ("a=b", "c=d")),
        (["--json-model-override-args", '{"a": 1}'], "json_model_override_args", '{"a": 1}'),
    ],
)
def test_flags_and_aliases(said, words, name, value):
    choices, origins = said("m", *words)
    assert choices.public()[name] == value
    assert origins[name] == f"--{name.replace('_', '-')}"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.yaml", "port: 1\nhost: a\nlog-level: debug\nmodel_path: m\n"),
        ("c.toml", "port = 1\nhost = 'a'\nlog-level = 'debug'\nmodel_path = 'm'\n"),
        ("c.json", '{"port": 1, "host": "a", "log-level": "debug", "model_path": "m"}'),
    ],
)
def test_flag_beats_environment_beats_file_beats_default(said, monkeypatch, tmp_path, name, text):
    (tmp_path / name).write_text(text)
    monkeypatch.setenv("SGCORE_PORT", "2")
    monkeypatch.setenv("SGCORE_HOST", "b")
    choices, origins = said("--config", str(tmp_path / name), "--port", "3")
    server = choices.server
    assert (server.port, server.host, server.log_level, server.shutdown_timeout) == (3, "b", "debug", 30.0)
    assert (origins["port"], origins["host"]) == ("--port", "SGCORE_HOST")
    assert origins["log_level"] == f"{tmp_path / name}: log_level" and "shutdown_timeout" not in origins


def test_a_flag_can_undo_a_file(said, tmp_path):
    (tmp_path / "c.yaml").write_text("disable-radix-cache: true\n")
    config = ["--config", str(tmp_path / "c.yaml")]
    assert said("m", *config)[0].schedule.disable_radix_cache
    assert not said("m", *config, "--no-disable-radix-cache")[0].schedule.disable_radix_cache


def test_the_environment_splits_lists_at_commas(said, monkeypatch):
    monkeypatch.setenv("SGCORE_PREFER", "a=b,c=d")
    assert said("m")[0].plugins.prefer == ("a=b", "c=d")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.yaml", "prot: 1", "unknown option"),
        ("c.yaml", "- 1", "not a mapping"),
        ("c.yaml", "a: [", "--config"),
        ("c.toml", "port =", "--config"),
        ("c.json", "{", "--config"),
        ("c.ini", "", "unknown ending '.ini'"),
        ("c.yaml", "port: many", "c.yaml: port"),
    ],
)
def test_a_bad_file_is_a_usage_error(tmp_path, capsys, name, text, message):
    (tmp_path / name).write_text(text)
    assert cli.main(["serve", "m", "--config", str(tmp_path / name)]) == 2
    assert message in capsys.readouterr().err


def test_the_key_is_never_printed(capsys, tmp_path):
    (tmp_path / "c.yaml").write_text("api-key: 123456\n")
    assert cli.main(["serve", "m", "--config", str(tmp_path / "c.yaml")]) == 2
    assert "123456" not in capsys.readouterr().err


def test_plugins_list_prints_json_and_imports_no_driver(capsys):
    assert cli.main(["plugins", "list"]) == 0
    assert capsys.readouterr().out.startswith("KIND")
    code = "import sys; from sgcore.cli import main; main(['plugins', 'list', '--json'])"
    code += "; assert 'torch' not in sys.modules"
    text = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert {row["kind"] for row in json.loads(text)} >= {"weights", "hooks"}


def test_doctor_says_what_is_there(capsys):
    assert cli.main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("Models can be served on ")
    assert "Installed" in text and "Disabled" in text and "Devices present" in text


def test_doctors_verdict_comes_first(capsys, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    assert cli.main(["doctor", str(tmp_path)]) == 1
    first, hint, *_ = capsys.readouterr().out.split("\n")
    assert first.startswith(f"{tmp_path} can't be served: no installed plugin reads") and hint.startswith("hint: ")


class OneAnswer(BaseHTTPRequestHandler):
    """Two routes of a server: the list of models, and an answer in three events."""

    asked: list[dict[str, object]] = []

    def do_GET(self) -> None:
        self._send(json.dumps({"data": [{"id": "tiny"}]}), "application/json")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body)
        events = [{"choices": [{"delta": {"content": piece}}]} for piece in ("Hel\u2028", "\u0085lo\u2029")]
        text = "".join(f"data: {json.dumps(event, ensure_ascii=False)}\n\n" for event in events)
        self._send(text + "data: [DONE]\n\n", "text/event-stream")

    def _send(self, text: str, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *values: object) -> None:
        """Say nothing."""


def test_chat_streams_remembers_and_clears():
    server = HTTPServer(("127.0.0.1", 0), OneAnswer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    words = [
        "chat",
        "--base-url",
        f"http://127.0.0.1:{server.server_port}",
        "--system",
        "Be brief.",
        "--max-tokens",
        "8",
    ]
    try:
        result = subprocess.run(
            [*PYTHON_M, *words],
            input="one\ntwo\n/clear\nthree\n/exit\nfour\n",
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        server.shutdown()
        server.server_close()
    answer = "Hel\u2028\u0085lo\u2029"
    assert (result.returncode, result.stdout) == (0, f"{answer}\n" * 3), result.stderr
    texts = [[message["content"] for message in body["messages"]] for body in OneAnswer.asked]
    assert texts == [["Be brief.", "one"], ["Be brief.", "one", answer, "two"], ["Be brief.", "three"]]
    assert all(body["max_tokens"] == 8 and body["model"] == "tiny" and body["stream"] for body in OneAnswer.asked)
