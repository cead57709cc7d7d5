"""The folder of a finished run, as its files are, without a run."""

from pathlib import Path

from limbeck import files


def folder(
    place: Path, *, name: str = "tiny", prompt: str = "Once", recipe: str = "name: tiny\n"
) -> Path:
    """A run of 20 steps with control, evaluation, samples and provenance."""
    run = place / name
    for arm, term, base in ((run, "forward_kl", 2.0), (run / "control", "cross_entropy", 3.0)):
        lines = [
            {
                "stage": "only", "step": step, "tokens": 100 * step, "loss": base / step, "terms": {term: base / step},
                "grad_norm": 1.0, "learning_rate": 1e-3, "peak_gigabytes": 0.5, "tokens_per_second": 90.0 + step,
            }
            for step in range(1, 21)
        ]  # fmt: skip
        files.write_bytes(arm / "log.jsonl", b"".join(files.canonical(line) for line in lines))
    (run / "recipe.yaml").write_text(recipe)
    files.write_json(
        run / "provenance.json", {"seed": 3, "versions": {"torch": "2"}, "hardware": {"gpus": []}}
    )
    about = {"command": f"limbeck evaluate runs/{name}", "source": {}, "rows": 4, "length": 8}
    tables = {
        "models": {"parameters": (400.0, 200.0, 200.0)},
        "bits_per_byte": {"bits_per_byte": (1.0, 1.5, 2.0), "nats_per_token": (2.0, 3.0, 4.0)},
        "agreement": {"kl_to_teacher": (0.0, 0.5, 1.0), "top_1_agreement": (1.0, 0.5, 0.25)},
        "speed": {"tokens_per_second": (10.0, 20.0, 20.0)},
    }
    models = ("teacher", "student", "control")
    for measure, columns in tables.items():
        rows = {
            m: {key: values[i] for key, values in columns.items()} for i, m in enumerate(models)
        }
        gaps = {"gap_recovered": {"bits_per_byte": 0.5}} if measure == "bits_per_byte" else {}
        found = {"measure": measure, **about, "models": rows, **gaps}
        files.write_json(run / f"evaluation/{measure}.json", found)
    first = {model: [["<b>", 0.5], [" it", 0.25]] for model in ("teacher", "student")}
    tokens = [
        {"text": text, "counted": True, "likeliest": first, "said": {"teacher": 0.5, "student": 0.25}, "kl": {"student": nats}}
        for text, nats in (("Once", 0.0), (" <i>upon", 1.0), (" a", 9.0))
    ]  # fmt: skip
    files.write_json(run / "evaluation/tokens.json", {**about, "row": 0, "tokens": tokens})
    alike = {"name": "student", "importance": [0.5, 0.5], "paired": [1, 3], "cka": [[0.1, 0.9, 0.2, 0.3], [0.2, 0.3, 0.4, 0.75]]}  # fmt: skip
    files.write_json(run / "evaluation/layers.json", {**about, "students": [alike]})
    samples = {"prompt": prompt, "models": dict.fromkeys(models, f"{prompt} upon a time")}
    files.write_json(run / "evaluation/samples.json", samples)
    return run
