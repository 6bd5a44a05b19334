"""A conversation of several questions, each answered with all that came before."""

from __future__ import annotations

from example import main

import sgcore_lang as sgl


@sgl.function
def interview(s, questions):
    s += sgl.system("You answer in one short sentence.")
    for number, question in enumerate(questions):
        s += sgl.user(question)
        s += sgl.assistant(sgl.gen(f"answer_{number}", max_tokens=32, temperature=0))


def show():
    state = interview.run(["Which planet is the largest?", "How many moons has it?"])
    for message in state.messages():
        print(f"{message['role']}: {message['content']}")


if __name__ == "__main__":
    main(show, __doc__)
