"""The one call through which identification simulates: every fit runs on the fused scan, or whatever stands here."""

from controlrnn.kernels import simulate

__all__ = ["simulate"]
