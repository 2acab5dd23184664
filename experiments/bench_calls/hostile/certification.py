"""Calls of `controlrnn.certification`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from controlrnn import certification
from experiments.bench_calls.hostile.call import BOX, Call, again, call
from experiments.bench_calls.hostile.kit import Kit
from experiments.bench_calls.hostile.parts import NU, NX, NY, fields_of


def certification_calls(kit: Kit) -> Iterator[Call]:
    """Calls of everything that certifies, attacks and holds certificates."""
    at, s, zero = "controlrnn.certification", kit.system, np.zeros(NX)
    ball = {"initial_radius": 0.5, "input_radius": np.full(NU, 0.1), "metric": np.eye(NX)}
    boxes = {"input_range": BOX, "state_range": (-np.ones(NX), np.ones(NX))}
    yield call(f"{at}.certify_horizon", certification.certify_horizon, 0.1, system=s, horizon=2, **ball, **boxes,
                method="riccati", focus=(1, 2), iterations=3)  # fmt: skip
    yield call(f"{at}.certify_around", certification.certify_around, 0.2, system=s, x0=zero, u=np.zeros((3, NU)),
                **ball, focus=(1, 2), passes=1)  # fmt: skip
    yield call(f"{at}.certify_contraction", certification.certify_contraction, 0.1, system=s, rate=0.9,
                input_scale=np.ones(NU), output_scale=1.0)  # fmt: skip
    yield call(f"{at}.certify_contraction", certification.certify_contraction, 0.1, system=s, slower=0.1)
    yield call(f"{at}.certify_gains", certification.certify_gains, 0.1, system=s, horizon=2, metric=np.eye(NX),
                iterations=3)  # fmt: skip
    yield call(f"{at}.certify_l2_gain", certification.certify_l2_gain, 0.1, system=s, input_scale=np.ones(NU),
                output_scale=1.0)  # fmt: skip
    yield call(f"{at}.certify_lipschitz", certification.certify_lipschitz, 0.1, system=s, horizon=2, iterations=3,
                **boxes)  # fmt: skip
    yield call(f"{at}.certify_lipschitz", certification.certify_lipschitz, 0.05, system=s, horizon=1, method="sdp",
                solver="CLARABEL", **boxes)  # fmt: skip
    yield call(f"{at}.certify_delta_iss", certification.certify_delta_iss, 0.1, system=kit.gated, input_range=BOX,
                iterations=20)  # fmt: skip
    yield call(f"{at}.certify_by_construction", certification.certify_by_construction, 0.2, model=kit.ren)
    yield call(f"{at}.certify_reinitialisation", certification.certify_reinitialisation, 0.05, system=s, washout=2,
                horizon=2, input_range=BOX, input_error=0.1, start=zero, iterations=3)  # fmt: skip
    c = kit.contraction
    yield call(f"{at}.certificate_from", certification.certificate_from, 0.3, system=s, metric=c.metric,
                multipliers=c.multipliers, rate=c.rate, method="mine")  # fmt: skip
    states = -np.ones(NX), np.ones(NX)
    execution: dict[str, Any] = {"input_range": BOX, "state_range": states, "contraction": kit.contraction,
                                 "precision": "float32", "tanh_ulps": 2.0}  # fmt: skip
    yield call(f"{at}.execution_error", certification.execution_error, 0.2, system=s, **execution)
    yield call(f"{at}.ExecutionError", partial(_verified, certification.ExecutionError, s), 0.3,
               **fields_of(certification.execution_error(s, **execution)))  # fmt: skip
    yield call(f"{at}.local_slopes", certification.local_slopes, system=s, steps=2, **boxes)
    few = {"starts": 2, "steps": 1, "seed": 0}
    yield call(f"{at}.attack_horizon", certification.attack_horizon, 0.2, system=s, horizon=2, **ball, **boxes, **few)
    yield call(f"{at}.attack_around", certification.attack_around, 0.2, system=s, x0=zero, u=np.zeros((3, NU)),
                **ball, **few)  # fmt: skip
    yield call(f"{at}.attack_l2_gain", certification.attack_l2_gain, 0.2, system=s, horizon=4, input_scale=1.0,
                output_scale=np.ones(NY), **boxes, **few)  # fmt: skip
    yield call(f"{at}.InputError", certification.InputError, kind="few", radius=np.full(NU, 0.1), steps=2)
    yield call(f"{at}.InputError", certification.InputError, kind="rate_limited", radius=np.full(NU, 0.1),
                rate=np.full(NU, 0.01))  # fmt: skip
    file = str(kit.folder / "certificate.npz")
    c.save(file)
    yield call(f"{at}.load_certificate", certification.load_certificate, 0.3, path=file)
    for name, certificate in kit.certificates.items():
        of = {"DeltaIssCertificate": kit.gated}.get(name, s)
        yield call(f"{at}.{name}", partial(_verified, type(certificate), of), 0.3, **fields_of(certificate))
    yield call(f"{at}.ContractionCertificate.error_after", c.error_after, steps=3, initial=1.0,
                input_radius=np.full(NU, 0.1),
                _infinite=("",))  # fmt: skip
    yield again(f"{at}.Attack", kit.attacks[0])
    yield again(f"{at}.GainAttack", kit.attacks[1])
    yield again(f"{at}.Construction", kit.construction)
    gain = fields_of(kit.certificates["L2GainCertificate"])
    for own in ("gamma", "input_scale", "output_scale"):
        gain.pop(own)
    yield call(f"{at}.DissipationCertificate", partial(_verified, certification.DissipationCertificate, s), 0.3, **gain)


def _verified(kind: type[Any], system: Any, **fields: Any) -> Any:
    """Make a certificate, verify it, and check that it could be saved; nothing is claimed before."""
    certificate = kind(**fields)
    certificate.verify(system)
    certificate.conform()
    return certificate
