"""Settings that every test shares. Being here puts tests/ on the path, so that tests can `import tiny`."""

import os

# Before any import of huggingface_hub: tests reach no network, and need not wait to learn it.
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """One thread, because the number of threads changes the last bits of a sum."""
    torch.set_num_threads(1)
