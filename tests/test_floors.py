"""The house stands: imports go down only, parts are where their names say, and nothing secret lies about."""

import ast
import functools
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import limbeck
from limbeck import fitting, loading, names
from limbeck.generating import loaded

HERE = Path(__file__).parents[1]
PACKAGE = sorted(HERE.glob("limbeck/**/*.py"))
# Each floor may use those below it, and its own without going round in a circle.
FLOORS = (
    ("types", "kept", "pages", "intervals", "recipe", "stage", "measurement", "spelling", "strict", "errors", "names", "files", "checked", "progress"),
    ("objectives", "selection"),
    ("data", "cache", "models", "sampling"),
    ("sources", "teachers", "students"),
    ("training", "evaluation", "filters", "report", "trackers", "telemetry", "recording", "storing", "featuring", "keeping", "planning", "estimating", "exporting", "folder", "provenance", "confidence", "licences", "recarding", "pushing",
     "verifying", "fetching", "collecting", "mirroring", "converting"),
    ("loading", "fitting", "assembly", "prints", "choosing", "linking", "recorded", "watching", "standing", "arm", "metering", "tracking", "auditing", "judging", "benchmarking", "timing", "evaluating", "contrasting", "cards", "showing", "doctor", "comparing", "examples", "preparing", "probing", "run", "again",
     "launching", "generating", "bringing"),
    ("cli", "__main__"),
)  # fmt: skip
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# Rooms of these floors do not know one another.
STRANGERS = (2, 3)
PARTS = [(family, name) for family in names.FAMILIES for name in names.members(family)]
SECRETS = re.compile(
    r"\b([0-9a-f]{40}|hf_[A-Za-z0-9]{30,}|sk-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{36}"
    r"|AKIA[0-9A-Z]{16}|xox[abprs]-[A-Za-z0-9-]{10,})\b|-----BEGIN [A-Z ]*PRIVATE KEY"
)


def module(path):
    """limbeck.data.pack of limbeck/data/pack.py."""
    parts = path.relative_to(HERE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path): path for path in PACKAGE}


@functools.cache
def imports(name):
    """The modules of the package that a module imports anywhere, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("limbeck"):
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inner & set(MODULES)) or {node.module}
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("limbeck")}
    return frozenset(found - {name, "limbeck"})


def room(name):
    return name.split(".")[1]


@pytest.mark.parametrize("name", [name for name in MODULES if name != "limbeck"])
def test_imports_go_down_only(name):
    assert room(name) in FLOOR, f"give {room(name)} a floor"
    for other in imports(name):
        assert FLOOR[room(other)] <= FLOOR[room(name)], other
        apart = FLOOR[room(name)] in STRANGERS and FLOOR[room(other)] == FLOOR[room(name)]
        assert not apart or room(other) == room(name), other


def test_no_import_goes_round_in_a_circle():
    done, open_ = set(), []

    def visit(name):
        assert name not in open_, f"circle: {' -> '.join([*open_, name])}"
        if name not in done:
            open_.append(name)
            for other in sorted(imports(name)):
                visit(other)
            open_.pop()
            done.add(name)

    for name in MODULES:
        if name != "limbeck":
            visit(name)
    assert len(done) == len(MODULES) - 1


@pytest.mark.parametrize(("family", "name"), PARTS)
def test_no_part_imports_its_sibling(family, name):
    siblings = {f"limbeck.{family}.{other}" for other in names.members(family)}
    assert not imports(f"limbeck.{family}.{name}") & siblings


@pytest.mark.parametrize(("family", "name"), PARTS)
def test_a_part_says_the_shapes_of_its_tensors(family, name):
    part = names.find(family, name)
    said = inspect.getdoc(part)
    assert said
    annotations = [str(p.annotation) for p in inspect.signature(part).parameters.values()]
    if any("Tensor" in annotation for annotation in annotations):
        axes = r"batch|time|tokens|vocab|k|width|heads|layers"
        assert re.search(rf"\(({axes})(, ({axes}))*,?\)", said), said


def title(path):
    """What the recipe of a file is called: kd70-all of recipes/kd70/all.yaml."""
    return "-".join(path.relative_to(HERE / "recipes").with_suffix("").parts)


RECIPES = sorted(HERE.glob("recipes/**/*.yaml"))
OF_TEXT = [path for path in RECIPES if path.parent.name == "generate"]


@pytest.mark.parametrize("path", [path for path in RECIPES if path not in OF_TEXT], ids=title)
def test_every_recipe_loads(path):
    found = fitting.check(loading.load(path))
    assert found.name == title(path)


@pytest.mark.parametrize("path", OF_TEXT, ids=title)
def test_every_generation_loads(path):
    assert f"generate-{loaded.load(path).name}" == title(path)


def reachable(name):
    """A module and all that importing it imports from the package."""
    found, waiting = set(), [name]
    while waiting:
        here = waiting.pop()
        if here not in found:
            found.add(here)
            waiting += imports(here)
    return found


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("limbeck.report.")])
def test_a_report_needs_no_torch(name):
    for other in reachable(name):
        text = MODULES[other].read_text()
        assert not re.search(r"^\s*(import|from) (torch|transformers|safetensors)\b", text, re.M)


def test_the_public_names_are_these():
    assert limbeck.__all__ == [
        "Batch",
        "LimbeckError",
        "Recipe",
        "Rows",
        "Signal",
        "TopK",
        "Wanted",
    ]
    for name in limbeck.__all__:
        assert getattr(limbeck, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Bach'"):
        _ = limbeck.Bach


def test_importing_the_package_imports_nothing_heavy():
    code = "import limbeck, sys; print(sorted({'torch', 'pydantic', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", PACKAGE, ids=module)
def test_yaml_is_read_by_the_strict_loader_only_and_no_shell_is_started(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            called = ast.unparse(node.func)
            given = {key.arg: ast.unparse(key.value) for key in node.keywords}
            assert called not in ("os.system", "os.popen", "yaml.full_load", "yaml.unsafe_load")
            assert called != "yaml.load" or given.get("Loader") == "_Strict"
            assert given.get("shell", "False") == "False"


def tracked():
    done = subprocess.run(["git", "ls-files", "-z"], cwd=HERE, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [HERE / name for name in done.stdout.decode().split("\0") if name]


def test_no_tracked_file_holds_what_looks_like_a_key():
    found = []
    for path in tracked():
        if path.is_file():
            text = path.read_bytes().decode(errors="replace")
            found += [f"{path.name}: {hit[0][:12]}" for hit in SECRETS.finditer(text)]
    assert not found


@pytest.mark.parametrize(
    "key",
    ["0123456789abcdef0123" * 2, "hf_" + "a" * 34, "sk-" + "b" * 32, "ghp_" + "c" * 36],
)
def test_a_key_would_be_seen(key):
    assert SECRETS.search(f"token: {key}\n")
    assert not SECRETS.search("sha256: " + "ab" * 32)
