"""Write the inference Program of a model, for Paddle Inference: ``<save_dir>/<Model>_model.*``."""

from __future__ import annotations

import logging
import os
import sys

from models import ZOO
from utils import build, checkpoint, cli, device, log, program, weights

logger = logging.getLogger("inference_model")


def main(argv: list[str]) -> int:
    args = cli.inference_parser(ZOO).parse_args(argv)
    spec, sections = cli.recipe(args, ZOO, {"INFER": {"batch_size": args.batch_size}})
    device.set_device(args.use_gpu, None)
    log.setup(0)
    log.show_config(logger, "Infer", sections)
    network = build.network(spec, sections, "INFER", args.config)
    config = build.network_config(spec, sections, "INFER", args.config)
    path = args.weights or weights.published(spec, config)
    logger.info(f"{checkpoint.load_weights(network, path)}")
    example = build.example_inputs(spec, sections, "INFER", args.config)
    os.makedirs(args.save_dir, exist_ok=True)
    prefix = os.path.join(args.save_dir, f"{spec.name}_model")
    called, row = build.predicting(network, spec)
    files = program.export(called, row, row.outputs, example, prefix)
    print(f"save inference model at {args.save_dir}: {', '.join(files)}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
