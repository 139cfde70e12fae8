"""The Gaussian process: against scikit-learn's, its gradient, its columns, and what the priors hold on to."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from nas.search import surrogate
from nas.search.surrogate import GaussianProcess, embedded, fits

OPTIONS, ORDERED = [4, 3, 2], [True, False, False]


def some(points: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns, targets and genes of random genotypes."""
    rng = np.random.default_rng(seed)
    codes_NG = rng.integers(OPTIONS, size=(points, 3))
    x_ND, gene_D = embedded(codes_NG, OPTIONS, ORDERED)
    return x_ND, np.sin(2 * codes_NG[:, 0]) + (codes_NG[:, 1] == 2) + 0.05 * rng.normal(size=points), gene_D


def test_columns_put_different_options_at_most_one_apart() -> None:
    codes_NG = np.array([[0, 0, 0], [3, 0, 0], [1, 0, 0], [0, 1, 0], [0, 2, 0], [0, 0, 1]])
    x_ND, gene_D = embedded(codes_NG, OPTIONS, ORDERED)
    assert gene_D.tolist() == [0, 1, 1, 1, 2]
    squared = ((x_ND - x_ND[0]) ** 2).sum(axis=1)
    assert squared == pytest.approx([0, 1, 1 / 9, 1, 1, 1])
    assert ((x_ND[3] - x_ND[4]) ** 2).sum() == pytest.approx(1)


def test_the_posterior_is_that_of_scikit_learn() -> None:
    x_ND, y_N, gene_D = some(25)
    theta = np.log([0.8, 1.3, 2.0, 0.7, 0.05])
    scales_D = np.exp(theta[:3])[gene_D]
    kernel = ConstantKernel(0.7) * Matern(scales_D, nu=2.5) + WhiteKernel(0.05 + surrogate.JITTER)
    theirs = GaussianProcessRegressor(kernel, optimizer=None, normalize_y=True, alpha=0.0).fit(x_ND, y_N)
    new_MD, *_ = some(40, seed=1)
    mean_M, sd_M = theirs.predict(new_MD, return_std=True)
    ours = GaussianProcess(x_ND, y_N, gene_D, theta)
    got_mean, got_sd = ours.predict(new_MD)
    assert got_mean == pytest.approx(mean_M, abs=1e-8)
    assert ours.mean(new_MD) == pytest.approx(mean_M, abs=1e-8)
    noise = (0.05 + surrogate.JITTER) * y_N.std() ** 2  # their deviation is of an observation, ours of the function
    assert got_sd**2 + noise == pytest.approx(sd_M**2, abs=1e-8)


def test_the_gradient_is_that_of_the_loss() -> None:
    x_ND, y_N, gene_D = some(20)
    priors = surrogate._priors(3, surrogate.SCALES[0])
    for theta in np.random.default_rng(0).normal(0, 0.7, size=(5, 5)):
        _, gradient = surrogate._loss(theta, x_ND, y_N, gene_D, priors)
        numeric = approx_fprime(theta, lambda t: surrogate._loss(t, x_ND, y_N, gene_D, priors)[0], 1e-6)
        assert gradient == pytest.approx(numeric, rel=1e-3, abs=1e-3)


def test_a_gene_that_does_nothing_gets_a_longer_scale_than_one_that_decides() -> None:
    x_ND, y_N, gene_D = some(80)
    theta = fits(x_ND, y_N, gene_D)[0]
    assert theta[2] > max(theta[0], theta[1]) + 0.5
    again = fits(x_ND, y_N, gene_D)[0]
    assert theta.tobytes() == again.tobytes()


def test_it_predicts_what_it_has_not_seen() -> None:
    x_ND, y_N, gene_D = some(60)
    new_MD, truth_M, _ = some(200, seed=1)
    mean_M, sd_M = GaussianProcess(x_ND, y_N, gene_D, fits(x_ND, y_N, gene_D)[0]).predict(new_MD)
    assert np.corrcoef(mean_M, truth_M)[0, 1] > 0.95
    assert np.all(sd_M > 0)


