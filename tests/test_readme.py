"""The documents are true: tables, links, flags and commands of README.md and the models' pages."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from models import ZOO
from tests import synthetic
from tests.conftest import ROOT
from utils import cli

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "models").glob("*.md")), ROOT / "tests/conformance/README.md"]
PARSERS = {
    "train.py": cli.train_parser(ZOO),
    "eval.py": cli.eval_parser(ZOO),
    "predict.py": cli.predict_parser(ZOO),
    "inference_model.py": cli.inference_parser(ZOO),
}
NAMES_2019 = {
    *("TSN", "TSM", "STNET", "NONLOCAL", "AttentionCluster", "AttentionLSTM", "NEXTVLAD"),
    *("CTCN", "BsnTem", "BsnPem", "BMN", "ETS", "TALL", "VideoTag"),
}


def test_the_table_of_the_zoo_says_what_is_ready():
    states = {}
    for line in README.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 5 and cells[4] in ("ready", "coming"):
            for name in re.sub(r"\]\(.*?\)|\[", "", cells[0]).split(","):
                states[name.strip()] = cells[4]
    assert set(states) == NAMES_2019
    assert {name for name, state in states.items() if state == "ready"} == {spec.name for spec in ZOO}


def test_every_flag_is_explained_and_every_explained_flag_exists():
    table = "\n".join(line for line in README.splitlines() if line.startswith("| `-"))
    explained = set(re.findall(r"`(--?[a-z_]+)`", table.replace("`--pretrain` |", "`--pretrain` |")))
    exist = {
        option
        for parser in PARSERS.values()
        for action in parser._actions
        for option in action.option_strings
        if option not in ("-h", "--help")
    }
    assert explained == exist


def test_the_tree_names_every_file():
    tree = README.split("## Where things are")[1].split("```")[1]
    for folder in ("utils", "reader", "metrics", "models"):
        for file in sorted((ROOT / folder).glob("*.py")):
            assert file.name == "__init__.py" or file.name in tree, file
    for file in ROOT.glob("*.py"):
        assert file.name in tree, file


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+?)\)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.S):
            found += [
                (page.name, line.split("  #")[0].strip()) for line in block.splitlines() if line.strip()
            ]
    return found


@pytest.mark.parametrize(("page", "command"), commands())
def test_every_command_is_understood(page, command):
    words = shlex.split(re.sub(r"^(\w+=\S+ )+", "", command))
    if words[0] == "python" and words[1] in PARSERS:
        PARSERS[words[1]].parse_args(words[2:])
    elif words[0] == "bash":
        assert (ROOT / words[1]).is_file()
        scripts = {"inference": "inference_model.py"}
        script = scripts.get(words[2], f"{words[2]}.py")
        if script in PARSERS:
            PARSERS[script].parse_args([f"--model_name={words[3]}", f"--config={words[4]}", *words[5:]])
            assert (ROOT / words[4]).is_file()
    elif words[1] == "-m":
        assert words[2] == "pytest" or (ROOT / (words[2].replace(".", "/") + ".py")).is_file()
    else:
        assert words[0] == "python" and (ROOT / words[1]).is_file(), command


def test_the_sequence_of_the_readme_runs(tmp_path):
    """run.sh train, eval, predict, inference with a small recipe, as a user types them."""
    recipe = synthetic.tiny_tsn(tmp_path, synthetic.video_set(tmp_path))
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": "", "pretrain": "none"}

    def run(mode: str, *flags: str, **variables: str) -> None:
        done = subprocess.run(
            ["bash", str(ROOT / "run.sh"), mode, "TSN", str(recipe), *flags],
            cwd=tmp_path,
            env={**environment, **variables},
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]

    weights = {"weights": "data/checkpoints/TSN.pdparams"}
    run("train", "--epoch=1")
    run("eval", **weights)
    run("predict", f"--video_path={tmp_path / 'clip 1.mp4'}", **weights)
    run("inference", **weights)
    results = json.loads((tmp_path / "data/predict_results/TSN_infer_result.json").read_text())["results"]
    assert [Path(record["video"]).name for record in results] == ["clip 1.mp4"]
    assert (tmp_path / "data/evaluate_results/TSN_eval_result.json").is_file()
    assert list((tmp_path / "data/inference_model").glob("TSN_model.*"))
