"""The Gaussian process, against sums that are written out."""

import math

import numpy as np
import pytest
from scipy import stats

from search.studies import gaussian_process
from search.studies.gaussian_process import expected_improvement, scalarise


def slow_improvement(known: list, values: list, pending: list, candidates: list) -> list[float]:
    """The expected improvement of each candidate, one draw of the hyperparameters after the other."""
    total, likelihoods = np.zeros(len(candidates)), []
    for lengths, noise in zip(*gaussian_process.hyperparameters(len(known[0])), strict=True):

        def kernel(a: list[float], b: list[float], lengths: np.ndarray = lengths) -> float:
            r = math.sqrt(sum(((x - y) / length) ** 2 for x, y, length in zip(a, b, lengths, strict=True)))
            return (1 + math.sqrt(5) * r + 5 * r**2 / 3) * math.exp(-math.sqrt(5) * r)

        def predict(
            at: list[float], points: list, y: list, kernel: object = kernel, noise: float = noise
        ) -> tuple[float, float]:
            inverse = np.linalg.inv([[kernel(a, b) + noise * (a is b) for b in points] for a in points])
            k = np.array([kernel(at, b) for b in points])
            return k @ inverse @ np.array(y), 1 - k @ inverse @ k

        covariance = [[kernel(a, b) + noise * (a is b) for b in known] for a in known]
        likelihoods.append(stats.multivariate_normal(np.zeros(len(known)), covariance).logpdf(values))
        points, y = known + pending, values + [predict(p, known, values)[0] for p in pending]
        best = min(predict(p, points, y)[0] for p in points)
        improvements = []
        for candidate in candidates:
            mean, variance = predict(candidate, points, y)
            gains = stats.norm(best - mean, math.sqrt(variance))
            improvements.append(gains.expect(lambda gain: gain, lb=0, ub=gains.ppf(1 - 1e-12)))
        weight = math.exp(likelihoods[-1])
        total += weight * np.array(improvements)
    return list(total / np.exp(likelihoods).sum())


@pytest.mark.parametrize("pending", [0, 2])
def test_as_a_slow_reference(monkeypatch: pytest.MonkeyPatch, pending: int) -> None:
    monkeypatch.setattr(gaussian_process, "_DRAWS", 4)
    monkeypatch.setattr(gaussian_process, "_LEAST_LIKELY", 0.0)
    draw = np.random.default_rng(3)
    known, ahead, candidates = (draw.random((count, 2)) for count in (5, pending, 6))
    values = scalarise(draw.random((5, 1)), draw)
    found = expected_improvement(known, values, ahead, candidates)
    expected = slow_improvement(known.tolist(), values.tolist(), ahead.tolist(), candidates.tolist())
    np.testing.assert_allclose(found / found.sum(), np.array(expected) / sum(expected), rtol=1e-6)


def test_less_is_expected_where_a_trial_runs() -> None:
    known, candidates = np.array([[0.0], [0.5], [1.0]]), np.array([[0.25], [0.75]])
    values, none = np.array([0.0, -1.0, 1.0]), np.empty((0, 1))
    alone = expected_improvement(known, values, none, candidates)
    beside = expected_improvement(known, values, candidates[:1], candidates)
    assert beside[0] / beside[1] < 0.75 * alone[0] / alone[1]


def test_values_get_one_scale_whatever_their_unit() -> None:
    draw = np.random.default_rng(0)
    values = draw.random((9, 1))
    scaled = scalarise(values, draw)
    assert scaled.mean() == pytest.approx(0)
    assert scaled.std() == pytest.approx(1)
    np.testing.assert_allclose(scalarise(1e-3 * values + 5, draw), scaled)
    assert scalarise(np.full((3, 1), 2.0), draw).tolist() == [0, 0, 0]


def test_of_several_objectives_each_has_its_turn() -> None:
    front = np.array([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0], [1.0, 1.0]])
    best = [int(scalarise(front, np.random.default_rng(seed)).argmin()) for seed in range(40)]
    assert set(best) == {0, 1, 2}
