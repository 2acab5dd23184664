"""Second verifier of all certificates, in ball arithmetic and independent of the float64 proofs (extra ``audit``)."""

from controlrnn.certification.ball.checker import check

__all__ = ["check"]
