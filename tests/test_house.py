"""House rules: which way imports run, how long things get, that everything says what it does."""

import ast
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "hydralign"
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in [*FILES, ROOT / "train.py"]}

# Floors of the house. A room imports from those below it, and from the modules named with it.
ROOMS = {
    "rl": set(),
    "data": {"rl"},
    "models": {"rl"},
    "rollout": {"data", "models", "rl"},
    "rewards": {"models", "rollout", "rl"},
    "planning": {"models", "rl"},
    "stages": {"data", "models", "rollout", "rewards", "rl"},
    "callbacks": {"data", "models", "rollout", "stages"},
    "web": set(),
    "labels": {"data", "web"},
    "chat": {"data", "models", "rollout", "web"},
    "export": {"data", "models", "rl"},
    "report": set(),
}
MODULES = {
    "allocator": set(),
    "errors": set(),
    "whole_file": set(),
    "memory": {"allocator"},
    "micro_batches": {"memory"},
    "summary": set(),
    "terminal_text": set(),
    "ranks": set(),
    "artifacts": set(),
    "batch_plan": set(),
    "config": set(),
    "inputs": {"artifacts", "data"},
    "data_source": {"data", "models", "rewards"},
    "reward_source": {"config", "rewards"},
    "runs": {"artifacts", "config", "record"},
    "finished": {"artifacts", "data", "model_source", "models", "rewards", "rl", "rollout", "runs"},
    "prompts": {"checks", "config", "data", "data_source", "finished"},
    "sample_file": {"artifacts", "record"},
    "sample": {"artifacts", "data", "finished", "labels", "prompts", "rollout", "runs"}
    | {"sample_file"},
    "evaluation_file": {"artifacts"},
    "judges": {
        "config",
        "data_source",
        "finished",
        "record",
        "reward_source",
        "rewards",
        "rollout",
    },
    "evaluate": {"data", "finished", "judges", "prompts", "rollout", "runs", "stages", "summary"},
    "talk": {"chat", "finished", "runs"},
    "by_hand": {"data", "stages"},
    "contest": {"data", "data_source", "inputs", "memory", "model_source"}
    | {"models", "record", "reward_source", "rl", "rollout", "runs", "stages"},
    "export_check": {"data", "data_source", "export", "finished", "models", "rl"},
    "exporter": {"export", "export_check", "finished", "inputs", "model_source", "models", "record"}
    | {"runs"},
    "checks": {"config", "data", "inputs"},
    "explain": {"data"},
    "outcomes": {"artifacts"},
    "record": {"artifacts"},
    "cli": {"explain", "record"},
    "model_source": {"data", "data_source", "inputs", "models", "planning"},
    "planner": {
        "allocator",
        "artifacts",
        "data",
        "memory",
        "model_source",
        "models",
        "planning",
        "rl",
    },
    "build": {
        *ROOMS,
        "artifacts",
        "config",
        "data_source",
        "inputs",
        "model_source",
        "reward_source",
    }
    | {"planner"} - {"rl"},
    "stage_run": {"artifacts", "build", "callbacks", "data_source", "inputs", "memory", "models"}
    | {"outcomes", "record", "report", "summary"},
    "run": {"artifacts", "build", "data_source", "memory", "record", "stage_run", "summary"},
}
ALLOWED = {**ROOMS, **MODULES, "train": {"allocator", "checks", "cli", "config", "run"}}
ANYWHERE = {"errors", "micro_batches", "ranks", "whole_file"}
"""What every room but the maths may import."""
SMALL = {
    "planning": {"allocator", "summary"},
    "stages": {"batch_plan", "memory", "outcomes", "summary"},
    "callbacks": {"allocator", "artifacts", "memory", "summary"},
    "report": {"outcomes", "record"},
    "labels": {"terminal_text"},
    "chat": {"terminal_text"},
}
"""Small modules of no room's own, and who may use them."""
KNOW_HYDRA = {"config", "build", "inputs", "run", "cli", "checks", "explain"}
KNOW_HYDRA |= {"data_source", "model_source", "planner", "record", "reward_source", "contest"}
KNOW_HYDRA |= {"exporter", "runs", "finished", "prompts", "sample", "judges", "stage_run"}


def room(path):
    """The room that a file stands in, or its own name."""
    if path.name == "train.py":
        return "train"
    inside = path.relative_to(PACKAGE)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def imported(tree):
    """Dotted names that a file imports, wherever it does so."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "absolute imports only"
            if node.module == "hydralign":
                yield from (f"hydralign.{alias.name}" for alias in node.names)
            else:
                yield node.module


def rooms_imported(path):
    names = [name.split(".") for name in imported(TREES[path])]
    return {parts[1] for parts in names if parts[0] == "hydralign" and len(parts) > 1} - {
        room(path)
    }


def test_the_scan_sees_the_house():
    assert {room(path) for path in FILES} - {"__init__"} == set(ROOMS) | set(MODULES)
    assert len(FILES) >= 60
    crossing = sum(len(rooms_imported(path)) for path in TREES)
    assert crossing >= 80


@pytest.mark.parametrize("path", TREES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    own = room(path)
    allowed = ALLOWED.get(own, set()) | SMALL.get(own, set())
    allowed |= ANYWHERE if own != "rl" else set()
    assert rooms_imported(path) - allowed == set()


def test_the_table_of_floors_has_no_way_back_up():
    floors, left = [], dict(ALLOWED)
    while left:
        ground = {name for name, below in left.items() if not below & set(left)}
        assert ground, f"these import each other: {sorted(left)}"
        floors.append(ground)
        left = {name: below for name, below in left.items() if name not in ground}
    height = {name: number for number, floor in enumerate(floors) for name in floor}
    order = ["rl", "models", "rollout", "rewards", "stages", "build", "stage_run", "run", "train"]
    assert [height[name] for name in order] == sorted(height[name] for name in order)


@pytest.mark.parametrize("path", TREES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_outer_modules_know_hydra(path):
    roots = {name.split(".")[0] for name in imported(TREES[path])}
    if room(path) not in KNOW_HYDRA | {"train"}:
        assert not roots & {"hydra", "omegaconf"}
    assert not roots & {"trl", "pytorch_lightning"}


def test_files_are_short():
    lengths = {path: len(path.read_text().splitlines()) for path in FILES}
    assert {str(path): n for path, n in lengths.items() if n > 350} == {}
    assert statistics.median(lengths.values()) <= 120


FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef


def test_functions_are_short():
    functions = [
        (path, node)
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, FUNCTION)
    ]
    lengths = {f"{path.name}: {f.name}": f.end_lineno - f.lineno + 1 for path, f in functions}
    assert len(functions) >= 250
    assert {name: n for name, n in lengths.items() if n > 70} == {}


def public(node):
    """A module or class, and what is public in it, however deep."""
    yield node
    for inner in node.body:
        if isinstance(inner, ast.ClassDef) and not inner.name.startswith("_"):
            yield from public(inner)
        elif isinstance(inner, FUNCTION) and not inner.name.startswith("_"):
            yield inner


def test_everything_public_says_what_it_does():
    nodes = [(path, node) for path, tree in TREES.items() for node in public(tree)]
    assert len(nodes) >= 300
    silent = [
        f"{path.name}: {getattr(node, 'name', 'the file')}"
        for path, node in nodes
        if not ast.get_docstring(node)
    ]
    assert silent == []
