"""Predict by TSN or AttentionLSTM of VideoTag: the zoo's predict.py with the application's models."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import predict
from models import VIDEO_TAG
from utils import cli

if __name__ == "__main__":
    sys.exit(
        cli.run(
            lambda argv: predict.main(
                argv,
                VIDEO_TAG,
                weights="./data/checkpoints/AttentionLSTM_epoch9.pdparams",
                label_file="label_3396.txt",
                save_dir="data/predict_results/attention_lstm",
            )
        )
    )
