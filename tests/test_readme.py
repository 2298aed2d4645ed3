"""The documents are true: tables, tree, links, flags and commands of README.md and other pages."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from typing import Any

import pytest

from models import ZOO
from tests import synthetic
from tests.conftest import ROOT
from utils import cli

NAMES_OF_2019 = {
    *("TSN", "TSM", "STNET", "NONLOCAL", "AttentionCluster", "AttentionLSTM", "NEXTVLAD"),
    *("CTCN", "BsnTem", "BsnPem", "BMN", "ETS", "TALL", "VideoTag"),
}
PARSERS = {  # by column of the flags table
    "train": cli.train_parser(ZOO),
    "eval": cli.eval_parser(ZOO),
    "predict": cli.predict_parser(ZOO),
    "inference_model": cli.inference_parser(ZOO),
}
MORE_PARSERS = {"tsn_extractor": cli.extract_parser(ZOO)}  # not in that table
MODES = {"train": "train", "eval": "eval", "predict": "predict", "inference": "inference_model"}
TREE_FOLDERS = ("models", "reader", "metrics", "utils")  # the tree shows every file of these
NONE = "–"

PAGES = [
    *sorted(ROOT.glob("README*.md")),
    *sorted((ROOT / "models").glob("*.md")),
    ROOT / "tests" / "conformance" / "README.md",
]
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}
README = TEXTS[ROOT / "README.md"]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def table(title: str) -> list[dict[str, str]]:
    """Rows of the README's table whose first column is called ``title``, by column."""
    lines = iter(README.splitlines())
    for line in lines:
        if line.startswith(f"| {title} |"):
            break
    else:
        pytest.fail(f"README.md has no table of {title!r}")
    header = _cells(line)
    next(lines)
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append(dict(zip(header, _cells(line), strict=True)))
    return rows


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def section(heading: str) -> str:
    """The text of the README below ``heading``, up to the next one."""
    return README.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of one language; an empty one finds those without."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [body for name, body in fenced if name == language]


def prose(text: str) -> str:
    """The text without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


# ---- tables and tree ---------------------------------------------------------------------------


def test_the_table_of_the_zoo_says_what_is_ready():
    rows = table("model")
    status = {re.sub(r"\[(.*)\]\(.*\)", r"\1", row["model"]): row["status"] for row in rows}
    assert set(status) == NAMES_OF_2019
    assert {name for name, word in status.items() if word == "ready"} == {spec.name for spec in ZOO}
    assert set(status.values()) <= {"ready", "coming"}


def test_the_table_of_weights_has_every_address():
    text = " ".join(row["from"] for row in table("in the weights folder"))
    for spec in ZOO:
        for url in (*spec.weights_urls, *spec.pretrain_urls):
            assert f"<{url}>" in text, spec.name


@pytest.mark.parametrize("script", PARSERS)
def test_the_table_of_flags_is_that_of_the_parser(script):
    parser = PARSERS[script]
    actions = {action.option_strings[0]: action for action in parser._actions}
    del actions["-h"]
    listed = {row["flag"].strip("`"): row[script] for row in table("flag")}
    assert {flag for flag, cell in listed.items() if cell != NONE} == set(actions)
    for flag, action in actions.items():
        default = parser.get_default("default_save_dir") if flag == "--save_dir" else action.default
        if isinstance(default, (int, str)) and action.nargs != 0:
            assert listed[flag].strip("`") == str(default), flag


def test_the_default_folders_are_those_of_the_parsers():
    for row in table("script"):
        parser = PARSERS[row["script"].removesuffix(".py")]
        assert f"`{parser.get_default('default_save_dir')}`" in row["default folder"], row["script"]


def tree() -> set[str]:
    """Paths that the README's tree shows, folders without their slash."""
    paths: set[str] = set()
    parents: list[str] = []
    for line in blocks(section("Where things are"), "")[0].splitlines():
        name, purpose = line.split(maxsplit=1)
        depth = (len(line) - len(line.lstrip())) // 2
        parents[depth:] = [name.rstrip("/")]
        path = "/".join(parents)
        assert purpose and path not in paths, line
        assert name.endswith("/") == (ROOT / path).is_dir(), f"{line}: a folder ends with a slash"
        paths.add(path)
    return paths


