"""The house has floors: who may import whom (see the README's tree)."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.conftest import ROOT

FLOORS = {
    "utils": {"utils"},
    "models": {"models", "utils"},
    "reader": {"reader", "utils"},
    "metrics": {"metrics", "utils"},
}
OURS = {*FLOORS, "train", "eval", "predict", "inference_model", "tests", "benchmark"}
TOP_LEVEL = {
    *("configs", "models", "reader", "metrics", "utils", "data", "tests", "benchmark", "application"),
    *("train.py", "eval.py", "predict.py", "inference_model.py", "run.sh", "run_dist.sh", "LICENSE"),
    *("requirements.txt", "requirements-gpu.txt", "requirements-dev.txt", "requirements-paddle2.txt"),
    *("README.md", "README.zh.md", "tsn_extractor.py"),
}


def imported(file: Path) -> set[str]:
    """Top-level packages that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names.add(node.module)
    return {name.split(".")[0] for name in names}


def test_no_floor_reaches_above_itself_or_sideways():
    breaches = [
        f"{file.relative_to(ROOT)} imports {', '.join(sorted(wrong))}"
        for floor, allowed in FLOORS.items()
        for file in sorted((ROOT / floor).rglob("*.py"))
        if (wrong := imported(file) & OURS - allowed)
    ]
    assert breaches == []


def test_only_a_composite_imports_another_model():
    for file in sorted((ROOT / "models").glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            module = getattr(node, "module", None) or ""
            if module.startswith("models."):
                assert module.startswith("models.common") or file.name == "videotag.py", file


def test_scripts_stay_short():
    limits = {"train.py": 150, "eval.py": 80, "predict.py": 100, "inference_model.py": 80}
    for name, limit in limits.items():
        assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= limit, name


def test_one_restricted_loader_serves_all():
    """No free unpickling and no evaluation of text anywhere in the product."""
    for file in sorted(ROOT.glob("*.py")) + [f for floor in FLOORS for f in (ROOT / floor).rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            forbidden = {"eval", "exec", "pickle.load", "pickle.loads", "paddle.load", "yaml.load"}
            assert called not in forbidden, f"{file}:{node.lineno}: {called}"
            assert "allow_pickle=True" not in ast.unparse(node), f"{file}:{node.lineno}"


def test_the_top_level_is_as_agreed():
    tracked = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    assert tracked - {"__pycache__", "log"} <= TOP_LEVEL
