"""Both stages of BSN in one command.

    python data/dataset/bsn/chain.py train
    python data/dataset/bsn/chain.py eval --tem_weights=… --pem_weights=…
    python data/dataset/bsn/chain.py predict --filelist=… --tem_weights=… --pem_weights=…

``eval`` and ``predict`` run BsnTem, make proposals of its curves, and rate them with BsnPem; ``train`` first
trains BsnTem, evaluates it on training and validation videos, and trains BsnPem on their proposals; then it
evaluates. Every command is printed before it runs; the first that fails ends the chain with its exit status.
Below ``--save_dir``: ``train``, ``eval`` or ``predict``. Without weights those of ``<save_dir>/train`` are
taken, if there are any.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # the project, from wherever this is run

from data.dataset.common.convert import parser
from models import ZOO
from utils import build, cli
from utils.config import load_yaml
from utils.errors import ZooError
from utils.registry import find

ROOT = Path(__file__).resolve().parents[3]
MODES = ("train", "eval", "predict")


class Stopped(ZooError):
    """A command of the chain failed, and said why itself."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"exit status {exit_code}")
        self.exit_code = exit_code


def main(argv: list[str]) -> int:
    flags = parser(__doc__)
    add = flags.add_argument
    add("mode", choices=MODES)
    add("--tem_config", default="configs/bsn_tem.yaml", help="recipe of BsnTem (%(default)s)")
    add("--pem_config", default="configs/bsn_pem.yaml", help="recipe of BsnPem (%(default)s)")
    add("--tem_weights", help="weights of BsnTem: file, prefix or 2019 folder; in training, to start from")
    add("--pem_weights", help="weights of BsnPem, likewise")
    add("--filelist", help="videos to predict; overrides INFER.filelist")
    add("--save_dir", default="data/output/bsn", help="folder for everything (default: %(default)s)")
    add("--use_gpu", help="True or False; default: a GPU if there is one")
    add("--seed", type=cli.natural, help="TRAIN.seed of both stages")
    args = flags.parse_args(argv)
    chain = Chain(args)
    try:
        chain.train() if args.mode == "train" else chain.rate(args.mode)
    except Stopped as stopped:
        return stopped.exit_code
    return 0


class Chain:
    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.out = Path(args.save_dir)
        self.trained = self.out / "train"
        self.common = [f"--use_gpu={args.use_gpu}"] if args.use_gpu else []

    def train(self) -> None:
        """Both stages, the second on the proposals that ``eval`` leaves."""
        seed = [] if self.args.seed is None else ["-o", f"TRAIN.seed={self.args.seed}"]
        start = f"--pretrain={self.args.tem_weights or 'none'}"
        self._zoo("train.py", "BsnTem", self.trained, start, *seed)
        self._curves("eval", self._own("BsnTem"))
        start = f"--pretrain={self.args.pem_weights or 'none'}"
        self._zoo("train.py", "BsnPem", self.trained, start, *seed, *self._proposals("eval"))
        self._zoo("eval.py", "BsnPem", self.out / "eval", *self._own("BsnPem"), *self._proposals("eval"))

    def rate(self, mode: str) -> None:
        weights = self.args.tem_weights
        self._curves(mode, [f"--weights={weights}"] if weights else self._own("BsnTem"))
        weights = self.args.pem_weights
        given = [f"--weights={weights}"] if weights else self._own("BsnPem")
        self._zoo(f"{mode}.py", "BsnPem", self.out / mode, *given, *self._list(mode), *self._proposals(mode))

    def _curves(self, mode: str, weights: list[str]) -> None:
        """Stage 1, which makes the proposals, too."""
        self._zoo(f"{mode}.py", "BsnTem", self.out / mode, *weights, *self._list(mode))

    def _list(self, mode: str) -> list[str]:
        given = mode == "predict" and self.args.filelist
        return [f"--filelist={self.args.filelist}"] if given else []

    def _own(self, model: str) -> list[str]:
        """The weights trained here, or the published ones."""
        prefix = self.trained / model
        return [f"--weights={prefix}"] if prefix.with_suffix(".pdparams").is_file() else []

    def _proposals(self, mode: str) -> list[str]:
        section, file = ("INFER" if mode == "predict" else "TEST"), self.args.tem_config
        metric = build.metric(find("BsnTem", ZOO), load_yaml(file), section, file)
        _, proposals, features = metric.folders(str(self.out / mode), section)
        section = "INFER" if mode == "predict" else "MODEL"
        return ["-o", f"{section}.feat_path={features}", f"{section}.prop_path={proposals}"]

    def _zoo(self, script: str, model: str, save_dir: Path, *flags: str) -> None:
        config = self.args.tem_config if model == "BsnTem" else self.args.pem_config
        argv = [f"--model_name={model}", f"--config={config}", f"--save_dir={save_dir}", *self.common, *flags]
        print("python", script, shlex.join(argv), flush=True)
        status = subprocess.run([sys.executable, str(ROOT / script), *argv]).returncode
        if status:
            raise Stopped(status)


if __name__ == "__main__":
    sys.exit(cli.run(main))