def test_the_tree_is_what_there_is():
    shown = tree()
    assert [path for path in sorted(shown) if not (ROOT / path).exists()] == []
    top = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    expected = top - {"__pycache__", "log"}
    for folder in TREE_FOLDERS:
        expected |= {file.relative_to(ROOT).as_posix() for file in (ROOT / folder).rglob("*.py")}
    assert sorted(expected - shown) == []


# ---- the page in Chinese -----------------------------------------------------------------------


def outline(text: str) -> dict[str, Any]:
    """What the front page has in common with its translation."""
    tables = re.findall(r"(?:^\|.*\n)+", prose(text), re.MULTILINE)
    return {
        "sections": [len(marks) for marks in re.findall(r"^(#+) ", prose(text), re.MULTILINE)],
        "commands": [shlex.split(block, comments=True) for block in blocks(text, "bash")],
        "examples": blocks(text, "json"),
        "tree": re.findall(r"^ *\S+", blocks(text, "")[0], re.MULTILINE),
        "rows": [len(rows.splitlines()) for rows in tables],
    }


def test_the_page_in_chinese_says_as_much():
    english, chinese = README, TEXTS[ROOT / "README.zh.md"]
    assert outline(chinese) == outline(english)
    for text, other in ((english, "(README.zh.md)"), (chinese, "(README.md)")):
        assert other in text.splitlines()[2]


# ---- links and paths ---------------------------------------------------------------------------


def outputs() -> tuple[str, ...]:
    """Folders that the programs write, which need not exist: those that git ignores."""
    lines = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    return tuple(line.lstrip("/") for line in lines if line.endswith("/") and "*" not in line)


@each_page
def test_every_link_leads_somewhere(page):
    headings = re.findall(r"^#+ (.*)$", TEXTS[page], re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXTS[page]):
        path, _, anchor = target.partition("#")
        if not path:
            assert anchor in anchors, target
        elif not path.startswith("https://"):
            assert (page.parent / path).exists(), target


@each_page
def test_every_path_exists(page):
    """In running text, of what starts with a folder of the project."""
    for word in re.findall(r"`([\w./-]+)`", prose(TEXTS[page])):
        path = word.removeprefix("./")
        inside = "/" in path and (ROOT / path.split("/")[0]).is_dir()
        if inside and not f"{path}/".startswith(outputs()):
            assert (ROOT / path).exists(), word


# ---- commands ----------------------------------------------------------------------------------


def commands(text: str) -> list[list[str]]:
    """The words of every command: lines of shell blocks, and of code in running text."""
    lines = "".join(blocks(text, "bash")).replace("\\\n", " ").splitlines()
    lines += re.findall(r"`((?:python|bash|pip) [^`]+)`", prose(text))
    words = [shlex.split(line.replace(" …", ""), comments=True) for line in lines]
    return [without_variables(line) for line in words if line]


def without_variables(words: list[str]) -> list[str]:
    while re.match(r"\w+=", words[0]):
        words = words[1:]
    return words


def understood(words: list[str]) -> None:
    """Raises SystemExit for a flag, ConfigError for a key, that the script does not know."""
    if words[0] == "bash":
        assert words[1] in ("run.sh", "run_dist.sh"), words
        if words[2] in ("test", "demo"):
            return
        mode, name, config, *flags = words[2:]
        _parse(PARSERS[MODES[mode]], [f"--model_name={name}", f"--config={config}", *flags])
    elif words[:2] == ["pip", "install"]:
        if "-r" in words:
            assert (ROOT / words[words.index("-r") + 1]).is_file(), words
        else:  # what is optional is tested, too
            listed = (ROOT / "requirements-dev.txt").read_text(encoding="utf-8")
            assert all(re.search(rf"^{name}\b", listed, re.MULTILINE) for name in words[2:]), words
    elif words[1].startswith("data/"):
        help_text = subprocess.run(
            [sys.executable, *words[1:2], "--help"], capture_output=True, text=True, cwd=ROOT
        )
        for word in words[2:]:
            assert not word.startswith("--") or word.split("=")[0] in help_text.stdout, words
    elif words[1] == "-m":
        assert importlib.util.find_spec(words[2]), words
    else:
        _parse({**PARSERS, **MORE_PARSERS}[words[1].removesuffix(".py")], words[2:])


