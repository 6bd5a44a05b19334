"""The word `vote`: ask several times, and go on with what was said most often."""

from collections import Counter

from sgcore.api import Primitive
from sgcore.lang import Append, Assign, Generate, Mark, Rewind


class Vote(Primitive):
    """`vote(name, times, max_tokens)`: NAME is the most frequent answer, NAME_votes says how often it came."""

    def __init__(self, name, times=5, max_tokens=16):
        self.name = name
        self.params = {"n": times, "max_new_tokens": max_tokens, "stop": ["\n"]}

    def run(self, state):
        start = yield Mark()
        said = yield Generate(self.params)
        yield Rewind(start)
        answer, votes = Counter(text.strip() for text in said.texts).most_common(1)[0]
        yield Append(answer)
        yield Assign(self.name, answer)
        yield Assign(f"{self.name}_votes", votes)

    def names(self):
        return [self.name, f"{self.name}_votes"]
