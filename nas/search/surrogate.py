"""The surrogate of the accuracy: a Gaussian process over genes and logarithms of exact costs.

Matern 5/2 with one length scale a gene (Rasmussen and Williams 2006, sections 2.2, 4.2.1 and 5.4.1); its parameters
maximise the posterior under the priors below, so that a handful of trials cannot fit them to noise, once with each of
two priors of the length scales; left-out trials say which foretells better (section 5.4.2).

Shapes in names: N or M points, D columns, G genes (a gene of k unordered options has k columns, all of one scale).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, solve_triangular
from scipy.linalg.lapack import dpotri, dtrtri
from scipy.optimize import minimize

Floats = NDArray[np.float64]
Genes = NDArray[np.int64]
"""The gene of each column, 0 to G - 1, all of them present."""

ROOT5 = np.sqrt(5.0)
JITTER = 1e-6
"""Added to the diagonal, in units of the targets' variance."""
ITERATIONS = 20
"""Of the optimiser; what more of them find foretells no better."""


class Prior(NamedTuple):
    """A normal prior of a logarithm, and the bounds within which it is looked for."""

    mean: float
    sd: float
    low: float
    high: float


SCALES = tuple(Prior(np.log(scale), 1.0, -3.0, 4.0) for scale in (1.5, 5.0))
"""Length scale of a gene whose extremes lie 1 apart: the trials decide between genes that bend and genes that slope."""
SIGNAL = Prior(0.0, 1.0, -3.0, 3.0)
"""Variance of the function, the targets' own being 1."""
NOISE = Prior(-4.0, 1.5, -9.0, 1.0)
"""Variance of what no gene explains."""


def _priors(genes: int, scale: Prior) -> Floats:
    return np.array([scale] * genes + [SIGNAL, NOISE])


def embedded(codes_NG: Genes, options: Sequence[int], ordered: Sequence[bool]) -> tuple[Floats, Genes]:
    """The columns (N, D) of genotypes, and each column's gene: squared distances within a gene run from 0 to 1.

    codes_NG: indices of options, of which gene g has `options[g]`. An ordered gene is its code over the greatest; of an
    unordered one, two different options are 1 apart.
    """
    blocks = []
    for code_N, count, is_ordered in zip(codes_NG.T, options, ordered, strict=True):
        if is_ordered or count <= 2:
            blocks.append(code_N[:, None] / max(count - 1, 1))
        else:
            blocks.append(np.eye(count)[code_N] / np.sqrt(2.0))
    whole = np.concatenate(blocks, axis=1) if blocks else np.zeros((len(codes_NG), 0))
    return whole, np.repeat(np.arange(len(blocks)), [block.shape[1] for block in blocks])


def fits(x_ND: Floats, y_N: Floats, gene_D: Genes) -> list[Floats]:
    """For each of `SCALES` the parameters (G + 2): logarithms of length scales, signal and noise variances.

    Each of highest posterior density; those that foretell left-out points best come first.
    """
    found = [_most_probable(x_ND, y_N, gene_D, scale) for scale in SCALES]
    return sorted(found, key=lambda theta: -GaussianProcess(x_ND, y_N, gene_D, theta).foretold())


def _most_probable(x_ND: Floats, y_N: Floats, gene_D: Genes, scale: Prior) -> Floats:
    genes = int(gene_D.max()) + 1
    priors = _priors(genes, scale)
    found: Any = minimize(
        _loss,
        _priors(genes, SCALES[0])[:, 0],  # from long scales on it would end where all is noise
        args=(x_ND, _standardised(y_N)[0], gene_D, priors),
        jac=True,
        method="L-BFGS-B",
        bounds=list(zip(priors[:, 2], priors[:, 3], strict=True)),
        options={"maxiter": ITERATIONS},
    )
    best: Floats = found.x
    return best


def _loss(theta: Floats, x_ND: Floats, y_N: Floats, gene_D: Genes, priors: Floats) -> tuple[float, Floats]:
    """Minus the log posterior density up to a constant, and its gradient (equation 5.9)."""
    genes = len(priors) - 2
    signal, noise = np.exp(theta[genes:])
    scaled = x_ND * np.exp(-theta[:genes])[gene_D]
    r = np.sqrt(_squared_distances(scaled, scaled))
    decay = np.exp(-ROOT5 * r)
    shape = (1 + ROOT5 * r + 5 / 3 * r * r) * decay
    covariance = signal * shape
    covariance[np.diag_indices_from(covariance)] += noise + JITTER
    try:
        lower = np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        return 1e25, np.zeros_like(theta)
    inverse = dpotri(lower, lower=True)[0]  # its lower half
    inverse += np.tril(inverse, -1).T
    weights = inverse @ y_N
    density = 0.5 * y_N @ weights + np.log(np.diag(lower)).sum()
    outer = inverse - np.outer(weights, weights)

    slope = outer * (signal * 5 / 3) * (1 + ROOT5 * r) * decay
    # sum_ij slope_ij (x_i - x_j)^2, for each column; slope is symmetric.
    spread = (slope.sum(axis=1) @ (scaled * scaled)) - np.einsum("nd,nd->d", scaled, slope @ scaled)
    gradient = np.empty_like(theta)
    gradient[:genes] = np.bincount(gene_D, spread, genes)
    gradient[genes] = 0.5 * signal * np.sum(outer * shape)
    gradient[genes + 1] = 0.5 * noise * np.trace(outer)

    away = (theta - priors[:, 0]) / priors[:, 1]
    return float(density + 0.5 * away @ away), gradient + away / priors[:, 1]


