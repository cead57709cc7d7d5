"""What a report has to say of a run, made of the run's own files key by key, without the code that writes reports."""

import re

from tiny_traced import Held

COLUMNS = (
    ("parameters", "models", "parameters", "{:,.0f}"),
    ("bits per byte", "bits_per_byte", "bits_per_byte", "{:.4f}"),
    ("nats per token", "bits_per_byte", "nats_per_token", "{:.4f}"),
    ("KL to the teacher", "agreement", "kl_to_teacher", "{:.4f}"),
    ("top-1 agreement", "agreement", "top_1_agreement", "{:.2%}"),
    ("top-k overlap", "agreement", "top_k_overlap", "{:.2%}"),
    ("tokens/s", "speed", "tokens_per_second", "{:,.0f}"),
)
DASH = "–"


def figures(held: Held):
    """The table of teacher, student and control, with its headings."""
    shown = [column for column in COLUMNS if column[1] in held.tables]
    rows = [["model", *(heading for heading, *_ in shown)]]
    for model in held.get("models", "models"):
        cells = []
        for _, measure, key, form in shown:
            value = held.get(measure, "models", model, key)
            ends = held.get(measure, "intervals", model, key)
            cells.append(DASH if value is None else form.format(value) + within(ends, form))
        rows.append([model, *cells])
    return rows


def within(ends, form):
    """The interval behind a figure."""
    _, low, high = ends or (0, 0, 0)
    return "" if low == high else f" ({form.format(low)} to {form.format(high)})"


def verdict(held: Held):
    """The sentence on student and control."""
    parts = [
        _better(held, "bits_per_byte", "bits_per_byte", "bits per byte of held-out text"),
        _better(held, "agreement", "kl_to_teacher", "nats of KL to the teacher"),
    ]
    return f"Against a control that learned from the same text alone, the student is {'; it is '.join(parts)}."


def _better(held, measure, key, unit):
    student, control = (held.get(measure, "models", m, key) for m in ("student", "control"))
    _, low, high = held.get(measure, "differences", "student - control", key)
    word, ends = ("better", (-high, -low)) if student < control else ("worse", (low, high))
    told = f"{word} by {abs(student - control):.4f} {unit} (95 %: {ends[0]:.4f} to {ends[1]:.4f})"
    return told if ends[0] > 0 else f"{told}, which these rows do not tell from no difference"


def ended(held: Held):
    """A sentence for each stage that ended early."""
    return [
        f"Stage {line['stage']} of the {arm} ended early, at step {line['step']:,} of {line['ended_early']['of']:,}: "
        f"{line['ended_early']['why']}."
        for arm, lines in held.logs.items()
        for line in lines
        if "ended_early" in line
    ]


def gaps(held: Held):
    """[(figure as people write it, the share and its interval)]."""
    found = []
    for told in held.tables.values():
        for key, value in told.get("gap_recovered", {}).items():
            ends = told.get("gap_intervals", {}).get(key)
            name = re.sub(r"\bkl\b", "KL", key.replace("_", " "))
            found.append((name, f"{value:.1%}{within(ends, '{:.1%}')}"))
    return found


def benchmarks(held: Held):
    """The table of benchmarks, with its headings."""
    rows = [["benchmark", "figure", "questions", "teacher", "student", "control", "student − control", "gap recovered"]]  # fmt: skip
    for told in held.benchmarks:
        (figure,) = told["higher_is_better"]
        shots, better = told["few_shot"], told["higher_is_better"][figure]
        apart = told["student_against_control"][figure]
        rows.append([
            told["measure"] + (f", {shots}-shot" if shots else ""), figure if better else f"{figure} ↓", f"{told['questions']:,}",
            *(f"{told['models'][m][figure]:.4f} ± {told['models'][m][f'{figure}_stderr']:.4f}" for m in rows[0][3:6]),
            f"{apart['difference']:+.4f} ± {apart['stderr']:.4f}", f"{told['gap_recovered'][figure]:.1%}",
        ])  # fmt: skip
    return rows


