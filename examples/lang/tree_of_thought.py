"""Several plans, each carried out in several ways, every result judged: a tree of shared beginnings."""

from __future__ import annotations

from collections import Counter

from example import main

import sgcore_lang as sgl

GRADES = ("1", "2", "3")


@sgl.function
def solve(s, question, width=3):
    s += f"Question: {question}\n"
    plans = s.fork(width)
    plans += lambda place: f"Plan {place + 1}:" + sgl.gen("plan", max_tokens=24, stop="\n", temperature=0.7) + "\n"
    leaves = []
    for plan in plans:
        ways = plan.fork(width)
        ways += "Worked out:" + sgl.gen("work", max_tokens=48, stop="\n", temperature=0.7) + "\n"
        ways += "Answer:" + sgl.gen("answer", max_tokens=8, stop="\n", temperature=0) + "\n"
        ways += "Grade of this answer, from 1 to 3: " + sgl.select("grade", choices=list(GRADES))
        leaves.append(ways)
    votes = Counter()
    for ways in leaves:
        for way in ways:
            votes[way["answer"].strip()] += int(way["grade"])
        ways.join()
    plans.join()
    s["answer"] = votes.most_common(1)[0][0]
    return votes


def show():
    state = solve.run("Ann has 3 apples and buys 2 bags of 4. How many has she?", width=2)
    print(state["answer"], dict(state.ret_value), state.usage)


if __name__ == "__main__":
    main(show, __doc__)
