"""Data tools: lists and checks; what is wrong is named."""

from __future__ import annotations

import json
import os
import pickle
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from data.dataset.common import outputs
from data.dataset.kinetics import check, kinetics_csv, make_lists, resize, video_to_frames, video_to_pkl
from models import ZOO
from reader.kinetics_reader import KineticsReader
from tests import synthetic
from tests.conftest import ROOT
from tests.data_tools import CLASSES, bad_list, lines, tree, visible
from utils import cli
from utils.config import resolve
from utils.errors import ConfigError, DataError, ZooError

TOOLS = (check, kinetics_csv, make_lists, resize, video_to_frames, video_to_pkl)


# ---- lists -----------------------------------------------------------------------------------------


def test_a_folder_a_class_becomes_lists_that_train(tmp_path, capsys):
    folder, out = tree(tmp_path / "my videos"), tmp_path / "the lists"
    synthetic.write_video(folder / "loose.mp4", synthetic.frames(2))
    assert make_lists.main(["--videos", str(folder), "--out", str(out)]) == 0
    captured = capsys.readouterr()
    names = json.loads((out / "labels.json").read_text(encoding="utf-8"))
    assert names == sorted(CLASSES)
    parts = {split: lines(out / f"{split}.list") for split in ("train", "val", "test")}
    listed = [line for part in parts.values() for line in part]
    assert len(listed) == len(set(listed)) == sum(CLASSES.values())
    for line in listed:
        path, label = line.rsplit(" ", 1)
        assert f"/{names[int(label)]}/" in path and Path(path).is_file()
    labels = {split: sorted(int(line.rsplit(" ", 1)[1]) for line in part) for split, part in parts.items()}
    assert labels == {"train": [0] * 8 + [1] + [2] * 3, "val": [0, 1, 2], "test": [0, 2]}
    for said in ("empty holds no video", "1 videos lie in", "'walk' has only 2 video(s): none for test"):
        assert said in captured.err
    assert "num_classes: 3" in captured.out and "train 12, val 3, test 2" in captured.out

    command = next(line for line in captured.out.splitlines() if "train.py" in line)
    args = cli.train_parser(ZOO).parse_args(shlex.split(command)[2:])
    spec, sections = cli.recipe(args, ZOO, {})
    train = sections["TRAIN"]
    assert (spec.name, train["total_videos"], train["batch_size"], train["learning_rate"]) == (
        *("TSN", 12, 12),
        0.000469,  # 0.01 * 12 / 256
    )
    assert (sections["MODEL"]["num_classes"], sections["MODEL"]["topk"]) == (3, 3)
    for mode, count in (("TRAIN", 12), ("VALID", 3), ("TEST", 2)):
        reader = KineticsReader(resolve(spec.part("reader").Config, sections, mode, args.config), mode)
        assert len(reader) == count
        assert reader[0]["image"].shape[1:] == (3, 224, 224)


def test_lists_depend_on_the_videos_and_the_seed_alone(tmp_path):
    folder = tree(tmp_path / "v")
    texts = []
    for run, seed in enumerate((0, 0, 1)):
        make_lists.main(["--videos", str(folder), "--out", str(tmp_path / str(run)), "--seed", str(seed)])
        texts.append([lines(tmp_path / str(run) / f"{split}.list") for split in make_lists.SPLITS])
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(
    ("count", "shares", "expected"),
    [
        (10, (0.8, 0.1, 0.1), (8, 1, 1)),
        (100, (0.7, 0.2, 0.1), (70, 20, 10)),
        (3, (0.8, 0.1, 0.1), (1, 1, 1)),
        (2, (0.8, 0.1, 0.1), (1, 1, 0)),
        (1, (0.8, 0.1, 0.1), (1, 0, 0)),
        (7, (1, 0, 0), (7, 0, 0)),
        (5, (0, 1, 0), (0, 5, 0)),
        (5, (0, 0.5, 0.5), (0, 3, 2)),
        (4, (0.1, 0.9, 0), (1, 3, 0)),
    ],
)
def test_a_class_is_divided(count, shares, expected):
    every = [Path(str(i)) for i in range(count)]
    parts = make_lists.divide("a", every, dict(zip(make_lists.SPLITS, shares, strict=True)), 0)
    assert tuple(len(parts.get(split, [])) for split in make_lists.SPLITS) == expected
    assert sorted(video for part in parts.values() for video in part) == sorted(every)


