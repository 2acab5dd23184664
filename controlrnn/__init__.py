"""controlrnn: from plant data to recurrent models whose prediction error is certified.

The stages: ``plants -> data -> models -> identification -> certification -> export -> mpc``. Import what you need
from the stage it belongs to, e.g. ``from controlrnn.models import ContractingR2DN``; importing this package alone
is cheap and pulls in neither torch nor casadi. ``controlrnn.open(folder)`` gives what the command ``controlrnn run``
left in a folder.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

__version__ = "0.1.0"

from controlrnn.neighbours import refuse_foreign

if TYPE_CHECKING:
    from controlrnn.road import Road

refuse_foreign()
logging.getLogger(__name__).addHandler(logging.NullHandler())


def open(folder: str | os.PathLike[str] = "road") -> Road:
    """Open a folder that ``controlrnn run`` filled: data, models, certificates, tightening, controller and loops.

    Args:
        folder: The folder.

    Raises:
        MissingDataError: It is no folder of a road.
    """
    from controlrnn.road import open_road

    return open_road(folder)
