"""Features of videos for AttentionLSTM: the zoo's tsn_extractor.py with the application's models."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import tsn_extractor
from models import VIDEO_TAG
from utils import cli

if __name__ == "__main__":
    sys.exit(cli.run(lambda argv: tsn_extractor.main(argv, VIDEO_TAG, filelist="./data/TsnExtractor.list")))