def test_what_is_left_out_is_foretold_by_the_others() -> None:
    """Against processes that never saw the point. Their mean and spread of targets must be those of all points."""
    x_ND, y_N, gene_D = some(15)
    y_N = (y_N - y_N.mean()) / y_N.std()
    theta = np.log([0.8, 1.3, 2.0, 0.7, 0.05])
    ours = GaussianProcess(x_ND, y_N, gene_D, theta)
    noise = 0.05 + surrogate.JITTER
    covariance = ours._covariance(ours._scaled, ours._scaled) + noise * np.eye(15)
    density = 0.0
    for point, residual in enumerate(ours.left_out()):
        others = np.delete(np.arange(15), point)
        weights = np.linalg.solve(covariance[np.ix_(others, others)], covariance[others, point])
        variance = covariance[point, point] - covariance[point, others] @ weights
        assert residual == pytest.approx((y_N[point] - weights @ y_N[others]) / np.sqrt(variance), abs=1e-8)
        density -= 0.5 * (residual**2 + np.log(variance))
    assert ours.foretold() == pytest.approx(density, abs=1e-8)


def test_points_expected_leave_the_means_and_less_doubt() -> None:
    """Against the variance given all points, whose targets do not matter."""
    x_ND, y_N, gene_D = some(15)
    theta = np.log([0.8, 1.3, 2.0, 0.7, 0.05])
    more_MD, new_MD = some(8, seed=1)[0], some(40, seed=2)[0]
    before = GaussianProcess(x_ND, y_N, gene_D, theta)
    after = before.expecting(more_MD)
    mean_M, sd_M = after.predict(new_MD)
    mean_before_M, sd_before_M = before.predict(new_MD)
    assert mean_M == pytest.approx(mean_before_M, abs=1e-10)
    targets = np.concatenate([y_N, np.linspace(0, 1, 8)])
    told = GaussianProcess(np.concatenate([x_ND, more_MD]), targets, gene_D, theta)
    assert sd_M / y_N.std() == pytest.approx(told.predict(new_MD)[1] / targets.std(), abs=1e-8)
    assert np.all(sd_M <= sd_before_M + 1e-9) and np.any(sd_M < 0.7 * sd_before_M)


def slopes_and_bends(points: int, bends: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Six ordered genes of five options, of which the first `bends` go up and down and the others only up."""
    rng = np.random.default_rng(0)
    codes_NG = rng.integers(5, size=(points, 6))
    x_ND, gene_D = embedded(codes_NG, [5] * 6, [True] * 6)
    each_NG = np.where(np.arange(6) < bends, np.array([0.0, 1, 0, 1, 0])[codes_NG], x_ND)
    return x_ND, each_NG.sum(axis=1) + 0.2 * rng.normal(size=points), gene_D


@pytest.mark.parametrize(("bends", "expected"), [(0, 1), (6, 0)])
def test_the_trials_decide_which_length_scales_are_expected(
    bends: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x_ND, y_N, gene_D = slopes_and_bends(60, bends)
    both = fits(x_ND, y_N, gene_D)
    alone = []
    for scale in surrogate.SCALES:
        with monkeypatch.context() as only:
            only.setattr(surrogate, "SCALES", (scale,))
            alone += fits(x_ND, y_N, gene_D)
    foretold = [GaussianProcess(x_ND, y_N, gene_D, theta).foretold() for theta in alone]
    assert foretold[expected] > foretold[1 - expected] + 1
    for ours, only_one in zip(both, (alone[expected], alone[1 - expected]), strict=True):
        assert ours.tolist() == pytest.approx(only_one.tolist(), abs=0.05)


def test_more_points_tell_more_surely_which_gene_bends() -> None:
    x_ND, y_N, gene_D = slopes_and_bends(160, 1)
    theta = fits(x_ND, y_N, gene_D)[0]
    assert all(theta[0] < theta[gene] - 1 for gene in range(1, 6))
    few = fits(x_ND[:50], y_N[:50], gene_D)[0]
    process, before = (GaussianProcess(x_ND, y_N, gene_D, one) for one in (theta, few))
    assert process.foretold() > before.foretold()


@pytest.mark.parametrize("targets", [np.zeros(6), np.full(6, 3.0)])
def test_equal_targets_are_no_error(targets: np.ndarray) -> None:
    x_ND, _, gene_D = some(6)
    process = GaussianProcess(x_ND, targets, gene_D, fits(x_ND, targets, gene_D)[0])
    assert process.mean(x_ND) == pytest.approx(targets)
