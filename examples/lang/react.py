"""Think, act, observe, again: until the model says that it is done, or has acted often enough."""

from __future__ import annotations

from example import main

import sgcore_lang as sgl

PAGES = {
    "Colorado orogeny": "The Colorado orogeny was a time of mountain building. It reaches the High Plains.",
    "High Plains": "The High Plains rise from 1,800 to 7,000 feet.",
}
MOST_ACTIONS = 4


def search(what):
    """The page whose title has the most words of `what`."""
    words = set(what.lower().split())
    title = max(PAGES, key=lambda title: len(words & set(title.lower().split())))
    return PAGES[title]


@sgl.function
def react(s, question):
    s += "Question: How high is the hill?\nThought: I look for the hill.\nAct: search the hill\n"
    s += "Observation: The hill is 300 feet high.\nThought: I know it.\nAct: finish 300 feet\n\n"
    s += f"Question: {question}\n"
    for number in range(MOST_ACTIONS):
        s += "Thought:" + sgl.gen(f"thought_{number}", max_tokens=24, stop="\n", temperature=0)
        s += "\nAct: " + sgl.select("act", choices=["search", "finish"])
        s += sgl.gen("what", max_tokens=12, stop="\n", temperature=0) + "\n"
        if s["act"] == "finish":
            break
        s += f"Observation: {search(s['what'])}\n"
    return s["what"].strip()


def show():
    state = react.run("How high does the land rise where the Colorado orogeny reaches east?")
    print(state.text())
    print("answer:", state.ret_value)


if __name__ == "__main__":
    main(show, __doc__)
