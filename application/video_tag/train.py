"""Train TSN or AttentionLSTM of VideoTag: the zoo's train.py with the application's models."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import train
from models import VIDEO_TAG
from utils import cli

if __name__ == "__main__":
    sys.exit(cli.run(lambda argv: train.main(argv, VIDEO_TAG, script=__file__, log_interval=1)))
