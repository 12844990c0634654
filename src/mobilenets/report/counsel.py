"""What somebody who relies on a model has to be told: warnings, use, limits, and what would make it better.

Every sentence follows from the run's own figures, as plain text with names in it as they are:
whoever shows it escapes it.
"""

from mobilenets.evaluation import Evaluation
from mobilenets.report.findings import always_the_same, confused_pairs, smallest_class, weakest
from mobilenets.report.record import RunRecord
from mobilenets.text import count, first_few

SURE = 0.9
"""A mistake made with at least this probability is worth a look at its label."""
_FEW_TO_LEARN = 30
_WIDE = 0.1


def warnings(record: RunRecord) -> tuple[str, ...]:
    """What a reader must know before believing the score; empty for an ordinary run."""
    evaluation, found = record.evaluation, []
    n = len(evaluation.truth)
    if evaluation.seen:
        found.append(
            f"{evaluation.seen:,} of the {count(n, 'test picture')} had been trained on: "
            "the score is higher than it would be on new pictures."
        )
    if evaluation.unreadable:
        found.append(
            f"{count(len(evaluation.unreadable), 'test picture')} could not be read and "
            f"{'is' if len(evaluation.unreadable) == 1 else 'are'} not counted."
        )
    if n and not better_than_guessing(evaluation):
        found.append(
            "It has not been shown to be better than always naming the most common class "
            f"({always_the_same(evaluation):.1%}): do not rely on it."
        )
    width = evaluation.accuracy.high - evaluation.accuracy.low
    if n and width > 2 * _WIDE:
        found.append(
            f"With {count(n, 'test picture')} the accuracy is only roughly known: "
            f"it may be anything from {evaluation.accuracy.low:.0%} to {evaluation.accuracy.high:.0%}."
        )
    return tuple(found)


def better_than_guessing(evaluation: Evaluation) -> bool:
    """Whether the accuracy is certainly above that of naming one and the same class for every picture."""
    return evaluation.accuracy.low > always_the_same(evaluation)


def uses(record: RunRecord) -> tuple[str, ...]:
    """What the model is for."""
    labels = record.manifest.labels
    return (
        "Sorting pictures of the same kind as those it learnt from into "
        f"{count(len(labels), 'class', 'classes')}: {first_few(labels, 12)}.",
        "The score holds for pictures taken in the same way: another camera, place or season is a new "
        "question, answered by testing it on pictures from there.",
    )


def limits(record: RunRecord) -> tuple[str, ...]:
    """What the model cannot do and what its score does not say, as far as the data tell."""
    evaluation, labels = record.evaluation, record.manifest.labels
    n = len(evaluation.truth)
    found = [
        f"It was never shown anything that is none of these {count(len(labels), 'class', 'classes')}, "
        "and will name one of them for any picture, also with a high probability."
    ]
    if n:
        score = evaluation.accuracy
        found.append(
            f"The score comes from {count(n, 'picture')}: with 95% confidence the accuracy on such pictures "
            f"lies between {score.low:.1%} and {score.high:.1%}."
        )
    smallest, of_it = smallest_class(record.folder)
    found.append(
        f"Its smallest class, {smallest}, had {count(of_it['train'], 'picture')} to learn from "
        f"and {count(of_it['test'], 'picture')} in the test."
    )
    weak = weakest(evaluation)
    if weak is not None and weak.recall.value < 1:
        found.append(
            f"Its weakest class, {weak.label}, was recognised in {round(weak.recall.value * weak.n):,} of "
            f"{count(weak.n, 'picture')} (95% interval {weak.recall.low:.0%} to {weak.recall.high:.0%})."
        )
    untested = [
        label for label, total in zip(labels, evaluation.confusion.sum(axis=1), strict=True) if not total
    ]
    if untested:
        found.append(
            f"{count(len(untested), 'class was', 'classes were')} not tested, for want of pictures: "
            f"{first_few(untested, 8)}."
        )
    found += [
        "Byte-identical pictures never stand on both sides of the split; nearly identical ones "
        "(bursts, frames of one film) may, and then make the score look better than it is.",
        "It was not tested for decisions about people, their safety, health or rights: do not use it there.",
    ]
    return tuple(found)


def advice(record: RunRecord) -> tuple[str, ...]:
    """What would most likely make the next model better."""
    evaluation, found = record.evaluation, []
    if len(evaluation.truth) and not better_than_guessing(evaluation):
        found.append("Train longer, or begin from a network that knows pictures already (--init).")
    wrong = evaluation.predicted != evaluation.truth
    sure = int((wrong & (evaluation.probabilities.max(axis=1, initial=0.0) >= SURE)).sum())
    if sure:
        found.append(
            f"Look at the {count(sure, 'mistake')} made with {SURE:.0%} certainty or more first (above, "
            "and in predictions.csv): often the label is wrong, or people find the two classes hard to "
            "tell apart as well."
        )
    pairs = confused_pairs(evaluation, 1)
    if pairs:
        pair = pairs[0]
        found.append(
            f"{pair.truth} is taken for {pair.predicted} most often ({pair.count:,} of {pair.n:,}): "
            "pictures that show the difference help most."
        )
    to_learn = {label: n["train"] for label, n in record.folder.counts().items()}
    few = [
        f"{label} ({n})"
        for label, n in sorted(to_learn.items(), key=lambda item: item[1])
        if n < _FEW_TO_LEARN
    ]
    if few:
        found.append(f"Collect more pictures where there are fewest to learn from: {first_few(few)}.")
    score = evaluation.accuracy
    if score.n and score.high - score.low > _WIDE:
        found.append(
            f"Collect more test pictures: with {count(score.n, 'picture')} two models whose accuracies "
            f"differ by less than about {(score.high - score.low) / 2 * 100:.0f} points cannot be told apart."
        )
    return tuple(found)
