"""House rules of the maths room: nothing but torch, shapes in every docstring, no side effects."""

import ast
import re
import sys
from pathlib import Path

import pytest
import torch

import hydralign.rl
from hydralign.rl import advantages, kl, logprobs, losses, masks, preference, rewards

MODULES = sorted(Path(hydralign.rl.__file__).parent.rglob("*.py"))
EXPECTED = {
    *("masks", "sequences", "logprobs", "kl", "rewards", "advantages"),
    *("losses", "preference", "minibatches", "groups"),
}
LEGEND = {*"bgprtvnks", "pairs", "..."}
SHAPE = re.compile(r"\(([\w.]+(?:, [\w.]+)*),?\)")


def names_a_shape(function: ast.FunctionDef) -> bool:
    """Whether the docstring says scalar, or has the likes of (b, r) or (minibatch_size,)."""
    known = LEGEND | {arg.arg for arg in function.args.args}
    docstring = ast.get_docstring(function) or ""
    shapes = [set(shape.split(", ")) for shape in SHAPE.findall(docstring)]
    return "scalar" in docstring.lower() or any(shape <= known for shape in shapes)


def public_functions(tree: ast.Module) -> list[ast.FunctionDef]:
    return [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    ]


def test_the_scan_sees_every_module():
    assert {path.stem for path in MODULES} >= EXPECTED


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_module_imports_only_torch_and_the_standard_library(path):
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "absolute imports only"
            imported.add(node.module)
    strangers = {
        name
        for name in imported
        if name.split(".")[0] not in {"torch", *sys.stdlib_module_names}
        and not (name + ".").startswith("hydralign.rl.")
    }
    assert strangers == set()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_public_functions_name_their_shapes(path):
    functions = public_functions(ast.parse(path.read_text()))
    assert [f.name for f in functions if not names_a_shape(f)] == []


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("Mean of (b, r).", True),
        ("Give (n,) back.", True),
        ("Of (..., v).", True),
        ("Scalar.", True),
    ]
    + [("Sizes (size,).", True), ("Mean (Ziegler, 2019).", False), ("Of b rows.", False)],
)
def test_the_docstring_scan_knows_a_shape_from_other_words(docstring, expected):
    (function,) = ast.parse(f'def f(size): "{docstring}"').body
    assert names_a_shape(function) is expected


def test_the_docstring_scan_sees_the_functions():
    trees = [ast.parse(path.read_text()) for path in MODULES]
    assert sum(len(public_functions(tree)) for tree in trees) >= 36


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_module_neither_prints_nor_opens_files(path):
    calls = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not calls & {"print", "open", "input", "exec", "eval"}


X, Y, Z = torch.randn(3, 3, 5, generator=torch.Generator().manual_seed(0)).double()
KEEP = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [1, 0, 1, 1, 0]]).bool()
IDS = torch.tensor([[1, 2, 0, 4, 3], [3, 2, 1, 1, 1], [0, 0, 0, 0, 0]])
CALLS = [
    (masks.position_ids, [KEEP], {}),
    (masks.response_mask_from_stops, [IDS, torch.tensor([2, 4])], {}),
    (masks.whiten, [X, KEEP], {"shift_mean": False}),
    (masks.masked_var, [X, KEEP], {}),
    (logprobs.token_logprobs, [X, IDS[0, :3]], {"temperature": 0.7}),
    (logprobs.token_logprobs_and_entropy, [X, IDS[0, :3]], {"temperature": 0.7}),
    (kl.kl_k3, [X, Y], {}),
    (kl.exact_kl, [X, Y], {}),
    (rewards.per_token_rewards, [X[:, 0], Y, KEEP, 0.1], {}),
    (rewards.penalise_missing_stop, [X[:, 0], KEEP[:, 2], 1.0], {}),
    (rewards.normalise_scores, [X[:, 0]], {"mean": 1.0, "std": 2.0}),
    (advantages.gae, [X, Y, KEEP], {"gamma": 1.0, "gae_lambda": 0.95}),
    (losses.policy_loss_terms, [X, Y, Z], {"clip_range": 0.2, "dual_clip": 3.0}),
    (losses.value_loss_terms, [X, Y, Z], {"value_clip_range": 0.2}),
    (losses.token_mean, [X, KEEP], {}),
    (losses.sequence_mean, [X, KEEP], {}),
    (losses.explained_variance, [X, Y, KEEP], {}),
    (preference.pairwise_loss, [X, Y], {"target": 0.5}),
    (preference.plackett_luce_loss, [X[0]], {}),
]


@pytest.mark.parametrize(
    ("function", "args", "options"), CALLS, ids=lambda x: getattr(x, "__name__", "")
)
def test_arguments_are_not_written_to(function, args, options):
    before = [arg.clone() if isinstance(arg, torch.Tensor) else arg for arg in args]
    function(*args, **options)
    for now, then in zip(args, before, strict=True):
        assert torch.equal(now, then) if isinstance(now, torch.Tensor) else now == then