def test_parts_made_one_by_one_share_their_labels(tmp_path):
    folder, labels = tree(tmp_path / "v"), tmp_path / "labels.json"
    flags = ["--videos", str(folder), "--test=0", "--labels", str(labels), "--out"]
    labels.write_text('["walk", "other"]')
    with pytest.raises(DataError, match="does not name the class 'run fast'"):
        make_lists.main([*flags, str(tmp_path / "a"), "--val=0"])
    labels.write_text(json.dumps(["walk", "other", "run fast", "跳 jump"]))
    make_lists.main([*flags, str(tmp_path / "a"), "--val=0"])
    make_lists.main([*flags, str(tmp_path / "b"), "--val=1"])
    assert visible(tmp_path / "a") == ["labels.json", "train.list", "tsn.yaml"]
    assert visible(tmp_path / "b") == ["labels.json", "val.list"]
    assert lines(tmp_path / "a/train.list") == lines(tmp_path / "b/val.list")
    assert {line[-1] for line in lines(tmp_path / "b/val.list") if "walk" in line} == {"0"}
    with pytest.raises(ConfigError, match=r"val\.list is of another run"):
        make_lists.main([*flags, str(tmp_path / "b"), "--val=0"])


@pytest.mark.parametrize("name", ["two\nlines", " blank.mp4 ", "odd\u2028break", os.fsdecode(b"\xff")])
def test_names_that_a_list_cannot_hold_are_refused(tmp_path, name):
    with pytest.raises(DataError, match=r"a list cannot hold|is not UTF-8"):
        outputs.write_list(tmp_path / "a.list", [name])
    assert not (tmp_path / "a.list").exists()


def test_folders_without_classes_are_named(tmp_path):
    with pytest.raises(DataError, match=r"gone: no such folder"):
        make_lists.main(["--videos", str(tmp_path / "gone"), "--out", str(tmp_path)])
    with pytest.raises(DataError, match=r"no sub-folder with a video \(\.mp4, "):
        make_lists.main(["--videos", str(tmp_path), "--out", str(tmp_path)])
    with pytest.raises(ConfigError, match="more than everything"):
        make_lists.main(["--videos", str(tmp_path), "--out", str(tmp_path), "--val=0.6", "--test=0.6"])
    (tmp_path / "v" / "run").mkdir(parents=True)
    synthetic.write_video(tmp_path / "v" / "run" / "a.mp4", synthetic.frames(2))
    flags = ["--videos", str(tmp_path / "v"), "--out", str(tmp_path / "out")]
    with pytest.raises(
        ConfigError, match=r"bmn\.yaml: TRAIN\.total_videos is missing: take the recipe of TSN"
    ):
        make_lists.main([*flags, f"--recipe={ROOT / 'configs' / 'bmn.yaml'}"])


def kinetics(folder: Path) -> list[str]:
    """Two csv files and the crawled videos of most of their rows."""
    rows = {
        "train": [
            ("petting animal (not cat)", "aaaaaaaaaaa", 3, 13),
            ("Abseiling", "-bbbbbbbbbb", 0, 10),
            ("abseiling", "ccccccccccc", 12, 22),
            ("zumba", "ddddddddddd", 1, 11),
        ],
        "validate": [("abseiling", "eeeeeeeeeee", 100, 110), ("zumba", "fffffffffff", 2, 12)],
    }
    for split, entries in rows.items():
        text = "label,youtube_id,time_start,time_end,split,is_cc\n"
        text += "".join(",".join([*map(str, entry), split, "0"]) + "\n" for entry in entries)
        (folder / f"{split}.csv").write_text(text)
        for label, name, start, end in entries:
            if name != "ddddddddddd":
                path = folder / "crawled" / split / label / f"{name}_{start:06d}_{end:06d}.mp4"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"x")
    return ["--csv", *(str(folder / f"{split}.csv") for split in rows), "--videos", str(folder / "crawled")]


def test_kinetics_annotations_become_lists(tmp_path, capsys):
    flags, out = kinetics(tmp_path), tmp_path / "out"
    assert kinetics_csv.main([*flags, "--out", str(out)]) == 0
    names = ["abseiling", "petting_animal_(not_cat)", "zumba"]
    assert json.loads((out / "labels.json").read_text()) == names
    assert [(Path(line[:-2]).name[0], line[-1]) for line in lines(out / "train.list")] == [
        ("a", "1"),
        ("-", "0"),
        ("c", "0"),
    ]
    assert [line[-1] for line in lines(out / "val.list")] == ["0", "2"]
    assert lines(out / "missing.csv") == [
        "label,youtube_id,time_start,time_end,split",
        "zumba,ddddddddddd,1,11,train",
    ]
    said = capsys.readouterr().out
    assert "train: 4 rows, 1 without a file" in said and "val: 2 rows, 0 without a file" in said
    assert "own numbers" in said


