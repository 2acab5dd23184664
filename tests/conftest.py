"""Makes the helpers beside this file importable from every test folder, and names how hypothesis searches."""

import signal

import pytest
from hypothesis import Phase, settings

# A background shell makes its programs deaf to Ctrl-C, and with them the ones whose Ctrl-C is tested.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says how busy the machine is, and whether anything was compiled before.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
# For `make mutants`: the same examples each time, and no search for smaller ones once a test has failed.
settings.register_profile(
    "mutants", derandomize=True, database=None, deadline=None, phases=(Phase.explicit, Phase.generate)
)


@pytest.fixture(scope="session")
def cluster_client():
    """Client of a cluster of two processes, for all tests."""
    cluster = pytest.importorskip("controlrnn.cluster", reason="the extra cluster is not installed")
    with cluster.local_client(2) as client:
        yield client


@pytest.fixture
def one_thread():
    """One thread of torch where processor time is measured: threads that wait for each other use it, too."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