def speed(held: Held):
    """The table of reading and writing, with its headings."""
    rows = [["prompt", "model", "reads tokens/s", "first token", "writes tokens/s", "of the teacher's", "keeps", "needs at most"]]  # fmt: skip
    sizes = held.get("generation", "sizes")
    for one in sizes:
        (teacher,) = (
            other
            for other in sizes
            if [other[key] for key in ("length", "batch", "model")]
            == [one["length"], one["batch"], "teacher"]
        )
        share = one["decode_tokens_per_second"] / teacher["decode_tokens_per_second"]
        rows.append([
            f"{one['length']:,} × {one['batch']}", one["model"], f"{one['prefill_tokens_per_second']:,.0f}",
            f"{one['first_token_seconds']:.3f} s", f"{one['decode_tokens_per_second']:,.1f}", f"{share:.2f} ×",
            f"{one['state_bytes'] / 1e6:,.1f} MB", f"{one['peak_bytes'] / 1e6:,.0f} MB",
        ])  # fmt: skip
    return rows


def cost(held: Held):
    """What the run took: names and values. Of samples that follow one another within a minute, with and without GPUs."""
    found = [
        [f"training of the {arm}", _duration(_training(lines))]
        for arm, lines in held.logs.items()
        if lines
    ]
    pairs = list(zip(held.telemetry, held.telemetry[1:], strict=False))
    gaps_ = [(here, there["time"] - here["time"]) for here, there in pairs]
    worked = [(here, gap) for here, gap in gaps_ if gap <= 60]
    seconds = sum(gap for _, gap in worked)
    gpus = len(held.telemetry[0].get("gpus", []))
    found.append(["the machine, in all", _duration(seconds) + (f", with {gpus} GPUs" if gpus else "")])  # fmt: skip
    if gpus:
        joules = sum(gap * gpu["watts"] for here, gap in worked for gpu in here["gpus"])
        found.append(["energy of the GPUs", f"{joules / 3.6e6:,.3g} kWh"])
    asked = held.recipe.get("telemetry", {})
    if asked.get("price_per_hour"):
        price = asked["price_per_hour"] * seconds / 3600
        found.append(["price of the machine", f"{price:,.2f} {asked['currency']}"])
    texts = [one["spent"] for one in held.provenance.get("text_spent", [])]
    return found + ([["price of the text that teachers wrote", f"{sum(texts):,.2f}"]] if texts else [])  # fmt: skip


def _training(lines):
    before = {}
    seconds = 0.0
    for line in lines:
        if "tokens_per_second" in line:
            tokens = line["tokens"] - before.get(line["stage"], 0)
            before[line["stage"]] = line["tokens"]
            seconds += tokens / line["tokens_per_second"]
    return seconds


def _duration(seconds):
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def provenance(held: Held):
    """Every leaf of provenance.json: its keys and its value."""
    return [list(one) for one in _flat(held.provenance, ())]


def _flat(value, keys):
    if isinstance(value, dict):
        return [one for key, inner in value.items() for one in _flat(inner, (*keys, key))]
    items = value if isinstance(value, list) else [value]
    told = ", ".join("none" if item is None else str(item) for item in items)
    return [(".".join(keys), told or "none")]


def tokens(held: Held):
    """Each token of the first row: its text, its shade, what is told of it."""
    found = []
    for one in held.get("tokens", "tokens"):
        told = [f"{one['text']!r}: {one['kl']['student']:.2f} nats apart"]
        for model, likeliest in one["likeliest"].items():
            chances = ", ".join(f"{text!r} {chance:.1%}" for text, chance in likeliest)
            told.append(f"{model}: {one['said'][model]:.1%} for this; {chances}")
        shade = str(round(min(1.0, one["kl"]["student"] / 4), 2))
        found.append([one["text"], shade, "\n".join(told)])
    return found
