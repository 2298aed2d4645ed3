"""Is this machine fit for the zoo? ``python -m utils.doctor [--json]``.

One line a check: ``ok``, ``warn`` or ``FAIL``, what was looked at, what was found, what to do. Exit status 1
if anything FAILs, else 0. Only the standard library is imported before a check needs more, and what may
crash (Paddle, decoders) runs in a process of its own: a broken machine is what this is for.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from utils.probe import MARK, Finding, installed, one_line

ROOT = Path(__file__).resolve().parent.parent
GIB = 2**30
MODULES = {
    "opencv-python-headless": "cv2",
    "Pillow": "PIL",
    "PyYAML": "yaml",
    "protobuf": "google.protobuf",
}  # else the package's name
OPTIONAL = {
    "pycocoevalcap": "METEOR of captions",
    "paddle2onnx": "ONNX files",
    "tfrecord": "YouTube-8M's own files",
    "h5py": "features in HDF5 files",
}
PROBE_SECONDS = 120


def check_system() -> Iterator[Finding]:
    yield Finding("ok", "system", platform.platform())
    version = sys.version_info[:2]
    level = "FAIL" if version < (3, 10) else "ok" if version <= (3, 13) else "warn"
    yield Finding(level, "python", platform.python_version(), "Paddle 3.3 has wheels for Python 3.10 to 3.13")


def check_packages() -> Iterator[Finding]:
    """Each package of requirements.txt but Paddle's own, by importing it."""
    for name, least in requirements().items():
        version, level = installed(name), "ok"
        try:
            module = importlib.import_module(MODULES.get(name, name))
            version = version or str(getattr(module, "__version__", "?"))  # of another package
            if numbers(version) < numbers(least):
                level, version = "FAIL", f"{version}, older than {least}"
        except Exception as error:  # a broken package may raise anything
            level, version = "FAIL", f"{version} is broken: {one_line(error)}" if version else "missing"
        yield Finding(level, name, version, "pip install -r requirements.txt")


def check_optional() -> Iterator[Finding]:
    for name, use in OPTIONAL.items():
        if name not in requirements():
            version = installed(name)
            value = version or f"not installed; needed for {use} only"
            yield Finding("ok" if version else "warn", f"optional {name}", value, f"pip install {name}")


def requirements() -> dict[str, str]:
    """Package -> lowest version, as requirements.txt says; without Paddle, which comes in two builds."""
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    listed = re.findall(r"^([\w-]+)>=([\d.]+)", text, re.M)
    return {name: least for name, least in listed if name != "paddlepaddle"}


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:3])


def check_machine() -> Iterator[Finding]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("ok", "CPU", f"{usable} of {os.cpu_count()} cores usable")
    meminfo, shared = Path("/proc/meminfo"), Path("/dev/shm")
    if meminfo.exists():
        kib = dict(re.findall(r"^(\w+):\s+(\d+) kB", meminfo.read_text(), re.M))
        free, total = (int(kib[name]) * 1024 / GIB for name in ("MemAvailable", "MemTotal"))
        todo = "lower --batch_size and --num_workers"
        yield Finding("ok" if free >= 2 else "warn", "memory", f"{free:.1f} of {total:.1f} GiB free", todo)
    if shared.is_dir():
        free = shutil.disk_usage(shared).free / GIB
        todo = "reader processes pass batches through it: docker run --shm-size=8g, or --num_workers=0"
        yield Finding("ok" if free >= 1 else "warn", str(shared), f"{free:.2f} GiB free", todo)


def check_disk() -> Iterator[Finding]:
    from utils.weights import FOLDER_VARIABLE, weights_folder

    for what, folder, other in (
        ("project", ROOT, "--save_dir"),
        ("weights", weights_folder(), FOLDER_VARIABLE),
    ):
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        free, writable = shutil.disk_usage(there).free / GIB, os.access(there, os.W_OK)
        level = "FAIL" if free < 0.1 else "ok" if free >= 5 and writable else "warn"
        value = f"{free:.1f} GiB free{'' if writable else ', not writable'} ({folder})"
        yield Finding(level, f"disk, {what}", value, f"make room, or name another folder: {other}")


def check_weights() -> Iterator[Finding]:
    from utils.weights import weights_folder

    folder = weights_folder()
    there = sorted(path for path in folder.glob("[!.]*") if path.is_dir() or path.suffix == ".pdparams")
    names = ", ".join(path.name for path in there) or "none yet; downloaded when needed"
    empty = [path.name for path in there if path.is_file() and not path.stat().st_size]
    yield Finding("ok", "published weights", names)
    if empty:
        yield Finding("FAIL", "empty weights", ", ".join(empty), f"delete them from {folder}")


def check_paddle() -> Iterator[Finding]:
    yield from probed("paddle", "install PaddlePaddle anew; is it made for this CPU and driver?")


def check_decoders() -> Iterator[Finding]:
    yield from probed("decoders", "pip install --force-reinstall opencv-python-headless av")


def probed(part: str, todo: str) -> Iterator[Finding]:
    """What ``utils.probe`` finds, and a FAIL if it does not come to its end."""
    command = [sys.executable, "-m", "utils.probe", part]
    quiet = {
        "OPENCV_FFMPEG_LOGLEVEL": "-8",
        "SVT_LOG": "0",
    }  # decoder and encoder: the finding says it better
    environment = {**os.environ, **quiet, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, timeout=PROBE_SECONDS, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        yield Finding("FAIL", part, f"no answer within {PROBE_SECONDS} seconds", todo)
        return
    for line in done.stdout.decode(errors="replace").splitlines():
        if line.startswith(MARK):
            yield Finding(*json.loads(line.removeprefix(MARK)))
    if done.returncode:
        crashed = signal.Signals(-done.returncode).name if done.returncode < 0 else ""
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        reason = f"crashed ({crashed})" if crashed else " ".join(last) or f"exit status {done.returncode}"
        yield Finding("FAIL", part, reason, todo)


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    *(check_system, check_packages, check_optional, check_machine, check_disk, check_weights),
    *(check_paddle, check_decoders),
)


def examine() -> Iterator[Finding]:
    """All checks in turn; one that fails itself is a FAIL and does not stop the others."""
    for check in CHECKS:
        try:
            for finding in check():
                yield finding._replace(todo="") if finding.level == "ok" else finding
        except Exception as error:  # nothing may keep the doctor from saying the rest
            what = check.__name__.removeprefix("check_")
            yield Finding("FAIL", what, one_line(error), "the lines above may tell why")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m utils.doctor", description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="a JSON list of {level, what, value, todo}")
    as_json = parser.parse_args(argv).json
    findings = []
    for finding in examine():
        findings.append(finding)
        if not as_json:
            print(finding, flush=True)
    failed, warned = (sum(f.level == level for f in findings) for level in ("FAIL", "warn"))
    if as_json:
        print(json.dumps([f._asdict() for f in findings], indent=2, ensure_ascii=False))
    else:
        print(f"{len(findings)} checks: {failed} FAIL, {warned} warn")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