def test_kinetics_numbers_from_a_label_file(tmp_path, capsys):
    flags, out = kinetics(tmp_path), tmp_path / "out"
    (tmp_path / "few.json").write_text('["zumbaa", "Petting animal, not cat", "ABSEILING"]')
    with pytest.raises(DataError, match=r"validate\.csv:3: class 'zumba' is not in .* mean 'zumbaa'"):
        kinetics_csv.main([*flags, f"--labels={tmp_path / 'few.json'}", "--out", str(out)])
    assert not out.exists()
    kinetics_csv.main([*flags, f"--labels={kinetics_csv.ZOO_LABELS}", "--out", str(out)])
    zoo = json.loads(kinetics_csv.ZOO_LABELS.read_text(encoding="utf-8"))
    assert [zoo[int(line.rsplit(" ", 1)[1])] for line in lines(out / "train.list")] == [
        "petting_animal_(not_cat)",
        "abseiling",
        "abseiling",
    ]
    assert "num_classes: 400 (the numbers of the published weights)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label,youtube_id\n", r"a\.csv:1: no column 'time_start'"),
        ("youtube_id,time_start,time_end,split\n", "holds no row"),
        ("youtube_id,time_start,time_end,split\nx,1,2,train\ny,soon,3,train\n", r"a\.csv:3: time_start"),
        ("youtube_id,time_start,time_end,split\nx,1,2,holdout\n", r"a\.csv:2: split 'holdout'"),
        ("youtube_id,time_start,time_end,split\nx,1,2,test\n", "no row has a label"),
    ],
)
def test_wrong_annotations_are_named(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    flags = ["--csv", str(tmp_path / "a.csv"), "--videos", str(tmp_path), "--out", str(tmp_path)]
    with pytest.raises(DataError, match=message):
        kinetics_csv.main(flags)


# ---- checking --------------------------------------------------------------------------------------


def problems(report: Path, index: int = 0) -> dict[int, str]:
    """What a report says, by line."""
    entries = json.loads(report.read_text(encoding="utf-8"))["lists"][index]["problems"]
    return {int(entry["where"].rsplit(":", 1)[1]): entry["what"] for entry in entries}


def test_what_is_wrong_with_a_list_is_found(tmp_path, capsys):
    listed = bad_list(tmp_path)
    with open(listed, "a", encoding="utf-8") as file:
        file.write(f"\n{tmp_path}/c.mp4 walk\n{tmp_path}/c.mp4 5\n{tmp_path}/./é.mp4 1\n")
    (tmp_path / "labels.json").write_text('["a", "b", "c", "d", "b"]')
    report = tmp_path / "report.json"
    flags = ["--list", str(listed), "--format=mp4", f"--report={report}", "--clean", "--num_workers=2"]
    assert check.main([*flags, f"--labels={tmp_path / 'labels.json'}"]) == 1
    said = capsys.readouterr()
    expected = {
        2: "bad.mp4: not a readable video",
        4: "gone.mp4: no such file",
        7: "expected 'path label'",
        8: "label 5 is outside [0, 5)",
        9: "é.mp4 is there twice, first at",
    }
    found = problems(report)
    assert found.keys() == expected.keys()
    for number, what in expected.items():
        assert what in found[number]
        assert f"{listed}:{number}: {found[number]}" in said.err
    assert "'b' is there twice" in said.err
    assert "3 good lines, 5 bad" in said.out and "no video of 2 classes: b, d" in said.out
    assert lines(tmp_path / "all.clean.list") == [
        f"{tmp_path}/{n}.mp4 {i}" for n, i in (("a b", 0), ("é", 2), ("c", 4))
    ]
    about = json.loads(report.read_text(encoding="utf-8"))["lists"][0]
    assert about["videos_of_class"] == [1, 0, 1, 0, 1] and about["frames_of_video"]["max"] == 9

    clean = [
        "--list",
        str(tmp_path / "all.clean.list"),
        "--format=mp4",
        f"--report={report}",
        "--num_workers=0",
    ]
    assert check.main([*clean, "--num_classes=5"]) == 0
    assert check.main([*clean, "--num_classes=400", f"--labels={tmp_path / 'labels.json'}"]) == 1
    assert "labels.json: 5 names, but num_classes is 400" in capsys.readouterr().err


def test_pickles_and_folders_are_checked(tmp_path, capsys):
    good = synthetic.write_pickle(tmp_path / "good.pkl", synthetic.frames(3), 1)
    synthetic.write_pickle(tmp_path / "label.pkl", synthetic.frames(3), 7)
    record = pickle.loads(good.read_bytes())
    (tmp_path / "image.pkl").write_bytes(pickle.dumps((record[0], 1, [*record[2][:2], record[2][2][:99]])))
    (tmp_path / "code.pkl").write_bytes(pickle.dumps(print))
    listed = tmp_path / "pkl.list"
    names = ("good", "label", "image", "code")
    listed.write_text("".join(f"{tmp_path / name}.pkl\n" for name in names))
    flags = ["--num_classes=4", "--num_workers=0", "--list"]
    assert check.main([*flags, str(listed), "--format=pkl"]) == 1
    found = problems(Path(f"{listed}.check.json"))
    assert list(found) == [2, 3, 4]
    for number, what in ((2, "label 7 is outside"), (3, "frame 2 is not a readable image"), (4, "refused")):
        assert what in found[number]

    for i in range(1, 4):
        (tmp_path / "my clip").mkdir(exist_ok=True)
        Image.fromarray(synthetic.frames(1)[0]).save(tmp_path / f"my clip/img_{i:05d}.jpg")
    listed = tmp_path / "frames.list"
    listed.write_text(
        "".join(f"{tmp_path}/my clip{end}\n" for end in (" 3 1", "/ 4 1", " 3", "2 2 0", " 0 1"))
    )
    assert check.main([*flags, str(listed), "--format=frames"]) == 1
    found = problems(Path(f"{listed}.check.json"))
    assert list(found) == [2, 3, 4, 5]
    assert "there twice" in found[2] and "expected 'folder count label'" in found[3]
    assert "img_00001.jpg: no such image" in found[4]


def test_the_recipe_says_what_to_check_and_lists_in_common_are_named(tmp_path, capsys):
    listed = synthetic.video_set(tmp_path, num_videos=4)
    other = tmp_path / "other.list"
    other.write_text(lines(listed)[1] + "\n")
    recipe = synthetic.tiny_tsn(
        tmp_path, listed, VALID={"filelist": str(other)}, INFER={"kinetics_labels": ""}
    )
    assert check.main(["--config", str(recipe), "--num_workers=0"]) == 0
    said = capsys.readouterr().out
    assert "4 good lines" in said and "1 good lines" in said
    assert f"1 files in common, e.g. {listed}:2 and {other}:1" in said
    with pytest.raises(ConfigError, match="nothing to check"):
        check.main(["--format=mp4"])
    with pytest.raises(ConfigError, match="--format is not given"):
        check.main(["--list", str(listed)])


def test_an_interrupted_check_goes_on(tmp_path, monkeypatch):
    listed = synthetic.video_set(tmp_path, num_videos=4)
    flags = ["--list", str(listed), "--format=mp4", "--num_workers=0"]
    decoded = []

    def decode(path, choose, backend):
        decoded.append(Path(path).name)
        if len(decoded) == 3:
            raise KeyboardInterrupt
        choose(12)

    monkeypatch.setattr(check.decode, "video_frames", decode)
    with pytest.raises(KeyboardInterrupt):
        check.main(flags)
    synthetic.write_video(tmp_path / "clip 0.mp4", synthetic.frames(20))  # another file now
    assert check.main(flags) == 0
    assert decoded == [f"clip {i}.mp4" for i in (0, 1, 2, 0, 2, 3)]
    assert sorted(path.name for path in tmp_path.glob("*.check.json*")) == ["all.list.check.json"]


# ---- any tool --------------------------------------------------------------------------------------


@pytest.mark.parametrize("tool", TOOLS)
def test_help_and_mistakes(tool, capsys, monkeypatch):
    for argv, status, where in (["--help"], 0, "out"), (["--no_such_flag"], 2, "err"):
        with pytest.raises(SystemExit) as stopped:
            tool.main(argv)
        assert stopped.value.code == status
        assert (
            f"python data/dataset/kinetics/{Path(tool.__file__).name} --" in capsys.readouterr().out
            or where == "err"
        )


def test_tools_run_from_any_folder_and_say_mistakes_in_one_line(tmp_path):
    tool = ROOT / "data/dataset/kinetics/video_to_pkl.py"
    ran = subprocess.run(
        [sys.executable, str(tool), "--list=none.list", "--out=out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 2
    assert ran.stderr == "error: none.list: cannot read the list: No such file or directory\n"
    assert issubclass(DataError, ZooError) and os.listdir(tmp_path) == []
