import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, precision_score, top_k_accuracy_score

from mobilenets.evaluation import Evaluation, balanced, proportion, softmax


def evaluation(truth, logits, labels=None):
    logits = np.asarray(logits, np.float32)
    labels = labels or tuple(f"c{i}" for i in range(logits.shape[1]))
    n = len(truth)
    return Evaluation(
        labels=labels,
        paths=(None,) * n,
        names=tuple(f"{i}.png" for i in range(n)),
        truth=np.asarray(truth, np.int64),
        probabilities=softmax(logits),
    )


@pytest.fixture(scope="module")
def random_evaluation():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 7, 300)
    logits = rng.normal(size=(300, 7)) + 1.5 * np.eye(7)[truth]
    return evaluation(truth, logits)


def test_figures_agree_with_scikit_learn(random_evaluation):
    e = random_evaluation
    assert e.accuracy.value == pytest.approx(np.mean(e.truth == e.predicted))
    assert e.balanced_accuracy.value == pytest.approx(balanced_accuracy_score(e.truth, e.predicted))
    assert (e.confusion == confusion_matrix(e.truth, e.predicted)).all()
    assert e.top(3).value == pytest.approx(top_k_accuracy_score(e.truth, e.probabilities, k=3))
    precision = precision_score(e.truth, e.predicted, average=None)
    assert [row.precision for row in e.per_class] == pytest.approx(list(precision))


def test_wilson_interval_of_a_known_case():
    # Newcombe 1998, Statistics in Medicine 17, Table I: 81 of 263, method 3: 0.2553 to 0.3662.
    score = proportion(81, 263)
    assert (score.low, score.high) == pytest.approx((0.2553, 0.3662), abs=1e-4)


@given(st.integers(0, 500), st.integers(1, 500))
def test_an_interval_holds_its_value_and_is_never_a_point(hits, n):
    hits = min(hits, n)
    score = proportion(hits, n)
    assert 0 <= score.low <= score.value <= score.high <= 1
    assert score.high - score.low > 0


def test_the_balanced_interval_covers_what_it_should():
    rng = np.random.default_rng(1)
    p, n = np.array([0.9, 0.6, 0.99]), np.array([30, 12, 100])
    inside = 0
    for _ in range(300):
        score = balanced(rng.binomial(n, p), n)
        inside += score.low <= p.mean() <= score.high
    assert inside / 300 > 0.9


def test_a_perfect_balanced_score_is_not_certain():
    score = balanced(np.array([5, 5]), np.array([5, 5]))
    assert score.value == score.high == 1.0
    assert score.low < 0.95


def test_classes_without_pictures_do_not_count():
    assert balanced(np.array([3, 0]), np.array([4, 0])).value == 0.75


def test_the_most_confident_mistake_comes_first():
    e = evaluation([0, 0, 1], [[0, 1], [0, 5], [0, 9]])
    assert e.most_confidently_wrong(5) == [1, 0]


def test_softmax_is_stable_and_sums_to_one():
    rows = softmax(np.array([[1e4, 1e4 - 1], [-1e4, 1e4]], np.float32))
    assert np.isfinite(rows).all()
    assert rows.sum(axis=1) == pytest.approx([1, 1])


def test_json_has_the_fixed_points(random_evaluation):
    figures = random_evaluation.to_json()
    assert set(figures["accuracy"]) == {"value", "low", "high", "n"}
    assert figures["n"] == 300
    assert figures["confusion"]["counts"][0][0] == random_evaluation.confusion[0, 0]
