"""Tries what may crash: Paddle and the decoders of videos. ``utils.doctor`` runs it in processes of its own.

``python -m utils.probe paddle|decoders`` prints a line ``finding: [level, what, value, todo]`` (JSON) for
each thing tried.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import NamedTuple

MARK = "finding: "
# What videos come in: the encoder that makes ours, and its options.
CODECS = {
    "h264": ("libx264", {}),
    "hevc": ("libx265", {"x265-params": "log-level=none"}),
    "vp9": ("libvpx-vp9", {}),
    "av1": ("libsvtav1", {"preset": "12"}),
    "mpeg4": ("mpeg4", {}),
}
REDS, SIDE = range(0, 200, 25), 64  # of our videos: red of each frame; height and width, pixels
LIMIT = 1e-4  # relative error of a computation


class Finding(NamedTuple):
    level: str  # ok, warn, FAIL
    what: str
    value: str
    todo: str = ""  # dropped by the doctor where the level is ok

    def __str__(self) -> str:
        return f"{self.level:4}  {self.what}: {self.value}" + (f"  -> {self.todo}" if self.todo else "")


def one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def installed(name: str) -> str:
    """Version of a package; empty if it is not there."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def paddle() -> Iterator[Finding]:
    """The build and its GPUs; a computation on each kind of device; the oneDNN predictor."""
    try:
        import paddle
    except ImportError as error:
        yield Finding("FAIL", "paddle", one_line(error), "pip install -r requirements.txt")
        return
    from utils.device import visible_gpus

    gpu_build = paddle.is_compiled_with_cuda()
    value, level, todo = f"{paddle.__version__}, {'GPU' if gpu_build else 'CPU'} build", "ok", ""
    if installed("paddlepaddle") and installed("paddlepaddle-gpu"):
        value, level = f"{value}; paddlepaddle and paddlepaddle-gpu overwrite each other", "FAIL"
        todo = "pip uninstall both, install one: requirements.txt or requirements-gpu.txt"
    elif not paddle.__version__.startswith(("2.6.", "3.")):
        level, todo = "warn", "the zoo is made for 3.3 and 2.6: pip install -r requirements.txt"
    yield Finding(level, "paddle", value, todo)
    names = [paddle.device.cuda.get_device_name(i) for i in range(visible_gpus())]
    level, todo = "ok", ""
    if not names and shutil.which("nvidia-smi"):
        level = "warn"
        todo = "look at nvidia-smi and CUDA_VISIBLE_DEVICES" if gpu_build else "see requirements-gpu.txt"
    here = "; nvidia-smi is there" if level == "warn" else ""
    yield Finding(level, "GPUs", ", ".join(names) or f"none visible to Paddle{here}", todo)
    todo = f"install PaddlePaddle anew; is it made for this CPU ({platform.machine()}) and driver?"
    for device in ["cpu", *["gpu:0"] * bool(names)]:
        yield judged(f"computation on {device}", lambda device=device: multiply(device), todo)
    todo = "eval and predict fall back to eager, which is slower"
    yield judged("oneDNN predictor", predict, todo, "warn")


def judged(what: str, error_of: Callable[[], float], todo: str, bad: str = "FAIL") -> Finding:
    try:
        error = error_of()
    except Exception as problem:  # whatever it is, this cannot be used here
        return Finding(bad, what, one_line(problem), todo)
    return Finding("ok" if error <= LIMIT else bad, what, f"relative error {error:.0e}", todo)


def multiply(device: str) -> float:
    """Relative error of a product and its gradient, against numpy."""
    import numpy as np
    import paddle

    from utils.program import difference

    paddle.set_device(device)
    a, b = np.random.default_rng(0).standard_normal((2, 64, 64)).astype(np.float32)
    x = paddle.to_tensor(a, stop_gradient=False)
    product = paddle.matmul(x, paddle.to_tensor(b))
    product.sum().backward()
    gradient = np.broadcast_to(b.sum(1), b.shape)
    return max(difference(product.numpy(), a @ b), difference(x.grad.numpy(), gradient))


def predict() -> float:
    """Relative difference of the oneDNN predictor from eager, for a small network of convolutions."""
    import numpy as np
    import paddle

    from utils import program
    from utils.registry import ModelSpec

    class Small(paddle.nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.layers = paddle.nn.Sequential(
                paddle.nn.Conv2D(3, 8, 3), paddle.nn.BatchNorm2D(8), paddle.nn.ReLU(), paddle.nn.Flatten()
            )

        def forward(self, x):
            return {"y": self.layers(x)}

    paddle.set_device("cpu")
    spec = ModelSpec("probe", "", "", "", "", "", inputs=("x",), outputs=("y",), targets=())
    network, inputs = Small(), {"x": np.random.default_rng(0).random((2, 3, 16, 16), np.float32)}
    expected = program.eager(network, spec, spec.outputs)(inputs)["y"]
    with tempfile.TemporaryDirectory() as folder:
        prefix = os.path.join(folder, "program")
        program.export(network, spec, spec.outputs, inputs, prefix)
        got = program.predictor(prefix, spec, spec.outputs)(inputs)["y"]
    return program.difference(got, expected)


def decoders() -> Iterator[Finding]:
    """Both decoders on small videos that we write, one a codec."""
    tried = (("opencv", reds_opencv, "-o MODEL.backend=pyav"), ("pyav", reds_pyav, "pip install -U av"))
    with tempfile.TemporaryDirectory() as folder:
        for name, reds, todo in tried:
            failed = {}
            for codec in CODECS:
                path = os.path.join(folder, f"{codec}.mp4")
                try:
                    if not os.path.exists(path):
                        write_video(path, codec)
                    got = reds(path)
                    if len(got) != len(REDS):
                        failed[codec] = f"{len(got)} of {len(REDS)} frames"
                    elif max(abs(a - b) for a, b in zip(got, REDS, strict=True)) > 8:  # grey levels
                        failed[codec] = "wrong pixels"
                except Exception as error:  # whatever it is, the codec is of no use here
                    failed[codec] = one_line(error)
            level = "FAIL" if "h264" in failed else "warn" if failed else "ok"
            good = ", ".join(codec for codec in CODECS if codec not in failed) or "nothing"
            bad = "".join(f"; not {codec} ({reason})" for codec, reason in failed.items())
            yield Finding(level, f"decoder {name}", good + bad, todo)


def write_video(path: str, codec: str) -> None:
    import av
    import numpy as np

    encoder, options = CODECS[codec]
    with av.open(path, "w") as container:
        stream = container.add_stream(encoder, rate=25, options=options)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        for red in REDS:
            image = np.full((SIDE, SIDE, 3), (red, 100, 50), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def reds_opencv(path: str) -> list[int]:
    import cv2

    capture, reds = cv2.VideoCapture(path, cv2.CAP_FFMPEG), []
    while (item := capture.read())[0]:
        reds.append(int(item[1][SIDE // 2, SIDE // 2, 2]))
    return reds


def reds_pyav(path: str) -> list[int]:
    import av

    with av.open(path) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return [int(frame[SIDE // 2, SIDE // 2, 0]) for frame in frames]


if __name__ == "__main__":
    for found in {"paddle": paddle, "decoders": decoders}[sys.argv[1]]():
        print(f"{MARK}{json.dumps(found)}", flush=True)