def _parse(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    args = parser.parse_args(argv)
    if args.config and args.config.startswith(outputs()):
        return  # a recipe that a command before has written; the walk-through runs it
    if args.model_name or args.config:
        cli.recipe(args, ZOO, {})


@each_page
def test_every_command_is_understood(page):
    found = commands(TEXTS[page])
    assert found
    for words in found:
        understood(words)


def test_every_message_of_the_table_is_one_of_ours():
    sources = [*ROOT.glob("*.py"), *(f for name in TREE_FOLDERS for f in (ROOT / name).rglob("*.py"))]
    # Implicitly joined and formatted strings as one text: quotes, line breaks and fields are gaps.
    text = " ".join(file.read_text(encoding="utf-8") for file in sources)
    text = re.sub(r'"\s+f?"', "", text)
    for row in table("message"):
        for part in row["message"].strip("`").split("…"):
            words = part.strip(" '")
            assert words.removesuffix(":") in text, row["message"]


def test_own_data_in_five_minutes(tmp_path):
    """The front page's walk-through, at small size: its commands, and the sizes of the recipe."""
    for name in ("jump", "run"):
        (tmp_path / "my_videos" / name).mkdir(parents=True)
        for i in range(5):
            clip = synthetic.frames(12, seed=i + 10 * (name == "run"))
            synthetic.write_video(tmp_path / "my_videos" / name / f"{i}.mp4", clip)
    small = ["MODEL.num_layers=18"] + [
        f"{mode}.{key}"
        for mode in ("TRAIN", "VALID", "TEST", "INFER")
        for key in ("short_size=40", "target_size=32")
    ]
    for line in blocks(section("Your own data in five minutes"), "bash")[0].splitlines():
        words = shlex.split(line)
        script = words[1]
        if script == "train.py":
            words += ["--pretrain=none", "--epoch=2"]
        if "/" not in script:
            words += ["-o", *small]
        words[:2] = [sys.executable, str(ROOT / script)]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    out = tmp_path / "data" / "predict_results"
    records = json.loads((out / "TSN_infer_result.json").read_text(encoding="utf-8"))["results"]
    assert len(records) == 5
    for record in records:
        assert {entry["class_name"] for entry in record["topk"]} == {"jump", "run"}
        assert (out / record["picture"]).read_bytes().startswith(b"\x89PNG")


def shape(value: Any) -> Any:
    """Names at every depth; of lists their first entry."""
    if isinstance(value, dict):
        return {name: shape(item) for name, item in value.items()}
    return [shape(item) for item in value[:1]] if isinstance(value, list) else None


def test_the_sequence_of_the_readme_runs_and_writes_what_it_says(tmp_path):
    """The four lines with run.sh, with a tiny recipe in place of the real one."""
    recipe = synthetic.tiny_tsn(tmp_path, synthetic.video_set(tmp_path))
    shutil.copy(tmp_path / "clip 1.mp4", tmp_path / "my.mp4")
    lines = blocks(section("Train, evaluate, predict, export"), "bash")[1].splitlines()
    assert [without_variables(line.split())[2] for line in lines] == list(MODES)
    environment = {**os.environ, "PYTHON": sys.executable, "use_gpu": "False", "pretrain": "none"}
    for line in lines:
        command = line.replace("run.sh", shlex.quote(str(ROOT / "run.sh")))
        command = command.replace("./configs/tsn.yaml", shlex.quote(str(recipe)))
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"

    for row in table("script"):
        script = row["script"].removesuffix(".py")
        folder = re.findall(r"`(data/\w+)`", row["default folder"])[-1]
        written = {file.name.split(".")[0] for file in (tmp_path / folder).iterdir()}
        for name in re.findall(r"`(<Model>[^`.]*)", row["files"]):
            expected = name.replace("<Model>", "TSN").replace("<N>", "1")
            assert expected in written, f"{script}: {name}"
    files = (
        "data/evaluate_results/TSN_eval_result.json",
        "data/predict_results/TSN_infer_result.json",
    )
    examples = blocks(section("What each script writes"), "json")
    for example, file in zip(examples, files, strict=True):
        got = json.loads((tmp_path / file).read_text(encoding="utf-8"))
        expected = json.loads(example)
        if not got.get("failed", True):  # nothing failed in this run
            del expected["failed"], got["failed"]
        assert shape(got) == shape(expected), file
