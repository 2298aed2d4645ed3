"""Proposals of BSN from the curves that its first stage wrote: between BsnTem and BsnPem.

    python data/dataset/bsn/generate_proposals.py --config=configs/bsn_tem.yaml

BsnTem's eval.py and predict.py do this themselves at their end. This command goes on where one of them was
interrupted, or makes all anew after ``pgm_…``, ``num_sample_…`` or ``bsp_boundary_ratio`` of the recipe were
changed: a video is made again if its files are older than its curves or than the settings.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # the project, from wherever this is run

from data.dataset.common import parallel
from data.dataset.common.convert import parser
from metrics.activitynet import generation
from models import ZOO
from utils import build, cli
from utils.config import RunConfig, check_keys, load_yaml, merge_overrides
from utils.registry import find

# of a mode: the section of the recipe, and the folder that 2019 called the run's
SECTIONS = {"eval": ("TEST", "EVAL"), "predict": ("INFER", "INFER")}


def main(argv: list[str]) -> int:
    flags = parser(__doc__)
    add = flags.add_argument
    add("--config", default="configs/bsn_tem.yaml", help="recipe of BsnTem (default: %(default)s)")
    add("--mode", choices=SECTIONS, default="eval", help="whose curves (default: eval)")
    add("--save_dir", help="the --save_dir that eval.py or predict.py had")
    add("--overwrite", action="store_true", help="also make anew what is there")
    add("-o", dest="override", action="append", nargs="+", default=[], metavar="SECTION.key=value",
        help="set any key of the recipe")  # fmt: skip
    parallel.add_flag(flags)
    args = flags.parse_args(argv)
    spec, sections = find("BsnTem", ZOO), load_yaml(args.config)
    merge_overrides(sections, [item for group in args.override for item in group])
    check_keys(sections, [RunConfig, *spec.configs()], args.config)
    section, run = SECTIONS[args.mode]
    videos = build.reader(spec, sections, section, args.config).videos
    metric = build.metric(spec, sections, section, args.config)
    curves, proposals, features = metric.folders(args.save_dir, run)
    jobs = generation.jobs(curves, [(v.name, v.subset, v.fractions) for v in videos], metric.config)
    made, failed = generation.generate_all(
        jobs, metric.config, proposals, features, args.num_workers, args.overwrite
    )
    for line in failed:
        print(line, file=sys.stderr)
    there = len(jobs) - made - len(failed)
    print(f"{made} made, {there} there already, {len(failed)} failed; proposals in {proposals}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
