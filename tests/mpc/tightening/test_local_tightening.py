"""Tightening for one plan: above what the plan's predictions can be off, below the tightening for all plans."""

import numpy as np
import pytest
from mpc_networks import NormContraction, NormHorizon
from record_cases import N, model_error

from controlrnn.errors import CertificationError, SettingError, ShapeError
from mpc import Washout, certify_plan, plan_digest, tighten, tighten_around


@pytest.fixture(scope="module")
def observer(predictor):
    return Washout(predictor, 12, contraction=NormContraction.of(predictor.system), input_error=0.02)


@pytest.fixture(scope="module")
def plan(predictor):
    rng = np.random.default_rng(0)
    x = rng.uniform(-0.5, 0.5, predictor.system.nx)
    return x, rng.uniform(-1, 1, (N, 2))


@pytest.fixture(scope="module")
def certificate(observer, plan):
    return certify_plan(*plan, observer=observer)


def test_predictions_of_the_plan_stay_within_and_other_plans_are_not_promised(
    system, predictor, observer, plan, certificate, rng
):
    x, u = plan
    found = tighten_around(model_error(system), certificate, observer=observer, x=x, plan=u)
    shape = (3000, system.nx)
    xi = np.linalg.solve(np.linalg.cholesky(observer.error.metric).T, rng.standard_normal(shape).T).T
    xi *= observer.error.radius / np.sqrt(np.einsum("bi,ij,bj->b", xi, observer.error.metric, xi))[:, None]
    true = predictor.predict(x + xi, u + 0.02 * rng.choice([-1.0, 1.0], (3000, N, 2)))
    # The last input is an error of its own where there is feedthrough; here there is none.
    assert (np.abs(true - predictor.predict(x, u)) <= found.reinitialisation).all()
    everywhere = tighten(
        model_error(system), NormHorizon.of(system, N, observer.error.euclidean, 0.02), observer=observer
    )
    assert (found.total[1:] < 0.7 * everywhere.total[1:]).all()
    assert found.digests["plan"] == plan_digest(x, u) != plan_digest(x, u + 1e-9)
    assert found.digests["certificate"] == certificate.digest
    assert "this plan alone" in found.promise
    with pytest.raises(SettingError, match="another plan"):
        tighten_around(model_error(system), certificate, observer=observer, x=x, plan=u + 1e-9)
    with pytest.raises(SettingError, match="another plan"):
        tighten_around(model_error(system), certificate, observer=observer, x=x + 1e-9, plan=u)


def test_the_next_plan_takes_the_last_ones_multipliers(system, observer, plan, certificate):
    x, u = plan
    later = np.vstack([u[1:], u[-1:]])
    after = np.asarray(system.simulate(u[:1], x)[1][-1])
    fresh = certify_plan(after, later, observer=observer)
    for iterations in (0, 5):
        near = certify_plan(after, later, observer=observer, near=certificate, iterations=iterations)
        assert near.verify(system) > 0
        assert (near.bounds[-1] <= 1.2 * fresh.bounds[-1]).all()
        found = tighten_around(model_error(system), near, observer=observer, x=after, plan=later)
        assert found.horizon == N


def test_what_does_not_belong_together_is_refused(system, predictor, observer, plan, certificate):
    x, u = plan
    wide = Washout(predictor, 2, contraction=NormContraction.of(system), input_error=0.05)
    with pytest.raises(CertificationError, match="must cover"):
        tighten_around(model_error(system), certificate, observer=wide, x=x, plan=u)
    with pytest.raises(SettingError, match="must cover"):
        certify_plan(x, u, observer=wide, near=certificate)
    short = certify_plan(x, u[:-1], observer=observer)
    with pytest.raises(SettingError, match="horizon"):
        tighten_around(model_error(system), short, observer=observer, x=x, plan=u[:-1])
    with pytest.raises(ShapeError):
        certify_plan(x, u[:, :1], observer=observer)


def test_the_disturbance_estimates_share_is_added(system, observer, plan, certificate):
    x, u = plan
    without = tighten_around(model_error(system), certificate, observer=observer, x=x, plan=u)
    filtered = tighten_around(model_error(system, gain=0.3), certificate, observer=observer, x=x, plan=u)
    np.testing.assert_allclose(filtered.reinitialisation, without.reinitialisation + certificate.bounds[0], rtol=1e-12)
