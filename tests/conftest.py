"""Settings that every test shares. Being here puts tests/ on the path, so that tests can `import tiny`."""

import os
import signal
import socket

# Before any import of huggingface_hub: tests reach no network, and need not wait to learn it.
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
import torch.distributed as dist

from limbeck.training.signals import WATCHED


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """One thread, because the number of threads changes the last bits of a sum."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_group_left():
    """Ends the group of ranks that a test began: another test forks, and its forks begin their own."""
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.fixture
def no_network(monkeypatch):
    """No address is found, and no connection made."""

    def refused(*_):
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)


@pytest.fixture(scope="module")
def handlers():
    """A run listens to signals; after the module they are the test runner's again."""
    before = {number: signal.getsignal(number) for number in WATCHED}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
