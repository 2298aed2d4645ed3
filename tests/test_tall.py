"""TALL: pairs, contexts, movies at once, recalls, files of sentences, tools."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest

import eval as eval_script
import predict
import train
from data.dataset.tall import baseline, encode_sentences, gen_infer, make_set, make_windows
from metrics import grounding
from models import ZOO
from reader.common import moments
from reader.tall_reader import covers
from tests.recipes import tall
from utils import build, program
from utils.config import load_yaml
from utils.errors import ConfigError, DataError
from utils.registry import find

SPEC = find("TALL", ZOO)


def reader_of(recipe: Path, mode: str, **keys):
    sections = load_yaml(recipe)
    sections[mode].update(keys)
    return build.reader(SPEC, sections, mode, str(recipe))


def window(folder: Path, name: str, value: float = 0.0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{name}.npy", np.full(tall.FEATURES, value, np.float32))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    return tall.tiny(tmp_path_factory.mktemp("tall"))


@pytest.fixture(scope="module")
def weights(recipe) -> Path:
    folder = recipe.parent / "weights"
    argv = [
        f"--config={recipe}",
        f"--save_dir={folder}",
        "--use_gpu=False",
        "--epoch=1",
        "--valid_interval=0",
    ]
    assert train.main(argv) == 0
    return folder / "TALL"


# ---- reader ------------------------------------------------------------------------------------


def test_training_pairs_are_those_of_a_loop_over_all():
    rng = np.random.default_rng(0)
    starts, others = rng.integers(0, 500, 200), rng.integers(0, 500, 90)
    windows = np.stack([starts, starts + rng.integers(32, 200, 200)], axis=1).astype(float)
    truth = np.stack([others, others + rng.integers(32, 200, 90)], axis=1).astype(float)
    got = covers(windows, truth)
    for w, (start, end) in enumerate(windows):
        for s, (first, last) in enumerate(truth):
            common = min(end, last) - max(start, first)
            iou = common / (max(end, last) - min(start, first))
            assert got[w, s] == (iou > 0.5 and (end - start - common) / (end - start) < 0.15)
    assert 0 < got.sum() < got.size


def test_movies_are_matched_by_name_not_by_part_of_it(recipe, tmp_path):
    for movie in ("s1.avi", "s11.avi"):
        window(tmp_path / "windows", f"{movie}_1_65", len(movie))
    vector = np.ones(tall.WORDS, np.float32)
    entries = [["s11.avi_1_65", [vector]], ["s1.avi_1_65", [vector]]]
    (tmp_path / "s.pkl").write_bytes(pickle.dumps(entries, protocol=2))
    keys = {"sliding_clip_path": str(tmp_path / "windows"), "clip_sentvec": str(tmp_path / "s.pkl")}
    samples = reader_of(recipe, "TRAIN", **keys)
    assert len(samples) == 2
    found = reader_of(recipe, "TEST", **keys)
    assert [found[i]["video"] for i in range(len(found))] == ["s11.avi", "s1.avi"]
    assert [len(found[i]["windows"]) for i in range(2)] == [1, 1]
    assert found[0]["visual"][0, 0] == len("s11.avi")


def test_a_missing_context_is_the_nearest_there_is():
    spans = [(129, 193), (65, 129), (1, 65), (193, 257)]
    #  left of 129_193: 65_129, then 1_65, then that again; right: 193_257, and that again
    got = moments.contexts(spans, 3, 64)
    assert got[0].tolist() == [[1, 2, 2], [3, 3, 3]]
    assert got[2].tolist() == [[2, 2, 2], [1, 0, 3]]
    assert moments.contexts(spans, 1, 100)[0].tolist() == [[0], [0]]


def test_the_cache_stays_within_its_limit(tmp_path):
    for i in range(6):
        window(tmp_path, f"m_{i}_{i + 9}", i)
    features = moments.Features(str(tmp_path), tall.FEATURES, 3 * 4 * tall.FEATURES)
    for i in range(6):
        assert features(f"m_{i}_{i + 9}.npy")[0] == i
        assert len(features.kept) <= 3
    assert list(features.kept) == [f"m_{i}_{i + 9}.npy" for i in (3, 4, 5)]


def test_the_order_of_validation_does_not_depend_on_the_seed(recipe):
    first, again = (reader_of(recipe, "VALID") for _ in range(2))
    assert [first.describe(i) for i in range(len(first))] == [again.describe(i) for i in range(len(again))]
    assert sorted(map(tuple, first.pairs)) == sorted(map(tuple, reader_of(recipe, "TRAIN").pairs))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros(3, np.float32), "3 features, the recipe needs 8"),
        (np.full(tall.FEATURES, np.nan, np.float32), "NaN"),
        (None, "not a readable .npy file"),
    ],
)
def test_a_feature_file_that_cannot_be_used_is_named(recipe, tmp_path, value, message):
    window(tmp_path, "m.avi_1_65")
    path = tmp_path / "m.avi_1_65.npy"
    path.write_bytes(b"garbage") if value is None else np.save(path, value)
    (tmp_path / "s.pkl").write_bytes(pickle.dumps([["m.avi_1_65", [np.ones(tall.WORDS)]]]))
    reader = reader_of(recipe, "TEST", sliding_clip_path=str(tmp_path), clip_sentvec=str(tmp_path / "s.pkl"))
    with pytest.raises(DataError, match=message) as raised:
        reader[0]
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([["m.avi_65_1", [[0.0] * 12]]], "start before end"),
        ([["m.avi", [[0.0] * 12]]], "expected <movie>_<start>_<end>"),
        ([["m.avi_1_65", [[0.0] * 5]]], "vector of 5 numbers, the recipe needs 12"),
        ([["m.avi_1_65", ["text"]]], "no list of numbers"),
        ([["m.avi_1_65", [[math.inf] * 12]]], "NaN or infinity"),
        ({"m": 1}, "expected a list"),
        ([], "no sentences"),
    ],
)
def test_sentences_that_cannot_be_used_are_named(tmp_path, entries, message):
    file = tmp_path / "s.pkl"
    file.write_bytes(pickle.dumps(entries, protocol=2))
    with pytest.raises(DataError, match=message) as raised:
        moments.read_sentences(str(file), tall.WORDS)
    assert str(file) in str(raised.value)


def test_a_window_of_another_name_is_an_error(tmp_path):
    window(tmp_path, "features")
    with pytest.raises(DataError, match=r"features\.npy: expected <movie>_<start>_<end>"):
        moments.list_windows(str(tmp_path))


def test_json_sentences_need_no_moment_in_infer_only(recipe, tmp_path):
    file = tmp_path / "s.json"
    movie = next(iter(reader_of(recipe, "TEST").sentences))
    file.write_text(json.dumps([{"video": movie, "text": "cut", "vector": [1.0] * tall.WORDS}]))
    sample = reader_of(recipe, "INFER", clip_sentvec=str(file))[0]
    assert sample["texts"] == ["cut"] and np.isnan(sample["moments"]).all()
    with pytest.raises(DataError, match='"start" and "end" are missing'):
        reader_of(recipe, "TEST", clip_sentvec=str(file))


@pytest.mark.parametrize("key", ["feats_dimen", "semantic_size"])
def test_sizes_that_do_not_fit_together_are_refused(recipe, key):
    with pytest.raises(ConfigError, match=key):
        reader_of(recipe, "TEST", **{key: 5})


# ---- movies at once ----------------------------------------------------------------------------


def test_at_once_is_pair_by_pair(recipe):
    sections = load_yaml(recipe)
    network = build.network(SPEC, sections, "TEST", str(recipe))
    infer = program.inference(network, SPEC, False, False)
    sample = reader_of(recipe, "TEST")[0]
    together = infer({name: sample[name] for name in SPEC.inputs})["scores"]
    for s in range(0, len(sample["sentences"]), 3):
        for w in range(0, len(sample["visual"]), 7):
            one = {"visual": sample["visual"][w : w + 1], "sentences": sample["sentences"][s : s + 1]}
            alone = infer(one)["scores"][:, 0, 0]
            assert np.abs(together[:, s, w] - alone).max() <= 1e-5 * np.abs(together).max()


def test_blocks_and_batches_change_no_result(recipe, weights, tmp_path):
    results, records = [], []
    for i, flags in enumerate(
        [(), ("TEST.max_pairs=50", "INFER.max_pairs=50"), ("TEST.batch_size=3", "INFER.batch_size=2")]
    ):
        out = tmp_path / str(i)
        argv = [f"--config={recipe}", f"--weights={weights}", f"--save_dir={out}", "--use_gpu=False"]
        argv += ["-o", *flags] if flags else []
        assert eval_script.main(argv) == predict.main(argv) == 0
        results.append(json.loads((out / "TALL_eval_result.json").read_text())["result"])
        records.append(json.loads((out / "TALL_infer_res_.json").read_text())["results"])
    assert results[0] == results[1] == results[2] and len(results[0]) == 12
    for other in records[1:]:
        assert list(other) == list(records[0])
        for movie, rows in records[0].items():
            assert np.allclose(other[movie], rows, atol=1e-3)
            assert [row[0] for row in rows] == list(range(8))


def test_a_movie_without_windows_is_named_and_counted(recipe, weights, tmp_path):
    out = json.loads((recipe.parent / "movies" / "test_sentences.json").read_text())
    out.append({**out[0], "video": "gone.avi"})
    (tmp_path / "s.json").write_text(json.dumps(out))
    argv = [f"--config={recipe}", f"--weights={weights}", f"--save_dir={tmp_path}", "--use_gpu=False"]
    argv += ["-o", f"TEST.clip_sentvec={tmp_path / 's.json'}", f"INFER.clip_sentvec={tmp_path / 's.json'}"]
    assert eval_script.main(argv) == predict.main(argv) == 1
    report = json.loads((tmp_path / "TALL_eval_result.json").read_text())
    assert [entry["video"] for entry in report["failed"]] == ["gone.avi"]
    whole, wrong = report["result"], report["result_with_failures_counted_wrong"]
    assert wrong["R@10_IoU=0.1"] == pytest.approx(whole["R@10_IoU=0.1"] * 3 / 4)
    assert "gone.avi" not in json.loads((tmp_path / "TALL_infer_res_.json").read_text())["results"]


def test_predictions_have_frames_seconds_and_a_picture_a_sentence(recipe, weights, tmp_path):
    argv = [f"--config={recipe}", f"--weights={weights}", f"--save_dir={tmp_path}", "--use_gpu=False"]
    assert predict.main([*argv, "--visualize", "--infer_topk=3"]) == 0
    records = json.loads((tmp_path / "TALL_infer_result.json").read_text())["results"]
    assert len(records) == 3
    for record in records:
        for sentence in record["sentences"]:
            assert (tmp_path / sentence["picture"]).read_bytes().startswith(b"\x89PNG")
            scores = [moment["score"] for moment in sentence["moments"]]
            assert scores == sorted(scores, reverse=True) and 1 <= len(scores) <= 3
            for moment in sentence["moments"]:
                assert moment["end_second"] <= record["num_frames"] / 29.4
                if 0 <= moment["start_frame"] <= record["num_frames"]:
                    assert moment["start_second"] == pytest.approx(moment["start_frame"] / 29.4)
    assert predict.main([*argv, "-o", "INFER.fps=null"]) == 0
    first = json.loads((tmp_path / "TALL_infer_result.json").read_text())["results"][0]
    assert first["fps"] is None and first["sentences"][0]["moments"][0]["start_second"] is None


# ---- metric ------------------------------------------------------------------------------------


def one_by_one(spans: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    order, kept = sorted(range(len(scores)), key=lambda i: scores[i]), []
    while order:
        best = order.pop()
        kept.append(best)
        a, b = spans[best]
        length = lambda i: spans[i][1] - spans[i][0]  # noqa: E731
        common = {i: max(0.0, min(b, spans[i][1]) - max(a, spans[i][0])) for i in order}
        order = [i for i in order if common[i] / (b - a + length(i) - common[i]) <= threshold]
    return kept


@pytest.mark.parametrize("threshold", [0.05, 0.25, 0.45, 0.65])
def test_suppression_of_all_sentences_is_that_of_each(threshold):
    rng = np.random.default_rng(0)
    start = rng.uniform(0, 300, (9, 40))
    spans = np.stack([start, start + rng.uniform(20, 90, start.shape)], axis=-1)
    scores = rng.integers(0, 12, start.shape) / 4.0  # with ties
    picks = grounding.suppress(spans, scores, threshold, 40)
    for row, of_row, found in zip(spans, scores, picks, strict=True):
        assert found[found >= 0].tolist() == one_by_one(row, of_row, threshold)
    assert (grounding.suppress(spans, scores, threshold, 5) == picks[:, :5]).all()


def test_recall_counts_the_best_of_n():
    truth = np.array([[100.0, 200.0]])
    spans = np.array([[[400.0, 500.0], [120.0, 200.0], [600.0, 700.0]]])  # the second has IoU 0.8
    counts = grounding.recalled(spans, np.array([[3.0, 2.0, 1.0]]), truth)
    assert counts.tolist() == [[0, 1, 1]] * 4
    counts = grounding.recalled(
        spans, np.array([[1.0, 2.0, 0.0]]), np.array([[130.0, 330.0]])
    )  # 0.35 at best
    assert counts.tolist() == [[1, 1, 1], [1, 1, 1], [0, 0, 0], [0, 0, 0]]


# ---- tools -------------------------------------------------------------------------------------


def test_the_infer_set_of_2019(recipe, weights, tmp_path):
    movies = recipe.parent / "movies"
    out = tmp_path / "infer"
    argv = [f"--windows={movies / 'test'}", f"--sentences={movies / 'test_clip-sentvec.pkl'}", f"--out={out}"]
    assert gen_infer.main(argv) == gen_infer.main(argv) == 0
    reader = reader_of(recipe, "INFER", filelist=str(out), sliding_clip_path="gone", clip_sentvec="gone")
    assert len(reader) == 1 and len(reader[0]["sentences"]) == 4  # one of each action
    with pytest.raises(ConfigError, match="windows of another movie"):
        gen_infer.main([*argv, "--movie=test001.avi"])
    with pytest.raises(ConfigError, match=r"--movie=nobody\.avi"):
        gen_infer.main([*argv, "--movie=nobody.avi"])


def test_own_movies_and_sentences_are_predicted(recipe, weights, tmp_path):
    """Features in time and a text, through the tools and predict.py."""
    rng = np.random.default_rng(0)
    (tmp_path / "features").mkdir()
    np.save(tmp_path / "features" / "my film.mp4.npy", rng.standard_normal((40, tall.FEATURES)))
    (tmp_path / "features" / "bad.npy").write_bytes(b"garbage")
    flags = [f"--features={tmp_path / 'features'}", "--frames_per_row=16", f"--out={tmp_path / 'windows'}"]
    assert make_windows.main([*flags, "--num_workers=0"]) == 1  # one could not be read
    assert (tmp_path / "windows" / "my film.mp4_1_65.npy").is_file()
    (tmp_path / "my.txt").write_text(
        "my film.mp4\tthe cook cuts the carrot\nmy film.mp4\t10\t90\tEr schält\n"
    )
    flags = [f"--sentences={tmp_path / 'my.txt'}", f"--out={tmp_path / 'my.json'}", f"--size={tall.WORDS}"]
    assert encode_sentences.main(flags) == 0
    argv = [f"--config={recipe}", f"--weights={weights}", f"--save_dir={tmp_path}", "--use_gpu=False"]
    argv += [f"--video_path={tmp_path / 'windows'}", f"--filelist={tmp_path / 'my.json'}"]
    assert predict.main(argv) == 0
    (record,) = json.loads((tmp_path / "TALL_infer_result.json").read_text())["results"]
    assert [s["text"] for s in record["sentences"]] == ["the cook cuts the carrot", "Er schält"]
    assert [s["annotated"] for s in record["sentences"]] == [None, [10.0, 90.0]]


def test_windows_are_means_of_the_rows_they_touch():
    rows = np.arange(10, dtype=np.float32)[:, None]
    assert make_windows.window(rows, 1, 33, 16)[0] == 0.5
    assert make_windows.window(rows, 17, 65, 16)[0] == 2.0
    assert make_windows.window(rows, 10, 20, 16)[0] == 0.5  # frames of two rows
    assert make_windows.spans(160, [64, 128], 0.75) == [
        *((1 + 16 * i, 65 + 16 * i) for i in range(7)),
        *((1 + 32 * i, 129 + 32 * i) for i in range(2)),
    ]
    assert make_windows.spans(30, [64], 0.8) == [(1, 31)]


def test_words_have_vectors_of_their_own():
    bag = encode_sentences.bag_of_words
    assert np.linalg.norm(bag("Cut the carrot", 64)) == pytest.approx(1.0)
    assert np.allclose(bag("cut THE carrot!", 64), bag("carrot, the cut", 64))
    assert bag("cut a carrot", 64) @ bag("cut the carrot", 64) > bag("cut a carrot", 64) @ bag("wash it", 64)


@pytest.mark.parametrize("line", ["no tab", "movie\t1\tsentence", "movie\tone\t2\tsentence", "\tsentence"])
def test_a_line_of_another_form_is_named(line):
    with pytest.raises(DataError, match=r"my\.txt:3"):
        encode_sentences.parse("my.txt:3", line)


def test_the_made_up_set_is_the_same_again_and_its_moments_are_in_the_movie(tmp_path):
    for name in ("a", "b"):
        argv = [f"--out={tmp_path / name}", "--num_train=2", "--num_test=1", "--actions=3", "--features=4"]
        assert make_set.main([*argv, "--words=6"]) == 0
    files = {p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file()}
    assert len(files) > 20
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file
    lengths = moments.read_lengths(str(tmp_path / "a" / "video_allframes_info.pkl"))
    for sentence in moments.read_sentences(str(tmp_path / "a" / "test_clip-sentvec.pkl"), 6):
        assert 1 <= sentence.start < sentence.end <= moments.of_movie(lengths, sentence.movie)


def test_the_baseline_is_scored(recipe, capsys):
    assert baseline.main([f"--config={recipe}"]) == 0
    assert "R@1_IoU=0.5" in capsys.readouterr().out
