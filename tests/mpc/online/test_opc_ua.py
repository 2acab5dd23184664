"""A controller behind a real server on loopback does what it does beside the plant."""

import asyncio
import contextlib
import socket
import sys
import threading
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

import mpc
from controlrnn.errors import DataError, SettingError, UnreachableError
from mpc.online.opc_ua import OpcUaNodes, operate
from tests.road_case import LIMIT, road

asyncua = pytest.importorskip("asyncua", reason="the extra opcua is not installed")
from asyncua import Server, ua  # noqa: E402
from asyncua.common.callback import CallbackType  # noqa: E402

PERIOD, SAMPLES = 0.15, 12


class Plant(threading.Thread):
    """A tank behind an OPC UA server: whoever writes a command moves it by one sample, before the write returns."""

    def __init__(self, tank, spoil=None, kind=ua.VariantType.Double, url=None, command=None, wanted=None):
        super().__init__(daemon=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.url = url or f"opc.tcp://127.0.0.1:{probe.getsockname()[1]}/tank"
        self.tank, self.spoil, self.kind = tank, spoil, kind
        self.command, self.wanted = command or kind, wanted
        self.x, self.y, self.u, self.failure = tank.initial_state(), [], [], None
        self.ready, self.done = threading.Event(), threading.Event()

    def run(self):
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self.failure = error
            self.ready.set()
            raise

    async def _serve(self):
        server = Server()
        await server.init()
        server.set_endpoint(self.url)
        space = await server.register_namespace("tank")
        self.nodes = {}
        for name, value in (("level", float(self.x[0])), ("pump", -1.0), ("running", 2.0), ("wanted", 10.0)):
            kind = self.command if name == "pump" else self.kind
            value = value if kind in (ua.VariantType.Double, ua.VariantType.Float) else 0
            node = await server.nodes.objects.add_variable(ua.NodeId(name, space), name, value, kind)
            await node.set_writable()
            self.nodes[name] = node
        if self.wanted is not None:
            await self.nodes["wanted"].write_value(self.wanted)
        server.subscribe_server_callback(CallbackType.PostWrite, self._act)
        async with server:
            self.ready.set()
            while not self.done.is_set():
                await asyncio.sleep(0.01)

    async def _act(self, event, _):
        for written in event.request_params.NodesToWrite if event.is_external else ():
            if written.NodeId == self.nodes["pump"].nodeid:
                self.u.append(written.Value.Value.Value)
                self.x = self.tank.step(self.x, np.array([self.u[-1]]))
                self.y.append(float(self.x[0]))
                await self.nodes["running"].write_value(ua.Variant(self.u[-1], self.kind))
                await self.nodes["level"].write_value(self._reading(len(self.y)))

    def _reading(self, k):
        value = ua.DataValue(ua.Variant(self.y[-1], self.kind), SourceTimestamp=datetime.now(UTC).replace(tzinfo=None))
        return value if self.spoil is None else self.spoil(k, value)


@contextlib.contextmanager
def served(**options):
    plant = Plant(road().plant, **options)
    plant.start()
    assert plant.ready.wait(20)
    assert plant.failure is None, plant.failure
    try:
        yield plant
    finally:
        plant.done.set()
        plant.join(10)


def controller():
    r = road()
    made = mpc.TightenedMPC(
        r.observer.predictor, r.observer, r.tightening, mpc.Tracking(output_weight=1.0, input_move_weight=0.1)
    )
    made.reset()
    return made


def nodes(space=2, **change):
    given = {"outputs": [f"ns={space};s=level"], "inputs": [f"ns={space};s=pump"], "applied": [f"ns={space};s=running"]}
    return OpcUaNodes(**(given | change))


@pytest.mark.parametrize("kind", [ua.VariantType.Double, pytest.param(ua.VariantType.Float, marks=pytest.mark.slow)])
def test_commands_are_those_of_the_controller_beside_the_plant(kind):
    beside, x, u = controller(), road().plant.initial_state(), []
    for t in range(SAMPLES):
        y = road().plant.output(x, np.zeros(1))
        step = beside.step(y, [LIMIT], applied=[2.0] if t == 0 else u[-1], time=t * road().plant.dt)
        u.append(step.u)
        x = road().plant.step(x, step.u)
    seen = []
    with served(kind=kind) as plant:
        result = operate(
            controller(), plant.url, nodes(), samples=SAMPLES, reference=[LIMIT], period=PERIOD, each=seen.append
        )
    assert (result.samples, result.missing, result.unreached, result.unwritten) == (SAMPLES, 0, 0, 0)
    assert len(seen) == SAMPLES
    close = 1e-9 if kind is ua.VariantType.Double else 1e-4
    np.testing.assert_allclose(plant.u, np.ravel(u), rtol=close, atol=close)


@pytest.mark.slow
def test_set_points_come_from_the_server():
    with served() as plant:
        seen = []
        operate(controller(), plant.url, nodes(reference=["ns=2;s=wanted"]), samples=3, period=PERIOD, each=seen.append)
    assert [step.set_point[0] for step in seen] == [10.0] * 3


@pytest.mark.slow
def test_set_points_may_be_older_than_readings():
    past, seen = datetime.now(UTC).replace(tzinfo=None) - timedelta(hours=1), []
    with served(wanted=ua.DataValue(ua.Variant(12.0, ua.VariantType.Double), SourceTimestamp=past)) as plant:
        where = nodes(reference=["ns=2;s=wanted"], oldest=60.0)
        result = operate(controller(), plant.url, where, samples=3, period=PERIOD, each=seen.append)
    assert [step.set_point[0] for step in seen] == [12.0] * 3
    assert result.missing == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", [ua.VariantType.Int16, ua.VariantType.Boolean])
def test_commands_that_would_be_rounded_are_refused(kind):
    with served(command=kind) as plant:
        with pytest.raises(UnreachableError, match=f"Double or Float, got {kind.name}"):
            operate(controller(), plant.url, nodes(), samples=2, reference=[LIMIT], period=PERIOD)
        assert plant.u == []


@pytest.mark.parametrize("url", ["", "nonsense", "opc.tcp://127.0.0.1:99999/"])
def test_what_is_no_address_is_named(url):
    with pytest.raises((SettingError, UnreachableError), match=r"url|cannot be reached"):
        operate(controller(), url, nodes(), samples=1, reference=[LIMIT], period=0.3)


@pytest.mark.parametrize("reference", [["high"], [[1.0], [1.0, 2.0]]])
def test_set_points_are_numbers(reference):
    with pytest.raises(DataError, match="reference must be an array of numbers"):
        operate(controller(), "opc.tcp://127.0.0.1:1/none", nodes(), samples=1, reference=reference)


def bad(k, value):
    failed = ua.StatusCode(ua.StatusCodes.BadSensorFailure)
    return ua.DataValue(value.Value, StatusCode=failed) if k in (2, 3) else value


def not_a_number(k, value):
    return ua.DataValue(ua.Variant(float("nan"), ua.VariantType.Double)) if k in (2, 3) else value


def old(k, value):
    past = datetime.now(UTC).replace(tzinfo=None) - timedelta(hours=1)
    return ua.DataValue(value.Value, SourceTimestamp=past) if k in (2, 3) else value


def ahead(k, value):
    coming = datetime.now(UTC).replace(tzinfo=None) + timedelta(hours=1)
    return ua.DataValue(value.Value, SourceTimestamp=coming) if k in (2, 3) else value


def without_stamp(k, value):
    return ua.DataValue(value.Value) if k in (2, 3) else value


@pytest.mark.slow
@pytest.mark.parametrize("spoil", [bad, not_a_number, old, ahead, without_stamp])
def test_bad_readings_are_missing_ones(spoil):
    seen = []
    with served(spoil=spoil) as plant:
        result = operate(
            controller(), plant.url, nodes(oldest=60.0), samples=6, reference=[LIMIT], period=PERIOD, each=seen.append
        )
    assert [bool(step.missing[0]) for step in seen] == [False, False, True, True, False, False]
    assert result.missing == 2


@pytest.mark.slow
def test_a_server_that_goes_away_is_waited_for_and_nothing_is_written_meanwhile():
    seen, again = [], []
    with served() as plant:

        def each(step):
            seen.append(step)
            if len(seen) == 3:
                plant.done.set()
                plant.join(10)
            if len(seen) == 6:
                again.append(Plant(road().plant, url=plant.url))
                again[0].start()

        result = operate(controller(), plant.url, nodes(), samples=20, reference=[LIMIT], period=0.5, each=each)
        again[0].done.set()
        again[0].join(10)
    assert result.samples == 20
    assert all(step.missing.all() for step in seen[3:6])
    assert result.unreached >= 3
    assert result.unwritten >= 3
    assert all(np.isfinite(step.u).all() for step in seen)  # the controller goes on by its model
    assert not seen[-1].missing.any()
    assert len(plant.u) + len(again[0].u) == 20 - result.unwritten


def test_what_does_not_fit_is_refused_before_anything_is_connected():
    url = "opc.tcp://127.0.0.1:1/none"
    for wrong, words in (
        ({"outputs": []}, "outputs must be 1"), ({"inputs": ["a", "b"]}, "inputs must be 1"),
        ({"applied": ["a", "b"]}, "applied must be 1"), ({"measured": ["a"]}, "measured must be 0"),
        ({"reference": ["a"]}, "both or neither"),
    ):  # fmt: skip
        with pytest.raises(SettingError, match=words):
            operate(controller(), url, nodes(**wrong), samples=1, reference=[LIMIT])
    with pytest.raises(SettingError, match="both or neither"):
        operate(controller(), url, nodes(), samples=1)
    with pytest.raises(SettingError, match="outputs must be a sequence"):
        OpcUaNodes(outputs="ns=2;s=level", inputs=[])
    with pytest.raises(SettingError, match="OpcUaNodes"):
        operate(controller(), url, {"outputs": []}, samples=1, reference=[LIMIT])


@pytest.mark.slow
def test_servers_that_are_not_there_or_lack_a_node_are_named():
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:1"):
        operate(controller(), "opc.tcp://127.0.0.1:1/none", nodes(), samples=1, reference=[LIMIT], period=0.5)
    with served() as plant, pytest.raises(UnreachableError, match="lacks a node"):
        operate(controller(), plant.url, nodes(space=7), samples=1, reference=[LIMIT], period=PERIOD)


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "asyncua", None)
    with pytest.raises(SettingError, match=r"controlrnn\[opcua\]"):
        operate(controller(), "opc.tcp://127.0.0.1:1/none", nodes(), samples=1, reference=[LIMIT])
