"""Tags for the videos of a list, by both stages in one stream: 2020's command for the zoo's predict.py."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import predict
from models.videotag import combined
from utils import cli, files
from utils.config import load_yaml, to_yaml
from utils.errors import ConfigError


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--extractor_config", default="configs/tsn.yaml", help="default: %(default)s")
    add("--extractor_name", default="TSN", help="TSN")
    add("--predictor_config", "--pconfig", default="configs/attention_lstm.yaml", help="default: %(default)s")
    add("--predictor_name", "--pname", default="AttentionLSTM", help="AttentionLSTM")
    add("--extractor_weights", default="weights/tsn", help="default: %(default)s")
    add("--predictor_weights", "--pweights", default="weights/attention_lstm", help="default: %(default)s")
    add("--filelist", default="./data/VideoTag_test.list", help="a video a line; default: %(default)s")
    add("--save_dir", default="data/VideoTag_results", help="default: %(default)s")
    add("--label_file", default="label_3396.txt", help="a tag a line; default: %(default)s")
    args, rest = parser.parse_known_args(argv)  # the rest (--use_gpu, --visualize ...) is predict's
    if (args.extractor_name.lower(), args.predictor_name.lower()) != ("tsn", "attentionlstm"):
        raise ConfigError("VideoTag is --extractor_name=TSN and --predictor_name=AttentionLSTM")
    recipe = Path(args.save_dir) / "videotag.yaml"
    sections = combined(load_yaml(args.extractor_config), load_yaml(args.predictor_config))
    files.write_atomic(recipe, to_yaml(sections).encode())
    flags = {"config": recipe, "weights": f"{args.extractor_weights},{args.predictor_weights}"}
    flags |= {name: getattr(args, name) for name in ("filelist", "save_dir", "label_file")}
    return predict.main([f"--{name}={value}" for name, value in flags.items()] + rest)


if __name__ == "__main__":
    sys.exit(cli.run(main))
