"""Generate in process, without a server: one prompt, a batch that shares a prefix, a stream.

python examples/offline_engine.py path/to/checkpoint
"""

from __future__ import annotations

import argparse

from sgcore import Engine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="Hugging Face folder, GGUF file, or hub id")
    parser.add_argument("--max-new-tokens", type=int, default=24)
    options = parser.parse_args()
    greedy = {"temperature": 0, "max_new_tokens": options.max_new_tokens}

    with Engine(model_path=options.model) as engine:
        print("one:", engine.generate("The capital of France is", greedy)["text"])

        shared = "A list of animals, one on each line, with the sound that it makes:\n"
        for reply in engine.generate([shared + start for start in ("The cow", "The dog", "The cat")], greedy):
            text, meta = reply["text"], reply["meta_info"]
            print(f"batch: {text!r} ({meta['cached_tokens']} of {meta['prompt_tokens']} prompt tokens from the cache)")

        printed = 0
        print("stream:", end=" ")
        for reply in engine.generate("Once upon a time", greedy, stream=True):
            print(reply["text"][printed:], end="", flush=True)
            printed = len(reply["text"])
        print()


if __name__ == "__main__":  # the engine may start processes, which import this file
    main()
