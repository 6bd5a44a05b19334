"""Many questions behind the same examples, answered by choosing: the examples are computed once."""

from __future__ import annotations

from example import main

import sgcore_lang as sgl

SHOTS = (
    ("The film was a joy from the first minute.", "good"),
    ("I left after half an hour, bored.", "bad"),
    ("Wonderful acting and a moving story.", "good"),
    ("The plot makes no sense at all.", "bad"),
)
BEGINNING = "Is the review good or bad?\n\n" + "".join(f"Review: {text}\nIt is: {label}\n\n" for text, label in SHOTS)


@sgl.function
def classify(s, review):
    s += BEGINNING
    s += "Review: " + review + "\nIt is: "
    s += sgl.select("label", choices=["good", "bad"], choices_method=sgl.unconditional_likelihood_normalized)


def show():
    reviews = ["A delight.", "A waste of time.", "I loved every scene."]
    states = classify.run_batch([{"review": review} for review in reviews], progress_bar=True)
    for review, state in zip(reviews, states, strict=True):
        print(f"{state['label']}: {review}")


if __name__ == "__main__":
    main(show, __doc__)
