"""One essay, three judges side by side, then a grade that knows all that they said."""

from __future__ import annotations

from example import main

import sgcore_lang as sgl

VIEWS = ("clarity", "originality", "evidence")


@sgl.function
def judge(s, essay):
    s += sgl.system("You judge essays, briefly.")
    s += sgl.user(f"Essay: {essay}")
    forks = s.fork(len(VIEWS))
    for fork, view in zip(forks, VIEWS, strict=True):
        fork += sgl.assistant(f"Its {view}:" + sgl.gen("view", max_tokens=24, temperature=0))
    forks.join()
    said = "\n".join(f"{view}:{text}" for view, text in zip(VIEWS, s["view"], strict=True))
    s += sgl.assistant(f"{said}\nGrade: " + sgl.select("grade", choices=["A", "B", "C", "D"]))


def show():
    state = judge.run("Trains are better than cars, because one can read in them.")
    for view, text in zip(VIEWS, state["view"], strict=True):
        print(f"{view}:{text}")
    print("grade:", state["grade"])


if __name__ == "__main__":
    main(show, __doc__)
