"""The example's word: the suite that every word passes, and what it does."""

from sgcore_vote import Vote

from sgcore.lang import Append, Assign, Generate, Generated
from sgcore.testing.primitives import Drive, PrimitiveSuite, usual_answer


class TestVote(PrimitiveSuite):
    word = "vote"
    examples = (lambda word: word("x"), lambda word: word("x", times=3, max_tokens=2))


def test_the_most_frequent_answer_is_kept():
    def answer(request):
        if isinstance(request, Generate):
            return Generated(" a", (" a", " b", " b "), {})
        return usual_answer(request)

    asked = Drive(Vote("x", 3), answer).requests
    assert asked[-3:] == [Append("b"), Assign("x", "b"), Assign("x_votes", 2)]
