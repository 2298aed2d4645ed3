"""Several tags a clip of the drawn videos: its class, and the group of that.

    python data/dataset/demo/make_tags.py --videos data/demo/videos

Beside ``train.list``, ``val.list`` and ``test.list`` of ``make_videos.py`` it writes ``train_tags.list`` …
(``path class group`` lines) and ``tags.txt``, the names by number: first the classes, then the groups.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from reader.common import filelist
from utils import cli, files


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=Path, required=True, help="folder that make_videos.py wrote")
    folder = parser.parse_args(argv).videos
    classes = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["classes"]
    groups = sorted({kind["group"] for kind in classes})
    names = [kind["name"] for kind in classes] + groups
    files.write_atomic(folder / "tags.txt", "".join(f"{name}\n" for name in names).encode())
    for split in ("train", "val", "test"):
        lines = []
        for line in filelist.read_labelled(str(folder / f"{split}.list"), len(classes)):
            group = len(classes) + groups.index(classes[line.number]["group"])
            lines.append(f"{line.path} {line.number} {group}\n")
        files.write_atomic(folder / f"{split}_tags.list", "".join(lines).encode())
    print(f"{folder}: {len(names)} tags")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
