"""What the machine does while a run works: one line every few seconds in telemetry.jsonl, from a thread beside it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch

from limbeck.progress import say

NAME = "telemetry.jsonl"
Gauge = Callable[[], dict[str, float]]


@contextlib.contextmanager
def sampled(folders: Sequence[Path], every: float | None, device: torch.device) -> Iterator[None]:
    """Samples every so many seconds while the block runs, into each of these runs' folders. None: not at all."""
    if every is None:
        yield
        return
    done = threading.Event()
    thread = threading.Thread(
        target=_work, args=(folders, every, device, done), name="telemetry", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _work(
    folders: Sequence[Path], every: float, device: torch.device, done: threading.Event
) -> None:
    """The thread: ends when it is told to, or when a line cannot be written."""
    gauges = _gpus() if device.type == "cuda" else []
    process = psutil.Process()
    (
        process.cpu_percent(),
        psutil.cpu_percent(),
    )  # both tell what was used since they were last asked
    while not done.wait(every):
        line = json.dumps(sample(process, gauges)) + "\n"
        try:
            for folder in folders:
                with (folder / NAME).open("a", encoding="utf-8") as stream:
                    stream.write(line)
        except OSError as reason:
            return say(f"note: no more telemetry is written, and the run goes on: {reason}")
    return None


def sample(process: psutil.Process, gauges: Sequence[Gauge]) -> dict[str, Any]:
    """One line. cpu: share of the machine's cores in use; cores: those that this process keeps busy, its threads together.

    sampling_seconds: CPU time that this thread has taken so far, so that anybody can see what it costs.
    """
    memory = psutil.virtual_memory()
    found = {
        "time": round(time.time(), 3),
        "cpu": round(psutil.cpu_percent() / 100, 4),
        "cores": round(process.cpu_percent() / 100, 3),
        "memory_gigabytes": round(process.memory_info().rss / 1e9, 4),
        "machine_memory_gigabytes": round((memory.total - memory.available) / 1e9, 4),
        "sampling_seconds": round(time.thread_time(), 5),
    }
    return found | ({"gpus": [gauge() for gauge in gauges]} if gauges else {})


def _gpus() -> list[Gauge]:
    """What reads each GPU that this process sees, through NVML; none, said once, where that cannot be had."""
    if importlib.util.find_spec("pynvml") is None:
        say("note: telemetry has no GPU figures; pip install 'limbeck[gpu]' brings nvidia-ml-py.")
        return []
    import pynvml

    try:
        pynvml.nvmlInit()
        # By their ids: NVML counts all devices of a machine, and CUDA those that are visible, in an order of its own.
        names = [
            f"GPU-{torch.cuda.get_device_properties(number).uuid}"
            for number in range(torch.cuda.device_count())
        ]
        return [_gauge(pynvml, pynvml.nvmlDeviceGetHandleByUUID(name)) for name in names]
    except pynvml.NVMLError as reason:
        say(f"note: telemetry has no GPU figures: {reason}.")
        return []


def _gauge(nvml: Any, handle: Any) -> Gauge:
    """Reads one GPU; what its driver does not tell is left out."""
    asked: dict[str, Callable[[], float]] = {
        "utilisation": lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100,
        "memory_gigabytes": lambda: round(nvml.nvmlDeviceGetMemoryInfo(handle).used / 1e9, 4),
        "watts": lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000,
        "celsius": lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
    }

    def read() -> dict[str, float]:
        found = {}
        for name, ask in asked.items():
            with contextlib.suppress(nvml.NVMLError):
                found[name] = float(ask())
        return found

    return read
