"""Scaling laws of unit LMs: the loss that parameters and tokens give, and the best use of a budget (docs/paper.md 5.1).

L(N, D) = E + A / N^alpha + B / D^beta    nats a unit, of N parameters trained on D tokens for C = 6 N D FLOPs
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

HUBER_DELTA = 0.03  # of the fit, in nats of log loss (docs/paper.md 5.1)
TSC_EXPONENT = 0.025  # spoken Topic StoryCloze grows with C to this power (docs/paper.md 5.1)
# Where a fit may begin: the best of all of these is taken, for the minimum is not the only one.
_STARTS = tuple(itertools.product((0.3, 0.8), (0.2, 0.5), (0.2, 0.5)))


@dataclass(frozen=True)
class Use:
    """How a budget is spent, and the loss that a law predicts for it."""

    parameters: float
    tokens: float
    loss: float

    @property
    def flops(self) -> float:
        return 6 * self.parameters * self.tokens


@dataclass(frozen=True)
class Law:
    """The constants. repeats_n, repeats_d: how many repeats are worth as much as what is new, R_N* and R_D*."""

    e: float
    a: float
    b: float
    alpha: float
    beta: float
    repeats_n: float = math.inf
    repeats_d: float = math.inf

    def predict(self, parameters: float, tokens: float, unique: float = math.inf) -> Use:
        """The loss of N parameters on D tokens, of which so many are unique; the others repeat them.

        Where data repeats, what the model has beyond the best size for the unique tokens counts less too.
        """
        n, d = parameters, tokens
        if tokens > unique:
            d = effective(unique, tokens, self.repeats_d)
            n = effective(min(parameters, self._best_parameters(unique)), parameters, self.repeats_n)
        return Use(parameters, tokens, self.e + self.a / n**self.alpha + self.b / d**self.beta)

    def optimum(self, flops: float) -> Use:
        """The parameters and tokens that give the least loss for so many FLOPs."""
        parameters = self._g * (flops / 6) ** (self.beta / (self.alpha + self.beta))
        return self.predict(parameters, flops / 6 / parameters)

    @property
    def _g(self) -> float:
        return (self.alpha * self.a / (self.beta * self.b)) ** (1 / (self.alpha + self.beta))

    def _best_parameters(self, tokens: float) -> float:
        """Those for which so many tokens are the optimum, where D = (C / 6)^b / G and N = G (C / 6)^a."""
        return self._g * (self._g * tokens) ** (self.beta / self.alpha)


def effective(unique: float, seen: float, repeats: float) -> float:
    """What `seen` is worth, of which so much is unique and the rest repeats it: U + U R* (1 - exp(-R / R*))."""
    again = seen / unique - 1
    return seen if math.isinf(repeats) else unique + unique * repeats * (1 - math.exp(-again / repeats))


SPEECH = Law(1.73, 13.9, 39.8, 0.25, 0.24, 31.0, 25.0)  # 500 units of mHuBERT at 25 Hz, runs collapsed


@dataclass(frozen=True)
class Observation:
    """A training that a law is fitted to."""

    parameters: float
    tokens: float
    loss: float


def fit_law(runs: Sequence[Observation]) -> Law:
    """The law that runs follow: the least sum of Huber losses of log L, by L-BFGS from many starts.

    runs: at least as many as the law has constants, of several sizes and several numbers of tokens.
    """
    assert len({run.parameters for run in runs}) > 1 and len({run.tokens for run in runs}) > 1 and len(runs) >= 5
    # Sizes and tokens relative to their geometric means, so that the constants hardly depend on each other.
    log_n_R, log_d_R = (np.log([getattr(run, name) for run in runs]) for name in ("parameters", "tokens"))
    x_R, y_R, loss_R = log_n_R - log_n_R.mean(), log_d_R - log_d_R.mean(), np.array([run.loss for run in runs])
    found = [_descend(start, x_R, y_R, loss_R) for start in _starts(x_R, y_R, loss_R)]
    _, (e, a, b, alpha, beta) = min(found, key=lambda one: one[0])
    a, b = a + alpha * log_n_R.mean(), b + beta * log_d_R.mean()
    return Law(math.exp(e), math.exp(a), math.exp(b), float(alpha), float(beta))


def _descend(start: np.ndarray, x_R: np.ndarray, y_R: np.ndarray, loss_R: np.ndarray) -> tuple[float, np.ndarray]:
    """The least cost that is found from a start, and the constants there: log E, log A, log B, alpha, beta."""
    from scipy.optimize import minimize  # a second

    log_loss_R = np.log(loss_R)

    def cost(constants: np.ndarray) -> tuple[float, np.ndarray]:
        e, a, b, alpha, beta = constants
        terms_3R = np.stack([np.full_like(x_R, e), a - alpha * x_R, b - beta * y_R])  # logarithms of the law's terms
        log_predicted_R = np.logaddexp.reduce(terms_3R)
        errors_R = log_predicted_R - log_loss_R
        slopes_3R = np.exp(terms_3R - log_predicted_R) * np.clip(errors_R, -HUBER_DELTA, HUBER_DELTA)
        slope_3 = slopes_3R.sum(axis=1)
        return float(huber(errors_R).sum()), np.array([*slope_3, -slopes_3R[1] @ x_R, -slopes_3R[2] @ y_R])

    # Tolerances far below the defaults: near the minimum the cost is flat, and a millionth of it moves the constants.
    options = {"maxiter": 2000, "ftol": 1e-16, "gtol": 1e-12, "maxcor": 20}
    found = minimize(cost, start, jac=True, method="L-BFGS-B", options=options)
    return float(found.fun), found.x


def _starts(x_R: np.ndarray, y_R: np.ndarray, loss_R: np.ndarray) -> Iterable[np.ndarray]:
    """E a share of the least loss, A and B the best for it and for given exponents."""
    from scipy.optimize import nnls

    for share, alpha, beta in _STARTS:
        e = share * loss_R.min()
        (a, b), _ = nnls(np.exp(np.stack([-alpha * x_R, -beta * y_R], axis=1)), loss_R - e)
        yield np.array([math.log(e), math.log(max(a, 1e-3)), math.log(max(b, 1e-3)), alpha, beta])


def huber(errors_R: np.ndarray) -> np.ndarray:
    """Half the square up to HUBER_DELTA, then a straight line."""
    size_R = np.abs(errors_R)
    return np.where(size_R <= HUBER_DELTA, size_R**2 / 2, HUBER_DELTA * (size_R - HUBER_DELTA / 2))


def error(law: Law, runs: Sequence[Observation]) -> float:
    """Root mean square of log(predicted / measured): about the relative error of a prediction."""
    logs = [math.log(law.predict(run.parameters, run.tokens).loss / run.loss) for run in runs]
    return math.sqrt(sum(one * one for one in logs) / len(logs))


def expected_topic_cloze(flops: float, known: Sequence[tuple[float, float]]) -> float:
    """Accuracy in % of the best model for so many FLOPs: k C^TSC_EXPONENT, k from known (FLOPs, accuracy)."""
    logs = [math.log(accuracy / spent**TSC_EXPONENT) for spent, accuracy in known]
    return math.exp(sum(logs) / len(logs)) * flops**TSC_EXPONENT
