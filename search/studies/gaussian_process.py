"""A Gaussian process over settings as numbers: where an improvement is to be expected.

Shapes: N known points, P pending ones, A all of them, C candidates, D numbers of a point, each from 0 to 1;
K objectives, M draws of the hyperparameters.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Array = NDArray[np.float64]

# Hyperparameters are drawn from their prior: the logarithm of each number's length is normal, that of the noise's
# variance uniform. Values have variance 1.
_DRAWS = 64
_LOG_LENGTH, _LOG_LENGTH_SD = 0.0, 0.7
_NOISE = (0.02, 0.5)
# A draw that is this much less likely than the likeliest one has no say.
_LEAST_LIKELY = 0.05
# A diverged trial must not make all others look alike: in distances of the median from the least value.
_WORST = 10.0


def scalarise(value_NK: Array, generator: np.random.Generator) -> Array:
    """One value for the K objectives of each point, with mean 0 and variance 1: of several, by random weights (ParEGO,
    Knowles 2006)."""
    standard_NK = np.stack([_standardise(value_N) for value_N in value_NK.T], axis=1)
    if standard_NK.shape[1] == 1:
        return standard_NK[:, 0]
    weighted_NK = generator.dirichlet(np.ones(value_NK.shape[1])) * (standard_NK - standard_NK.min(axis=0))
    return _standardise(weighted_NK.max(axis=1) + 0.05 * weighted_NK.sum(axis=1))


def _standardise(value_N: Array) -> Array:
    """Values far above the median count as less far."""
    median = np.median(value_N)
    clipped_N = np.minimum(value_N, median + _WORST * (median - value_N.min()))
    spread = clipped_N.std()
    return np.asarray((clipped_N - clipped_N.mean()) / (spread if spread > 0 else 1.0))


def expected_improvement(known_ND: Array, value_N: Array, pending_PD: Array, candidate_CD: Array) -> Array:
    """How far each candidate is expected to come out below the least mean among the points, times a constant.

    The kernel is Matern 5/2 with a length for each number (Rasmussen and Williams 2006, 4.2). The expectation is over
    hyperparameters as well, drawn from their prior and weighted by their likelihood (Snoek et al. 2012). A pending
    point is taken to get the value that is expected there (Ginsbourger et al. 2010).
    """
    known, point_AD = len(known_ND), np.concatenate([known_ND, pending_PD])
    length_MD, noise_M = hyperparameters(known_ND.shape[1])
    covariance_MAA = _matern(_squared_differences(point_AD, point_AD), length_MD)
    noisy_MAA = covariance_MAA + noise_M[:, None, None] * np.eye(len(point_AD))
    lower_MNN = np.linalg.cholesky(noisy_MAA[:, :known, :known])
    weight_MN = _solve(noisy_MAA[:, :known, :known], value_N[None])
    half_determinant_M = np.log(np.diagonal(lower_MNN, axis1=1, axis2=2)).sum(axis=1)
    log_likelihood_M = -weight_MN @ value_N / 2 - half_determinant_M
    likelihood_M = np.exp(log_likelihood_M - log_likelihood_M.max())
    likely_M = likelihood_M > _LEAST_LIKELY
    expected_MP = np.einsum("mpn,mn->mp", covariance_MAA[:, known:, :known], weight_MN)
    value_MA = np.concatenate([np.broadcast_to(value_N, (_DRAWS, known)), expected_MP], axis=1)
    weight_MA = _solve(noisy_MAA[likely_M], value_MA[likely_M])
    covariance_MCA = _matern(_squared_differences(candidate_CD, point_AD), length_MD[likely_M])
    explained_MAC = np.linalg.solve(noisy_MAA[likely_M], covariance_MCA.transpose(0, 2, 1))
    variance_MC = np.maximum(1 - np.einsum("mca,mac->mc", covariance_MCA, explained_MAC), 1e-12)
    least_M = np.einsum("mba,ma->mb", covariance_MAA[likely_M], weight_MA).min(axis=1)
    gain_MC = least_M[:, None] - np.einsum("mca,ma->mc", covariance_MCA, weight_MA)
    return np.asarray(likelihood_M[likely_M] @ _mean_above_0(gain_MC, np.sqrt(variance_MC)))


def hyperparameters(numbers: int) -> tuple[Array, Array]:
    """Lengths of so many numbers, and the variances of the noise."""
    generator = np.random.default_rng(0)
    length_MD = np.exp(generator.normal(_LOG_LENGTH, _LOG_LENGTH_SD, (_DRAWS, numbers)))
    return length_MD, np.exp(generator.uniform(math.log(_NOISE[0]), math.log(_NOISE[1]), _DRAWS))


def _solve(matrix_MAA: Array, right_MA: Array) -> Array:
    return np.asarray(np.linalg.solve(matrix_MAA, right_MA[:, :, None])[:, :, 0])


def _squared_differences(first_AD: Array, second_BD: Array) -> Array:
    return np.square(first_AD.T[:, :, None] - second_BD.T[:, None, :])


def _matern(squared_DAB: Array, length_MD: Array) -> Array:
    distance_MAB = np.sqrt(5 * np.tensordot(length_MD**-2.0, squared_DAB, 1))
    return np.asarray((1 + distance_MAB + distance_MAB**2 / 3) * np.exp(-distance_MAB))


def _mean_above_0(gain_MC: Array, deviation_MC: Array) -> Array:
    """The mean of a normal gain where it is above 0, and of 0 elsewhere."""
    standard_MC = gain_MC / deviation_MC
    density_MC = np.exp(-(standard_MC**2) / 2) / math.sqrt(2 * math.pi)
    return np.asarray(gain_MC * ndtr(standard_MC) + deviation_MC * density_MC)
