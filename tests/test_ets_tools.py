"""The tools of data/dataset/ets, words and scores of captions, and that ETS learns the made-up set."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import yaml

import eval as eval_script
import train
from data.dataset.ets import make_lists, make_set, split_features
from metrics import caption_scores
from reader.ets_reader import ETSReader
from tests.conftest import ROOT
from utils import cli
from utils.config import load_yaml
from utils.errors import DataError
from utils.sentences import tokenize


@pytest.fixture(autouse=True)
def _own_log_handlers():
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers, level = handlers, logging.root.setLevel(level)


# ---- words ---------------------------------------------------------------------------------------

SENTENCES = {
    "A man's dog doesn't bark, does it?": "a man 's dog does n't bark does it",
    "They CANNOT stop; he's gonna fall...": "they can not stop he 's gon na fall",
    "A t-shirt costs $3.50 (50% off)!": "a t-shirt costs $ 3.50 50 % off",
    'She says "go" at 3:30, we’ll wait.': "she says go at 3:30 we 'll wait",
    " -- ": "",
}


@pytest.mark.parametrize("sentence", SENTENCES)
def test_words_are_those_of_the_treebank_without_punctuation(sentence):
    assert " ".join(tokenize(sentence)) == SENTENCES[sentence]


# ---- lists and dictionary --------------------------------------------------------------------------


def write_captions(file: Path, videos: dict[str, list[tuple[float, float, str]]]) -> Path:
    content = {
        video: {
            "duration": 10.0,
            "timestamps": [[start, end] for start, end, _ in segments],
            "sentences": [sentence for *_, sentence in segments],
        }
        for video, segments in videos.items()
    }
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def test_lists_and_dictionary_from_the_captions(tmp_path, capsys):
    source = write_captions(
        tmp_path / "train.json",
        {
            "v_a": [(0.0, 2.5, "A man runs."), (2.5, 2.5, "Nothing."), (3, 4.25, "...")],
            "v_b": [(1, 2, "A dog")],
        },
    )
    flags = [f"--train={source}", f"--val={source}", f"--out={tmp_path / 'out'}"]
    assert make_lists.main(flags) == 0
    printed = capsys.readouterr().out
    assert "1 segments without length are left out" in printed and "1 segments without words" in printed
    out = tmp_path / "out"
    assert (out / "train.list").read_text() == "v_a\t0\t2.5\ta man runs\nv_b\t1\t2\ta dog\n"
    assert (out / "infer.list").read_text() == "v_a\t0\t2.5\nv_b\t1\t2\n"
    assert (out / "dict.txt").read_text() == "<s> -1\n<e> -1\n<unk> -1\na 2\ndog 1\nman 1\nruns 1\n"
    (out / "dict.txt").write_text("of 2019\n")
    assert make_lists.main([*flags, "--keep_dict"]) == 0
    assert (out / "dict.txt").read_text() == "of 2019\n"
    (tmp_path / "feat").mkdir()
    (tmp_path / "feat" / "v_b.npy").touch()
    assert make_lists.main([*flags, f"--features={tmp_path / 'feat'}", "--min_count=2"]) == 0
    assert (out / "val.list").read_text() == "v_b\t1\t2\ta dog\n"


def test_captions_of_another_form_are_named(tmp_path):
    file = tmp_path / "train.json"
    file.write_text('{"v_a": {"timestamps": [[0, 1]], "sentences": []}}')
    with pytest.raises(DataError, match=r"train\.json: v_a: expected as many 'timestamps' as 'sentences'"):
        make_lists.main([f"--train={file}", f"--out={tmp_path}"])


# ---- features ------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("form", ["npy", "pkl"])
def test_features_are_split_and_a_second_run_goes_on(tmp_path, capsys, protocol, form):
    rng = np.random.default_rng(0)
    arrays = {f"v{i}": rng.normal(size=(20 + i, 64)).astype(np.float32) for i in range(4)}
    source, out = tmp_path / "all.pkl", tmp_path / "feat"
    source.write_bytes(pickle.dumps({**arrays, "odd": np.zeros(3, np.float32)}, protocol=protocol))
    (tmp_path / "some.list").write_text("v0\t0\t1\ta\nv2\t0\t1\ta\nv9\t0\t1\ta\n")
    flags = [f"--source={source}", f"--out={out}", f"--form={form}"]
    assert split_features.main([*flags, f"--lists={tmp_path / 'some.list'}"]) == 1
    assert "2 made, 0 there already, 0 failed, 1 of the lists not in" in capsys.readouterr().out
    assert split_features.main(flags) == 1
    output = capsys.readouterr()
    assert "2 made, 2 there already, 1 failed" in output.out
    assert "odd: expected floating-point numbers [rows, D]" in output.err
    (tmp_path / "dict.txt").write_text("<s>\n<e>\n<unk>\n")
    (tmp_path / "all.list").write_text("".join(f"v{i}\t0\t100\n" for i in range(4)))
    config = ETSReader.Config(
        feat_path=str(out),
        feat_size=64,
        dict_file=str(tmp_path / "dict.txt"),
        filelist=str(tmp_path / "all.list"),
    )
    reader = ETSReader(config, "INFER")
    for i in range(4):
        assert np.array_equal(reader[i]["feat"], arrays[f"v{i}"])


def test_a_name_that_leaves_the_folder_is_refused(tmp_path):
    source = tmp_path / "all.pkl"
    source.write_bytes(pickle.dumps({"../v": np.zeros((300, 2), np.float32)}, protocol=2))
    with pytest.raises(DataError, match=r"'\.\./v' is no name of a video"):
        split_features.main([f"--source={source}", f"--out={tmp_path / 'feat'}"])


# ---- scores --------------------------------------------------------------------------------------


class _Counting:
    """A scorer: the share of pairs that are equal."""

    def __init__(self) -> None:
        self.videos = 0

    def compute_score(self, references: dict, captions: dict) -> tuple[float, list[float]]:
        self.videos += 1
        each = [float(captions[i] == references[i]) for i in captions]
        return sum(each) / len(each), each


REFERENCES = [
    {
        "v": {"timestamps": [[0, 10], [10, 20]], "sentences": ["A man runs.", "He sits"]},
        "w": {"timestamps": [[0, 5]], "sentences": ["A dog"]},
    }
]


def test_captions_meet_the_references_that_overlap_them(monkeypatch):
    scorer = _Counting()
    monkeypatch.setattr(caption_scores, "_scorers", lambda: iter([(["same"], scorer)]))
    predictions = {
        "v": [
            {"timestamp": [0, 10], "sentence": "a man runs"},  # right, IoU 1
            {"timestamp": [12, 20], "sentence": "he sits"},  # right, IoU 0.8
            {"timestamp": [40, 50], "sentence": "he sits"},  # meets nothing
        ]
    }  # nothing of w
    assert caption_scores.score(predictions, REFERENCES, [0.7]) == pytest.approx({"same": 100 * (2 / 3) / 2})
    assert caption_scores.score(predictions, REFERENCES, [0.9]) == pytest.approx({"same": 100 * (1 / 3) / 2})
    assert caption_scores.score(predictions, REFERENCES, [0.7, 0.9]) == pytest.approx({"same": 25.0})
    assert scorer.videos == 4  # w has no pair to score
    assert caption_scores.iou([0, 10], [5, 20]) == 0.25 and caption_scores.iou([0, 1], [2, 3]) == 0


def test_without_the_package_there_are_no_scores_and_one_line(monkeypatch, caplog):
    monkeypatch.setitem(__import__("sys").modules, "pycocoevalcap.bleu.bleu", None)
    with caplog.at_level(logging.WARNING):
        assert caption_scores.score({"v": []}, REFERENCES) == {}
    assert len(caplog.records) == 1 and "pip install pycocoevalcap" in caplog.text


def test_the_command_scores_a_result_file(tmp_path, capsys, monkeypatch):
    pytest.importorskip("pycocoevalcap", reason="the optional package pycocoevalcap is not installed")
    right = {}
    for video, entry in REFERENCES[0].items():
        pairs = zip(entry["timestamps"], entry["sentences"], strict=True)
        right[video] = [{"timestamp": segment, "sentence": sentence} for segment, sentence in pairs]
    (tmp_path / "res.json").write_text(json.dumps({"version": "VERSION 1.0", "results": right}))
    (tmp_path / "val.json").write_text(json.dumps(REFERENCES[0]))
    argv = [
        str(tmp_path / "res.json"),
        "--references",
        str(tmp_path / "val.json"),
        f"--out={tmp_path / 's.json'}",
    ]
    assert caption_scores.main(argv) == 0
    scores = json.loads((tmp_path / "s.json").read_text())
    assert {"Bleu_1", "Bleu_4", "ROUGE_L", "CIDEr"} <= scores.keys()
    assert scores["Bleu_1"] == pytest.approx(100, abs=0.01) and scores["ROUGE_L"] == pytest.approx(
        100, abs=0.01
    )
    assert ("METEOR" in scores) == bool(caption_scores.shutil.which("java"))
    if "METEOR" in scores:
        assert scores["METEOR"] > 90
    wordless = {"v": [{"timestamp": [0, 10], "sentence": ""}]}
    assert max(caption_scores.score(wordless, REFERENCES).values()) < 1e-3
    monkeypatch.setattr(caption_scores.shutil, "which", lambda name: None)
    without = caption_scores.score(right, REFERENCES)
    assert set(without) == set(scores) - {"METEOR"}
    assert all(without[name] == pytest.approx(scores[name]) for name in without)


@pytest.mark.parametrize("content", ["[]", "{}", "no JSON"])
def test_another_result_file_is_refused_in_one_line(tmp_path, content, monkeypatch, capsys):
    (tmp_path / "res.json").write_text(content)
    file = str(tmp_path / "res.json")
    monkeypatch.setattr("sys.argv", ["x", file, "--references", file])
    assert cli.run(caption_scores.main) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


# ---- learning ------------------------------------------------------------------------------------


def trained_on(folder: Path, *flags: str) -> float:
    """Exact matches in percent after the demo's recipe, on a set of half the size."""
    sizes = ("--num_train=300", "--num_val=60")
    with contextlib.redirect_stdout(io.StringIO()):
        assert make_set.main([f"--out={folder / 'set'}", *sizes, *flags]) == 0
    sections = load_yaml(ROOT / "configs" / "demo" / "ets.yaml")
    recipe = yaml.safe_dump(sections).replace("data/demo/ets/", f"{folder / 'set'}/")
    file = folder / "ets.yaml"
    file.write_text(recipe, encoding="utf-8")
    argv = [f"--config={file}", f"--save_dir={folder}", "--use_gpu=False", "--num_workers=0"]
    assert train.main([*argv, "--valid_interval=0", "-o", "TRAIN.epoch=8"]) == 0
    assert eval_script.main([*argv, f"--weights={folder / 'ETS'}"]) == 0
    return json.loads((folder / "ETS_eval_result.json").read_text())["result"]["exact_match"]


def test_the_order_of_events_is_learnt_and_their_mean_is_not_enough(tmp_path):
    """Guessing the order of three known events is right once in six."""
    order, mean = trained_on(tmp_path / "order"), trained_on(tmp_path / "mean", "--pooled")
    assert order > 90 and mean < order / 2, (order, mean)


def test_the_same_arguments_make_the_same_set(tmp_path):
    flags = ("--num_train=3", "--num_val=2", "--size=4")
    for name in ("one", "two"):
        assert make_set.main([f"--out={tmp_path / name}", *flags]) == 0
    one, two = (
        {file.relative_to(tmp_path / name): file.read_bytes() for file in (tmp_path / name).rglob("*.*")}
        for name in ("one", "two")
    )
    assert one == two and len(one) == 5
