"""Exchange with other libraries: results for pandas and xarray, models of python-control and ONNX.

Every library is imported on use only, and said where it is missing. Ways out to other tools are in `controlrnn.export`.
"""

from controlrnn.exchange.frames import to_frame, to_xarray
from controlrnn.exchange.onnx_networks import from_onnx
from controlrnn.exchange.state_space import from_state_space, to_state_space

__all__ = ["from_onnx", "from_state_space", "to_frame", "to_state_space", "to_xarray"]
