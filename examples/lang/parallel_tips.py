"""A list first, then every entry of it worked out side by side, then a summary of all."""

from __future__ import annotations

from example import main

import sgcore_lang as sgl

TIPS = ("sleeping", "eating", "moving")


@sgl.function
def tips(s, topic):
    s += f"Three tips on {topic}: 1. {TIPS[0]}. 2. {TIPS[1]}. 3. {TIPS[2]}.\n"
    forks = s.fork(len(TIPS))
    forks += lambda place: f"Tip {place + 1}, {TIPS[place]}, in detail:"
    forks += sgl.gen("detail", max_tokens=32, stop="\n", temperature=0)
    forks.join()
    for tip, detail in zip(TIPS, s["detail"], strict=True):
        s += f"{tip}:{detail}\n"
    s += "In short:" + sgl.gen("summary", max_tokens=32, stop="\n", temperature=0)


def show():
    print(tips.run("staying healthy").text())


if __name__ == "__main__":
    main(show, __doc__)
