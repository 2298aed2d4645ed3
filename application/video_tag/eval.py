"""Evaluate TSN or AttentionLSTM of VideoTag: the zoo's eval.py with the application's models."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import eval
from models import VIDEO_TAG
from utils import cli

if __name__ == "__main__":
    sys.exit(
        cli.run(
            lambda argv: eval.main(
                argv, VIDEO_TAG, weights="./data/checkpoints/AttentionLSTM_epoch9.pdparams"
            )
        )
    )
