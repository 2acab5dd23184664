"""OPC UA: a controller that reads its measurements from a server and writes its inputs there (extra ``opcua``).

At every sample all readings are fetched in one request, the controller makes one step, and its inputs are written in
another. A reading of bad quality, one that is not a finite number, and one that is older than it may be are missing
ones (NaN), with which the controller knows what to do; so are all of them while the server cannot be reached, and then
nothing is written. What has been written is read back before the next step, where the server has nodes for it: a
command that did not arrive is then known, as every premise of the guarantee asks.

This is Python on a general operating system: nothing bounds how late a sample is. Late samples are counted, their times
are told to the controller, and where that is not enough, `mpc.controller_to_c` is for real-time systems.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from controlrnn.checks import Array, as_array, count, numbers, positive, put, texts
from controlrnn.errors import SettingError, UnreachableError
from controlrnn.typed import typed
from mpc.control.controller import TightenedMPC
from mpc.control.step import MpcStep

if TYPE_CHECKING:
    import asyncua

_log = logging.getLogger(__name__)
_NEAR = 0.02  # of a sample, by which it may be late without being counted
Each = Callable[[MpcStep], None]


@dataclass(frozen=True, kw_only=True)
@typed()
class OpcUaNodes:
    """Where a server keeps what a controller needs, as node ids such as ``"ns=2;s=Tank.Level"``.

    Args:
        outputs: Readings of the outputs, one a node.
        inputs: Commands of the inputs that the controller chooses, one a node.
        applied: Inputs that act, for reading back, one for every input; none where they cannot be read.
        reference: Set points, one for each output; none where they are given to `operate`.
        measured: Known disturbances, one for each measured input (`Tracking.measured_inputs`).
        oldest: Age [s] from which on a reading is missing; its source's time stamp counts, and this machine's clock.
            One without a stamp, or with one as far ahead of this clock, has no age that could be known, and is
            missing, too. Set points may be of any age. None: any age, known or not.
    """

    outputs: Sequence[str]
    inputs: Sequence[str]
    applied: Sequence[str] = ()
    reference: Sequence[str] = ()
    measured: Sequence[str] = ()
    oldest: float | None = None

    def __post_init__(self) -> None:
        if self.oldest is not None:
            put(self, oldest=positive("oldest", self.oldest))

    @property
    def read(self) -> tuple[str, ...]:
        """Node ids read at every sample: of outputs, applied inputs, set points, measured inputs, in this order."""
        return (*self.outputs, *self.applied, *self.reference, *self.measured)


@dataclass(frozen=True, kw_only=True)
@typed()
class Operated:
    """Outcome of `operate`, as counts of steps and of what failed in them.

    Args:
        samples: Control steps made.
        late: Steps that began late, by more than a fiftieth of a sample.
        missing: Readings of outputs that were missing.
        unreached: Steps at which the server could not be read.
        unwritten: Steps whose inputs could not be written.
        largest_delay: Longest time [s] by which a step began late.
    """

    samples: int
    late: int
    missing: int
    unreached: int
    unwritten: int
    largest_delay: float


@typed(unchecked=("nodes", "reference", "configure", "each", "url"))
def operate(
    controller: TightenedMPC,
    url: str,
    nodes: OpcUaNodes,
    *,
    samples: int,
    reference: Any = None,
    period: float | None = None,
    configure: Callable[[asyncua.Client], None] | None = None,
    each: Each | None = None,
) -> Operated:
    """Operate a plant behind an OPC UA server for a number of samples; the calling thread waits.

    Args:
        controller: The controller, in the state in which it is to begin.
        url: Address of the server, ``"opc.tcp://HOST:PORT/PATH"``.
        nodes: Where it keeps what is needed.
        samples: Number of control steps.
        reference: Set points, shape (ny,), or (T, ny) for known future values, the first row for the first step; where
            ``nodes.reference`` is empty.
        period: Time between two steps [s]; the controller's sample time when left out. Anything else is for tests.
        configure: Called with the client before it connects: for certificates, users and passwords. Without it the
            connection is neither signed nor encrypted, and whoever is in the network can command the plant.
        each: Called after each step, with its result.

    Raises:
        SettingError: The nodes do not fit the controller, or asyncua is not installed:
            ``pip install 'controlrnn[opcua]'``.
        UnreachableError: The server cannot be reached when the operation begins, lacks a node, or keeps a command as
            anything but a real number.
    """
    if not isinstance(nodes, OpcUaNodes):
        raise SettingError(f"nodes must be OpcUaNodes, got {nodes!r}")
    texts("url", {"url": url})
    wanted = _checked(controller, nodes, reference)
    try:
        import asyncua  # noqa: F401  # said before anything is done
    except ModuleNotFoundError as error:
        raise SettingError("this needs asyncua: pip install 'controlrnn[opcua]'") from error
    time = float(controller.predictor.system.dt) if period is None else positive("period", period)
    operation = _Operation(controller, nodes, wanted, time, each)
    return asyncio.run(operation.run(url, count("samples", samples), configure))


def _checked(controller: TightenedMPC, nodes: OpcUaNodes, reference: Any) -> Array | None:
    """Set points that were given, after checking that there is a node for everything."""
    predictor, problem = controller.predictor, controller.problem
    for name, n, least in (
        ("outputs", predictor.ny, predictor.ny),
        ("inputs", len(problem.chosen), len(problem.chosen)),
        ("applied", predictor.nu, 0),
        ("reference", predictor.ny, 0),
        ("measured", predictor.nu - len(problem.chosen), predictor.nu - len(problem.chosen)),
    ):
        got = len(getattr(nodes, name))
        if got != n and (got or least):
            raise SettingError(f"{name} must be {n} nodes, one for each, got {got}")
    if bool(nodes.reference) == (reference is not None):
        raise SettingError("set points come either from nodes.reference or from reference=, got both or neither")
    if reference is None:
        return None
    rows = np.atleast_2d(numbers("reference", reference))
    return as_array("reference", rows, ("T", predictor.ny), finite=False)


class _Operation:
    """One operation: readings in, step, commands out."""

    def __init__(
        self, controller: TightenedMPC, nodes: OpcUaNodes, reference: Array | None, period: float, each: Each | None
    ) -> None:
        self.controller = controller
        self.nodes = nodes
        self.reference = reference
        self.period = period
        self.each = each
        self.counts = dict.fromkeys(("samples", "late", "missing", "unreached", "unwritten"), 0)
        self.delay = 0.0
        self.disturbances = np.full(len(nodes.measured), np.nan)

    async def run(self, url: str, samples: int, configure: Callable[[Any], None] | None) -> Operated:
        """Operate for a number of samples."""
        from asyncua import Client, ua

        client = Client(url, timeout=max(self.period, 0.5))
        if configure is not None:
            configure(client)
        try:
            await client.connect(auto_reconnect=True, reconnect_max_delay=max(self.period, 1.0))
        except (TimeoutError, OSError, ValueError, ua.UaError) as error:  # ValueError: the address is none
            raise UnreachableError(f"the server {url} cannot be reached: {error or 'it does not answer'}") from error
        try:
            kinds = await self._kinds(client)
            loop = asyncio.get_running_loop()
            began = loop.time()
            for k in range(samples):
                due = began + k * self.period
                await asyncio.sleep(max(due - loop.time(), 0.0))
                self._note_delay(loop.time() - due)
                await self._step(client, kinds, k)
        finally:
            try:
                await asyncio.wait_for(client.disconnect(), timeout=2.0)
            except (TimeoutError, OSError):
                _log.warning("the server %s was gone before the connection could be closed", url)
        return Operated(**self.counts, largest_delay=self.delay)

    async def _kinds(self, client: Any) -> list[Any]:
        """Types in which the server keeps the commands; all nodes must be there."""
        from asyncua import ua

        try:
            for name in self.nodes.read:
                await client.get_node(name).read_browse_name()
            kinds = [await client.get_node(name).read_data_type_as_variant_type() for name in self.nodes.inputs]
        except (ua.UaError, ValueError) as error:
            named = ", ".join([*self.nodes.read, *self.nodes.inputs])
            raise UnreachableError(f"the server lacks a node of {named}: {error}") from error
        for name, kind in zip(self.nodes.inputs, kinds, strict=True):
            if kind not in (ua.VariantType.Double, ua.VariantType.Float):
                raise UnreachableError(
                    f"the command {name} must be kept as Double or Float, got {kind.name}: rounded to whole numbers it "
                    "would not be what was planned"
                )
        return kinds

    def _note_delay(self, delay: float) -> None:
        self.delay = max(self.delay, delay)
        if delay > _NEAR * self.period:
            self.counts["late"] += 1
            _log.warning("a control step began %.3g s late", delay)

    async def _step(self, client: Any, kinds: list[Any], k: int) -> None:
        """One sample."""
        values = await self._read(client)
        y, applied, reference, disturbances = self._parts(values)
        self.counts["missing"] += int(np.isnan(y).sum())
        if self.reference is not None:
            reference = self.reference[min(k, len(self.reference) - 1) :]
        known = ~np.isnan(disturbances)
        self.disturbances[known] = disturbances[known]
        if np.isnan(self.disturbances).any():
            raise UnreachableError("a known disturbance has not been read even once: nothing can be planned")
        # Time stamps are in the controller's samples, whatever the period.
        stamp = k * float(self.controller.predictor.system.dt)
        step = self.controller.step(
            y,
            reference,
            self.disturbances if len(self.disturbances) else None,
            applied=applied if self.nodes.applied else None,
            time=stamp,
        )
        await self._write(client, kinds, step.u[self.controller.problem.chosen])
        self.counts["samples"] += 1
        if self.each is not None:
            self.each(step)

    async def _read(self, client: Any) -> Array:
        """All readings, NaN where one is missing."""
        from asyncua import ua

        nodes = [client.get_node(name) for name in self.nodes.read]
        try:
            found = await asyncio.wait_for(client.read_attributes(nodes), timeout=0.5 * self.period)
        except (TimeoutError, OSError, ua.UaError) as error:
            self.counts["unreached"] += 1
            _log.warning("the server could not be read: %s", error or "it does not answer")
            return np.full(len(nodes), np.nan)
        now = datetime.now(UTC).replace(tzinfo=None)
        ageless = [self.nodes.oldest is None] * len(nodes)
        first = len(self.nodes.outputs) + len(self.nodes.applied)
        ageless[first : first + len(self.nodes.reference)] = [True] * len(self.nodes.reference)
        return np.array(
            [self._number(value, None if free else now) for value, free in zip(found, ageless, strict=True)]
        )

    def _number(self, value: Any, now: datetime | None) -> float:
        """A reading as a number, NaN where its quality, its value or its age (unless ``now`` is None) is not good."""
        if value.StatusCode is not None and not value.StatusCode.is_good():
            return math.nan
        stamp, oldest = value.SourceTimestamp, self.nodes.oldest
        if now is not None and oldest is not None:
            age = math.inf if stamp is None else (now - stamp.replace(tzinfo=None)).total_seconds()
            if abs(age) > oldest:
                return math.nan
        held = None if value.Value is None else value.Value.Value
        if isinstance(held, bool) or not isinstance(held, int | float) or not math.isfinite(held):
            return math.nan
        return float(held)

    def _parts(self, values: Array) -> list[Array]:
        """Outputs, read-back, set points and disturbances."""
        sizes = [len(getattr(self.nodes, name)) for name in ("outputs", "applied", "reference", "measured")]
        return np.split(values, np.cumsum(sizes)[:-1])

    async def _write(self, client: Any, kinds: list[Any], u: Array) -> None:
        """Write the commands; one that is no number is never written."""
        from asyncua import ua

        try:
            if not np.isfinite(u).all():
                raise ValueError(f"a command is not finite: {u}")
            nodes = [client.get_node(name) for name in self.nodes.inputs]
            values = [ua.DataValue(ua.Variant(float(v), kind)) for v, kind in zip(u, kinds, strict=True)]
            await asyncio.wait_for(client.write_values(nodes, values), timeout=0.5 * self.period)
        except (TimeoutError, OSError, ua.UaError, ValueError) as error:
            self.counts["unwritten"] += 1
            _log.warning("the inputs could not be written: %s", error or "the server does not answer")
