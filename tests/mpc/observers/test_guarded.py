"""A guard limits any proposal whatsoever: error and jump stay certified against an adversary."""

import numpy as np
import pytest
from mpc_networks import NormContraction, switching

from mpc import GuardedObserver, RunningOn, StateObserver, Washout
from mpc.observers.state_error import stretch


class Adversary(GuardedObserver):
    """Proposes the point that is furthest from x* or from where it is expected, or nonsense."""

    def __init__(self, *args, seed=0, **options):
        self.rng, self.target = np.random.default_rng(seed), np.zeros(4)
        super().__init__(*args, **options)

    def _propose(self, _u, _y):
        away = self.guard.state - self.target if self.rng.random() < 0.5 else self.rng.standard_normal(4)
        away = away / (np.linalg.norm(away) + 1e-12)
        kind = self.rng.random()
        return np.full(4, np.nan) if kind < 0.1 else self.guard.state + away * 10.0 ** self.rng.uniform(-3, 3)

    def _method(self):
        return "adversary"


class Proposing(Adversary):
    """Proposes the guard's estimate, moved by so much in the first direction."""

    away = 0.0

    def _propose(self, _u, _y):
        return self.guard.state + np.array([self.away, 0, 0, 0])


def metric_size(e, metric):
    return float(np.sqrt(e @ metric @ e))


def guards(gentle):
    predictor, gain, model, own = gentle
    settings = {"contraction": model, "input_error": 0.02}
    yield RunningOn(predictor, 8, **settings)
    yield Washout(predictor, 8, **settings)
    yield StateObserver(predictor, gain, 8, residual_bound=0.1, observer_contraction=own, **settings)
    # A metric other than the model's own, as a certified observer usually has.
    P = np.diag([1.0, 2.0, 1.0, 1.0])
    skewed = NormContraction(own.system_digest, 0.97, P, stretch(P, np.eye(4)) * own.input_gain)
    yield StateObserver(predictor, gain, 8, residual_bound=0.1, observer_contraction=skewed, **settings)


@pytest.mark.parametrize("which", range(4))
@pytest.mark.parametrize(("trust", "jump_limit"), [(1.0, np.inf), (1.0, 0.05), (0.3, 0.01), (0.0, 0.0)])
def test_no_proposal_breaks_the_certified_error_or_jump(gentle, which, trust, jump_limit, rng):
    guard, (predictor, _, model, _) = list(guards(gentle))[which], gentle
    observer = Adversary(
        predictor, 8, guard=guard, trust=trust, jump_limit=jump_limit, contraction=model, command_error=0.01
    )
    system, true = predictor.system, switching(rng, 300, 2)
    recorded = np.clip(true + 0.02 * rng.choice([-1, 1], true.shape), -1, 1)
    commanded = recorded + 0.01 * rng.choice([-1, 1], true.shape)
    x = system.simulate(true, observer.initial_state)[1]
    y = system.output(x[:-1], true) + 0.1 * rng.choice([-1, 1], (300, 2))
    y[rng.random(300) < 0.1] = np.nan
    S, worst = observer.error.metric, np.zeros(2)
    for t in range(300):
        before, usable = observer.state, observer.certified
        observer.target = x[t + 1]
        after = observer.update(recorded[t], y[t])
        if observer.certified:
            worst[0] = max(worst[0], metric_size(x[t + 1] - after, S))
            if usable:
                worst[1] = max(worst[1], metric_size(after - system.step(before, commanded[t]), S))
    assert 0 < worst[0] <= observer.error.radius <= (1 + trust) * guard.error.radius * (1 + 1e-6)
    assert 0 < worst[1] <= observer.jump.radius
    if trust == 1.0 and jump_limit == np.inf:
        assert worst[0] > 0.5 * observer.error.radius  # the adversary uses what is open to it
        assert worst[1] > 0.3 * observer.jump.radius


def test_a_guard_that_runs_on_allows_any_jump_limit(gentle):
    predictor, _, model, _ = gentle
    guard = RunningOn(predictor, 8, contraction=model, input_error=0.02)
    for limit in (0.0, 1e-3, 0.02):
        jump = Adversary(predictor, 8, guard=guard, jump_limit=limit).jump
        np.testing.assert_allclose(jump.radius, limit, rtol=1e-6, atol=1e-12)


def test_proposals_inside_are_taken_as_they_are_and_others_as_far_as_allowed(gentle):
    predictor, _, model, _ = gentle
    guard = RunningOn(predictor, 1, contraction=model, input_error=0.5)
    observer = Proposing(predictor, 1, guard=guard)
    observer.away = 1e-3
    after = observer.update(np.zeros(2), np.zeros(2))
    np.testing.assert_array_equal(after, guard.state + np.array([1e-3, 0, 0, 0]))
    assert observer.accepted == 1
    observer.away = 1e6
    after = observer.update(np.zeros(2), np.zeros(2))
    np.testing.assert_allclose(after - guard.state, [guard.error.radius, 0, 0, 0], atol=1e-2)
    assert 0 < observer.accepted < 1e-3
