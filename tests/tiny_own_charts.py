"""What the charts of a report have to draw of a run: each line's name, points and errors, of the run's own keys."""

import pytest
from tiny_traced import Held

COLOURS = {"student": "#0072b2", "control": "#d55e00"}
LOGGED = {
    "Gradient norm over tokens": "grad_norm",
    "Learning rate over tokens": "learning_rate",
    "Tokens per second over tokens": "tokens_per_second",
    "Peak memory over tokens": "peak_gigabytes",
    "Model FLOPs utilisation over tokens: the share of the devices' peak": "model_flops_utilisation",
}
BARS = {
    "Bits per byte of teacher, student and control on held-out text; lower is better": ("bits_per_byte", "bits_per_byte"),
    "Divergence from the teacher of student and control on held-out text; lower is better": ("agreement", "kl_to_teacher"),
}  # fmt: skip
UNTOLD = ("tokens", "bytes", "nats_per_token", "teacher_nll", "teacher_mass_on_its_top_k")


def charts(held: Held):
    """{what is said of a chart: its traces}."""
    found = {said: [bars(held, *keys)] for said, keys in BARS.items()}
    found["How alike each block is to its block of the teacher; 1 is the same"] = layers(held)
    for keys in paths(held, "held_out"):
        found[f"Held out: {_words(keys[-1])} over tokens"] = curves(held, "held_out", *keys)
    for keys in paths(held, "terms"):
        said = f"Training: {_words(keys[-1])} over tokens"
        found[said] = curves(held, "terms", *keys, smoothed=True)
    found |= {said: curves(held, key) for said, key in LOGGED.items()}
    return {said: lines for said, lines in (found | machine(held)).items() if lines}


def check(held: Held, labels, drawn):
    """Raises AssertionError where a chart that is drawn is another than the run's files make."""
    wanted = charts(held)
    assert sorted(labels) == sorted(wanted)
    for said, chart in zip(labels, drawn, strict=True):
        assert len(chart["data"]) == len(wanted[said]), said
        for trace, own in zip(chart["data"], wanted[said], strict=True):
            compare(trace, own, said)


def compare(trace, own, said):
    """Raises AssertionError where a trace has another name, point or error than its own."""
    assert trace.get("name") == own.get("name"), said
    assert trace["x"] == own["x"], said
    assert trace["y"] == (pytest.approx(own["y"]) if own.get("made") else own["y"]), said
    for key in ("array", "arrayminus"):
        if key in own:
            assert trace["error_y"][key] == pytest.approx(own[key], abs=1e-12), (said, key)
    if "text" in own:
        assert trace["text"] == own["text"], said
    if "colour" in own:
        assert trace["line"]["color"] == own["colour"], said


def bars(held, measure, key):
    rows = {m: row[key] for m, row in held.get(measure, "models").items() if key in row}
    ends = [held.get(measure, "intervals", model, key) for model in rows]
    return {
        "x": list(rows), "y": list(rows.values()), "text": [f"{value:.4g}" for value in rows.values()],
        "array": [high - value for value, _, high in ends], "arrayminus": [value - low for value, low, _ in ends],
    }  # fmt: skip


def layers(held):
    found = []
    for one in held.get("layers", "students"):
        alike = [one["cka"][block][theirs] for block, theirs in enumerate(one["paired"])]
        told = [f"teacher's block {theirs}" for theirs in one["paired"]]
        found.append({"name": one["name"], "x": list(range(len(alike))), "y": alike, "text": told})
    return found


def paths(held, root):
    """The keys under which any line of any arm holds a number there; of looks, those that are shown."""
    found = {}
    for line in (line for lines in held.logs.values() for line in lines if root in line):
        told = line[root]
        if root == "terms":
            found |= {(key,): None for key in told}
            continue
        found |= {("cross_entropy",): None}
        found |= {("measures", m, key): None for m, row in told["measures"].items() for key in row}
        found |= {("terms", key): None for key in told["terms"] if key != "cross_entropy"}
    return [keys for keys in found if keys[-1] not in UNTOLD]


def curves(held, *keys, smoothed=False):
    """A line an arm over the tokens of all its stages; a smoothed one behind the thin one of what was logged."""
    found = []
    for arm, lines in held.logs.items():
        xs, ys = [], []
        for at, line in enumerate(lines):
            value = line
            for key in keys:
                value = value.get(key, {})
            if value != {} and value is not None:
                ended = {one["stage"]: one["tokens"] for one in lines[:at]}
                ended.pop(line["stage"], None)
                xs.append(sum(ended.values()) + line["tokens"])
                ys.append(value)
        own = {"name": arm, "x": xs, "y": ys, "colour": COLOURS[arm]}
        if not xs:
            continue
        if smoothed:
            found.append(own | {"name": None})
            own |= {"y": _smooth(ys), "made": True}
        found.append(own)
    return found


def _smooth(ys):
    """The mean of all before, each weighted less by a twentieth of the curve's length."""
    kept = 1 - min(1.0, 20 / len(ys))
    found = []
    for at in range(len(ys)):
        weights = [kept**age for age in range(at, -1, -1)]
        told = sum(weight * y for weight, y in zip(weights, ys, strict=False))
        found.append(told / sum(weights))
    return found


def machine(held):
    """Of telemetry: {what is said: lines}, each curve's mean told."""
    lines = held.telemetry
    assert len(lines) <= 600  # more are thinned: test_machine.py
    gpus = range(len(lines[0].get("gpus", [])))

    def of_gpus(key, times=1):
        return {f"GPU {number}": [times * line["gpus"][number][key] for line in lines] for number in gpus}  # fmt: skip

    drawn = {
        ("Utilisation", "% in use"): {"all cores": [100 * line["cpu"] for line in lines]} | of_gpus("utilisation", 100),
        ("Memory", "GB"): {
            "this process": [line["memory_gigabytes"] for line in lines], "the machine": [line["machine_memory_gigabytes"] for line in lines],
        } | of_gpus("memory_gigabytes"),
        ("Power of GPUs", "W"): of_gpus("watts"),
        ("Temperature of GPUs", "°C"): of_gpus("celsius"),
    }  # fmt: skip
    minutes = [(line["time"] - lines[0]["time"]) / 60 for line in lines]
    found = {}
    for (title, unit), curves_ in drawn.items():
        means = ", ".join(f"{name} {sum(ys) / len(ys):,.1f}" for name, ys in curves_.items())
        said = f"{title} over time, in {unit}; on average: {means}"
        found[said] = [{"name": name, "x": minutes, "y": ys} for name, ys in curves_.items()]
    return found


def _words(key):
    return " ".join("KL" if part == "kl" else part for part in key.split("_"))
