"""A run's folder that has everything a report can show, of numbers of which no two are alike."""

import json
import random

import tiny_report

from limbeck import files

MODELS = ("teacher", "student", "control")
RECIPE = "name: tiny\ntelemetry: {every_seconds: 30, price_per_hour: 7.31, currency: EUR}\n"
SURE = {
    "agreement": ("kl_to_teacher", "top_1_agreement"),
    "bits_per_byte": ("bits_per_byte", "nats_per_token"),
}


class _Draws:
    """Numbers that differ in their first digits, as they are shown."""

    def __init__(self, seed):
        self._source, self._taken = random.Random(seed), set()

    def __call__(self, low, high):
        while (
            found := round(self._source.uniform(low, high), 6)
        ) and f"{found:.3g}" in self._taken:
            pass
        self._taken.add(f"{found:.3g}")
        return found

    def like(self, value):
        """Another number for each that is no whole one, of its kind: a share or not."""
        if isinstance(value, dict):
            return {key: self.like(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self.like(inner) for inner in value]
        if not isinstance(value, float):
            return value
        return self(0.05, 0.95) if 0 <= value <= 1 else self(2, 90)


def folder(place, *, seed=0):
    """The run, written."""
    run, draws = tiny_report.folder(place, recipe=RECIPE), _Draws(seed)
    for name in ("models", "speed", *SURE, "layers", "tokens"):
        path = run / f"evaluation/{name}.json"
        told = draws.like(files.read_json(path))
        if name in ("models", "speed"):
            told["models"] = {m: {key: draws(1e3, 9e6) for key in row} for m, row in told["models"].items()}  # fmt: skip
        if name in SURE:
            told |= _sure(told["models"], SURE[name], draws)
        files.write_json(path, told | ({"rows": 37, "length": 512} if "rows" in told else {}))
    _benchmarks(run / "evaluation/benchmarks", draws)
    files.write_json(run / "evaluation/generation.json", _speed(draws))
    for path in (run / "log.jsonl", run / "control/log.jsonl"):
        files.write_bytes(path, b"".join(map(files.canonical, _log(path, draws))))
    lines = [_sample(30.0 * number, draws) for number in range(9)]
    files.write_bytes(run / "telemetry.jsonl", b"".join(map(files.canonical, lines)))
    spent = [{"text": text, "teacher": "t", "spent": draws(2, 9)} for text in "ab"]
    provenance = files.read_json(run / "provenance.json")
    files.write_json(run / "provenance.json", provenance | {"text_spent": spent})
    return run


def _sure(models, keys, draws):
    """Intervals around each figure and difference, longer on one side; the teacher's distance to itself is a point."""

    def around(value, least=0.011, most=0.049):
        return [value, value - draws(least, most), value + draws(least, most)]

    ends = {model: {key: around(models[model][key]) for key in keys} for model in MODELS}
    if "kl_to_teacher" in keys:
        ends["teacher"]["kl_to_teacher"] = [models["teacher"]["kl_to_teacher"]] * 3
    apart = {key: around(models["student"][key] - models["control"][key]) for key in keys}
    gap = draws(0.05, 0.95)
    return {
        "intervals": ends,
        "differences": {"student - control": apart},
        "gap_recovered": {keys[0]: gap},
        "gap_intervals": {keys[0]: around(gap)},
    }


def _benchmarks(place, draws):
    for name, figure, shots, better in (
        ("piqa", "acc", 0, True),
        ("wikitext", "perplexity", 5, False),
    ):
        models = {
            m: {figure: draws(0.1, 0.9), f"{figure}_stderr": draws(0.01, 0.09)} for m in MODELS
        }
        told = {
            "measure": name, "few_shot": shots, "questions": 1138 + shots, "command": f"limbeck evaluate tiny --tasks {name}",
            "higher_is_better": {figure: better}, "models": models, "gap_recovered": {figure: draws(0.1, 0.9)},
            "student_against_control": {figure: {"difference": -draws(0.1, 0.9), "stderr": draws(0.01, 0.09)}},
        }  # fmt: skip
        files.write_json(place / f"{name}.json", told)


def _speed(draws):
    rates = ("prefill_tokens_per_second", "decode_tokens_per_second", "state_bytes", "peak_bytes")
    sizes = [
        {"length": length, "batch": batch, "model": model, "first_token_seconds": draws(0.1, 0.9)}
        | {key: draws(2e6, 9e8) for key in rates}
        for length, batch in ((1024, 1), (64, 3))
        for model in MODELS
    ]
    asked = {"rounds": 11, "new_tokens": 23}
    return {"sizes": sizes, "dtype": "float32", "asked": asked, "command": "limbeck evaluate tiny --speed"}  # fmt: skip


def _log(path, draws):
    """Two stages, looks at held-out rows, and an early end of the second."""
    first = [json.loads(line) for line in path.read_text().splitlines()]
    lines = draws.like(first + [line | {"stage": "second"} for line in first[:9]])
    for line in lines:
        line["model_flops_utilisation"] = draws(0.05, 0.95)
    seen = {"cross_entropy": 1.5, "loss": 1.5, "terms": {"forward_kl": 1.5}, "measures": {"agreement": {"kl_to_teacher": 1.5}}}  # fmt: skip
    lines[19]["held_out"] = draws.like(seen)
    lines[28]["held_out"] = draws.like(seen)
    lines[28]["ended_early"] = {"of": 1234, "why": "it no longer improved"}
    return lines


def _sample(time, draws):
    gpu = {"utilisation": 0.5, "memory_gigabytes": 2.0, "celsius": 50.0}
    gpus = [draws.like(gpu) | {"watts": draws(2e5, 9e5)} for _ in range(2)]
    plain = {"cpu": 0.5, "memory_gigabytes": 2.0, "machine_memory_gigabytes": 3.0}
    return {"time": time, **draws.like(plain), "gpus": gpus}
