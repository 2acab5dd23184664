"""Table of all system classes by the kind that is written in files."""

from __future__ import annotations

from controlrnn.systems.gated import GatedSystem
from controlrnn.systems.lure import LureSystem

SYSTEMS: dict[str, type[LureSystem] | type[GatedSystem]] = {kind.KIND: kind for kind in (LureSystem, GatedSystem)}