def _squared_distances(a_ND: Floats, b_MD: Floats) -> Floats:
    squared = -2.0 * (a_ND @ b_MD.T)
    squared += (a_ND * a_ND).sum(axis=1)[:, None]
    squared += (b_MD * b_MD).sum(axis=1)
    return np.maximum(squared, 0.0, out=squared)


def _standardised(y_N: Floats) -> tuple[Floats, float, float]:
    mean, spread = float(y_N.mean()), float(y_N.std())
    spread = spread if spread > 0 else 1.0
    return (y_N - mean) / spread, mean, spread


class GaussianProcess:
    """The posterior given N points, with parameters from `fits`."""

    def __init__(self, x_ND: Floats, y_N: Floats, gene_D: Genes, theta: Floats) -> None:
        genes = len(theta) - 2
        self._inverse_scale_D = np.exp(-theta[:genes])[gene_D]
        self._signal, noise = np.exp(theta[genes:])
        self._noise = noise + JITTER
        self._scaled = x_ND * self._inverse_scale_D
        target, self._mean, self._spread = _standardised(y_N)
        covariance = self._covariance(self._scaled, self._scaled)
        covariance[np.diag_indices_from(covariance)] += self._noise
        self._lower = np.linalg.cholesky(covariance)
        self._weights = cho_solve((self._lower, True), target)

    def expecting(self, x_MD: Floats) -> GaussianProcess:
        """The process after M points more that turn out as expected: the same means, smaller deviations."""
        scaled_MD = x_MD * self._inverse_scale_D
        across_NM = solve_triangular(self._lower, self._covariance(self._scaled, scaled_MD), lower=True)
        left_MM = self._covariance(scaled_MD, scaled_MD) - across_NM.T @ across_NM
        left_MM[np.diag_indices_from(left_MM)] += self._noise
        after = copy.copy(self)
        after._scaled = np.concatenate([self._scaled, scaled_MD])
        after._weights = np.concatenate([self._weights, np.zeros(len(x_MD))])
        after._lower = np.block([[self._lower, np.zeros_like(across_NM)], [across_NM.T, np.linalg.cholesky(left_MM)]])
        return after

    def _covariance(self, scaled_MD: Floats, scaled_ND: Floats) -> Floats:
        """Between points (M, N), noise not included."""
        r = np.sqrt(_squared_distances(scaled_MD, scaled_ND))
        r *= ROOT5
        shape = r * r
        shape /= 3.0
        shape += r
        shape += 1.0
        np.negative(r, out=r)
        shape *= np.exp(r, out=r)
        shape *= self._signal
        return shape

    def mean(self, x_MD: Floats) -> Floats:
        """Posterior mean (M)."""
        covariance = self._covariance(x_MD * self._inverse_scale_D, self._scaled)
        mean: Floats = covariance @ self._weights * self._spread + self._mean
        return mean

    def predict(self, x_MD: Floats) -> tuple[Floats, Floats]:
        """Posterior mean and standard deviation (M) of the function, noise not included."""
        covariance = self._covariance(x_MD * self._inverse_scale_D, self._scaled)
        mean = covariance @ self._weights * self._spread + self._mean
        explained = solve_triangular(self._lower, covariance.T, lower=True, check_finite=False)
        variance = self._signal - np.einsum("nm,nm->m", explained, explained)
        return mean, np.sqrt(np.maximum(variance, 1e-12)) * self._spread

    def left_out(self) -> Floats:
        """What each point (N) lies above its prediction from all others, in standard deviations (equation 5.12)."""
        residual: Floats = self._weights / np.sqrt(self._precision())
        return residual

    def foretold(self) -> float:
        """Log density of all points, each as the others foretell it, up to a constant (equations 5.10 and 5.11)."""
        precision = self._precision()
        return float(0.5 * np.sum(np.log(precision) - self._weights**2 / precision))

    def _precision(self) -> Floats:
        """One over the variance of each point, given all others."""
        roots = dtrtri(self._lower.T, lower=False)[0]
        precision: Floats = np.einsum("ij,ij->i", roots, roots)
        return precision
