"""SGLang's own client against a running sgcore server: a generation, a choice, a fork and a stream.

pip install --no-deps sglang
pip install aiohttp ipython pybase64 requests tqdm  # what the client imports
sgcore serve path/to/checkpoint
python examples/sglang_client.py
"""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from types import ModuleType
from typing import Any


def language() -> ModuleType:
    """`sglang.lang.api`, and nothing of SGLang's server, which `import sglang` would need torch and CUDA for."""
    spec = find_spec("sglang")
    if spec is None or spec.submodule_search_locations is None:
        raise SystemExit("SGLang's client is not installed; the first lines of this file say how")
    package = ModuleType("sglang")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["sglang"] = package
    from sglang.lang import api

    return api


def endpoint(base_url: str) -> Any:
    """SGLang's backend for a server."""
    from sglang.lang.backend.runtime_endpoint import RuntimeEndpoint

    return RuntimeEndpoint(base_url)


def run(sgl: Any, backend: Any) -> dict[str, Any]:
    """What the programs found, by name."""

    @sgl.function
    def facts(s: Any, country: str) -> None:
        s += f"The capital of {country} is" + sgl.gen("capital", max_tokens=6, temperature=0, stop=["."])
        s += ".\n" + f"{country} lies in " + sgl.select("continent", choices=["Europe", "Asia", "Africa"]) + ".\n"
        forks = s.fork(2)
        for place, what in enumerate(("food", "sport")):
            forks[place] += f"Its best known {what} is" + sgl.gen("known", max_tokens=8, temperature=0, stop="\n")
        forks.join()
        s += "In numbers: " + sgl.gen("number", max_tokens=6, temperature=0, dtype=int)

    @sgl.function
    def story(s: Any) -> None:
        s += "Once upon a time" + sgl.gen("story", max_tokens=24, temperature=0)

    @sgl.function
    def chat(s: Any, question: str) -> None:
        s += sgl.user(question)
        s += sgl.assistant(sgl.gen("answer", max_tokens=16, temperature=0))

    state = facts.run(country="France", backend=backend)
    found = {name: state[name] for name in ("capital", "continent", "known", "number")}
    found["pieces"] = list(story.run(backend=backend, stream=True).text_iter("story"))
    found["story"] = story.run(backend=backend)["story"]
    batch = chat.run_batch([{"question": f"What is {n} + {n}?"} for n in range(3)], backend=backend)
    return {**found, "answers": [state["answer"] for state in batch]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", default="http://127.0.0.1:30000")
    options = parser.parse_args()
    for name, value in run(language(), endpoint(options.base_url)).items():
        print(f"{name}: {value!r}")


if __name__ == "__main__":
    main()
