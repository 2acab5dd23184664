"""A second opinion on certificates: other code than the float64 verifier's, in ball arithmetic (extra ``audit``)."""

from controlrnn.certification.ball.checker import check

__all__ = ["check"]
