"""Tasks on a cluster: order, memory, what is shared, errors; what runs on it is what runs here."""

import os
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("distributed", reason="the extra cluster is not installed")

from controlrnn import cluster
from controlrnn.errors import ClusterError, SettingError


def pause(base, n):
    time.sleep(0.3 if n == 0 else 0.0)
    return base + n, os.getpid()


def shared(folder, base):
    """What each worker makes once."""
    with Path(folder, f"made-{os.getpid()}").open("a") as file:
        file.write("made\n")
    return partial(pause, base)


def fails(n):
    raise TimeoutError(f"no {n}")


def dies(n):
    os._exit(n)


def test_results_come_in_order_and_what_is_shared_travels_once(cluster_client, tmp_path):
    drawn, came = [], []

    def tasks(n):
        for i in range(n):
            drawn.append(i)
            yield (i,)

    make = partial(shared, str(tmp_path), 100)
    found = []
    for value, _process in cluster.stream(
        cluster_client, make, tasks(400), arrived=lambda i, r: came.append((i, r[0])), ahead=40
    ):
        found.append(value)
        assert len(drawn) - len(found) <= 40  # neither tasks nor results pile up
    assert found == list(range(100, 500))
    assert sorted(came) == [(i, 100 + i) for i in range(400)]
    assert [i for i, _ in came] != list(range(400))  # those after the slow first one came before it
    again = list(cluster.stream(cluster_client, make, ((i,) for i in range(1, 60))))
    assert len({process for _, process in again}) == 2
    assert [p.read_text() for p in tmp_path.iterdir()] == ["made\n"] * 2


def test_errors_are_those_of_the_task(cluster_client):
    with pytest.raises(TimeoutError, match="no 3"):
        list(cluster.stream(cluster_client, cluster.constant(fails), [(3,)]))
    assert list(cluster.stream(cluster_client, cluster.constant(abs), [(-3,)])) == [3]
    assert list(cluster.stream(cluster_client, cluster.constant(abs), [])) == []


@pytest.mark.slow
def test_a_task_that_kills_its_workers_ends_in_an_error():
    with cluster.local_client(1) as client, pytest.raises(ClusterError, match="workers died"):
        list(cluster.stream(client, cluster.constant(dies), [(1,)]))


def test_a_parcel_unpacks_once_and_for_its_user_alone(tmp_path):
    for name in "ab":
        (tmp_path / name).write_bytes(name.encode())
    parcel = cluster.Parcel.of(tmp_path.iterdir())
    assert parcel.digest == cluster.Parcel(dict(reversed(parcel.files.items()))).digest
    assert parcel.digest != cluster.Parcel({"a": b"b", "b": b"a"}).digest
    folder = parcel.folder()
    assert folder == cluster.Parcel(dict(parcel.files)).folder()
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {"a": b"a", "b": b"b"}
    assert folder.stat().st_mode & 0o077 == 0
    outside = cluster.Parcel({"../../escaped": b"x"}).folder()
    assert [p.name for p in outside.iterdir()] == ["escaped"]


@pytest.mark.parametrize("wrong", [None, 3, np.nan, "tcp://127.0.0.1:8786"])
def test_what_is_no_client_is_refused(wrong):
    with pytest.raises(SettingError, match=r"client must be a distributed\.Client"):
        cluster.checked_client(wrong)


def test_a_closed_client_and_an_address_where_nobody_is_are_refused():
    with (
        pytest.raises(ClusterError, match="no scheduler answers at 'tcp://127"),
        cluster.connected("tcp://127.0.0.1:9", timeout=0.5),
    ):
        pass
