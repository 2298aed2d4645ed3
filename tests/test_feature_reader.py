"""Features: pickles of Python 2 and 3, TFRecord shards, .npy lists; order, sampling, and what is wrong."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from reader.common import feature_files, tfrecord
from reader.feature_reader import FeatureReader, QuantisedFeatureReader
from tests import youtube8m
from utils import safe_pickle
from utils.errors import DataError, UnsafeFileError
from utils.loader import Loader, epoch_order, evaluation_batches, training_batches

DIMS = {"rgb": 8, "audio": 4}


def entry(number: int, length: int = 5, labels=(1,), **changes) -> dict:
    rng = np.random.default_rng(number)
    streams = {name: rng.integers(0, 256, (length, dim), dtype=np.uint8) for name, dim in DIMS.items()}
    made = {"video": f"v{number}", "feature": streams["rgb"], "audio": streams["audio"]}
    return {**made, "label": list(labels), "nframes": length, **changes}


def shard(path: Path, entries: list[dict], protocol: int = 2, as_python_2: bool = False) -> str:
    if as_python_2:
        entries = [{k.encode(): v.encode() if k == "video" else v for k, v in e.items()} for e in entries]
    path.write_bytes(pickle.dumps(entries, protocol=protocol))
    return str(path)


def reader(listed: Path, *lines: str, mode: str = "TEST", kind=FeatureReader, **keys):
    listed.write_text("\n".join(lines) + "\n", encoding="utf-8")
    usual = {"num_classes": 4}
    if kind is FeatureReader:
        usual |= {"feature_names": list(DIMS), "feature_dims": list(DIMS.values())}
    else:
        usual |= {"video_feature_size": 8, "audio_feature_size": 4}
    return kind(kind.Config(**{**usual, "filelist": str(listed), **keys}), mode)


# ---- files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("as_python_2", [False, True])
def test_pickles_of_any_protocol(tmp_path, protocol, as_python_2):
    entries = [entry(0, 300), entry(1, 2)]  # the first array is skipped over, the second is not
    path = shard(tmp_path / "a.pkl", entries, protocol, as_python_2)
    samples = reader(tmp_path / "l.list", path)
    assert len(samples) == 2
    for i, expected in enumerate(entries):
        sample = samples[i]
        assert sample["video"] == sample["video_id"] == expected["video"]
        wanted = expected["feature"] * 4.0 / 255.0 + (4.0 / 512.0 - 2.0)
        assert sample["rgb"].dtype == np.float32 and np.allclose(sample["rgb"], wanted, atol=1e-6)


def test_an_index_leaves_the_arrays_in_the_file(tmp_path):
    path = shard(tmp_path / "a.pkl", [entry(i, 300) for i in range(3)], protocol=4)
    for made in safe_pickle.index(path):
        assert isinstance(made["feature"], safe_pickle.ArrayInFile)
        assert made["feature"].raw == b"" and made["feature"].shape == (300, 8)
        assert np.array_equal(made["feature"].read(), entry(int(made["video"][1:]), 300)["feature"])


def test_a_file_that_is_cut_later_is_named(tmp_path):
    path = shard(tmp_path / "a.pkl", [entry(0, 300)], protocol=4)
    samples = reader(tmp_path / "l.list", path)
    Path(path).write_bytes(Path(path).read_bytes()[:1000])
    with pytest.raises(DataError, match=r"a\.pkl: not a readable pickle"):
        samples[0]


def test_pickles_run_no_code(tmp_path):
    class Planted:
        def __reduce__(self):
            return print, ("planted",)

    path = shard(tmp_path / "a.pkl", [{"video": Planted()}])
    with pytest.raises(UnsafeFileError, match="refused to load"):
        reader(tmp_path / "l.list", path)[0]


def test_rows_beyond_nframes_are_dropped_and_lengths_may_differ(tmp_path):
    long = entry(0, 9, nframes=np.int32(6), audio=np.zeros((4, 4), np.uint8))
    sample = reader(tmp_path / "l.list", shard(tmp_path / "a.pkl", [long]))[0]
    assert sample["rgb"].shape == (6, 8) and sample["audio"].shape == (4, 4)
    sampled = reader(tmp_path / "l.list", str(tmp_path / "a.pkl"), seg_num=3)[0]
    assert sampled["rgb"].shape == (3, 8) and sampled["audio"].shape == (3, 4)


def test_labels_may_repeat_or_be_absent(tmp_path):
    entries = [entry(0, labels=[2, 0, 2]), entry(1, labels=[])]
    samples = reader(tmp_path / "l.list", shard(tmp_path / "a.pkl", entries))
    assert samples[0]["label"].tolist() == [1, 0, 1, 0] and samples[1]["label"].tolist() == [0, 0, 0, 0]
    assert samples[0]["label"].dtype == np.float32


def test_tfrecord_shards_are_read_as_they_are(tmp_path):
    entries = [entry(0, labels=[3]), entry(1, 7, labels=[])]
    file = tmp_path / "train00.tfrecord"
    streams = [{"rgb": e["feature"], "audio": e["audio"]} for e in entries]
    records = (tfrecord.serialize(e["video"], e["label"], s) for e, s in zip(entries, streams, strict=True))
    tfrecord.write(file, records)
    from_shard = reader(tmp_path / "a.list", str(file))
    from_pickle = reader(tmp_path / "b.list", shard(tmp_path / "a.pkl", entries))
    assert len(from_shard) == 2
    for i in range(2):
        for name, value in from_pickle[i].items():
            assert np.array_equal(from_shard[i][name], value), name


def test_arrays_of_one_stream_with_labels_in_the_list(tmp_path):
    values = np.random.default_rng(0).random((6, 5)).astype(np.float64)
    np.save(tmp_path / "my video.npy", values)
    keys = {"feature_names": ["rgb"], "feature_dims": [5]}
    sample = reader(tmp_path / "l.list", f"{tmp_path}/my video.npy 0 3", **keys)[0]
    assert np.array_equal(sample["rgb"], values.astype(np.float32))
    assert sample["label"].tolist() == [1, 0, 0, 1]
    assert sample["video"] == f"{tmp_path}/my video.npy" and sample["video_id"] == "my video.npy"
    named = reader(tmp_path / "l.list", f"{tmp_path}/my video.npy", mode="INFER", **keys)
    assert "label" not in named[0]
    folder = reader(tmp_path / "l.list", "unused", mode="INFER", video_path=str(tmp_path), **keys)
    assert [folder.describe(i) for i in range(len(folder))] == [f"{tmp_path}/my video.npy"]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"label": [4]}, r"a\.pkl, record 1: label 4 is outside \[0, 4\) \(MODEL.num_classes\)"),
        ({"label": None}, "record 1: the record has no labels"),
        ({"feature": np.zeros((5, 7), np.uint8)}, r"record 1: 'rgb' is uint8 \[5, 7\].*MODEL.feature_dims"),
        ({"nframes": 0}, "record 1: 'rgb' has no row"),
        ({"nframes": "many"}, "record 1: nframes is"),
        ({"audio": [1, 2]}, "record 1: no array 'audio'"),
    ],
)
def test_a_bad_record_is_named_and_the_others_are_read(tmp_path, broken, message):
    path = shard(tmp_path / "a.pkl", [entry(0), entry(1, **broken)])
    samples = reader(tmp_path / "l.list", path)
    assert samples[0]["video"] == "v0"
    with pytest.raises(DataError, match=message):
        samples[1]


def test_other_mistakes(tmp_path):
    listed = tmp_path / "l.list"
    with pytest.raises(DataError, match="cannot read the list"):
        FeatureReader(FeatureReader.Config(filelist=str(tmp_path / "none.list")), "TRAIN")
    with pytest.raises(DataError, match=r"VALID.filelist is not given"):
        FeatureReader(FeatureReader.Config(), "VALID")
    with pytest.raises(DataError, match=r"l\.list:2: expected 'path.npy label label …'.*'cat'"):
        reader(listed, "a.npy 1", "b.npy cat")
    with pytest.raises(DataError, match=r"feature_names has 2 entries, MODEL.feature_dims 1"):
        reader(listed, "a.npy", feature_dims=[8])
    with pytest.raises(DataError, match=r"a .npy holds one stream, but the recipe has rgb, audio"):
        reader(listed, "a.npy 1")[0]
    with pytest.raises(DataError, match=r"not a readable .npy"):
        reader(listed, "a.npy 1", feature_names=["rgb"], feature_dims=[8])[0]
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"video": "v"}))
    with pytest.raises(DataError, match="expected a list of records, got a dict"):
        reader(listed, str(tmp_path / "a.pkl"))[0]


def test_a_video_level_file_is_recognised(tmp_path):
    file = tmp_path / "a.tfrecord"
    example = tfrecord._sequence_example()()
    example.context.feature["mean_rgb"].float_list.value.extend([0.5] * 8)
    tfrecord.write(file, [example.SerializeToString()])
    with pytest.raises(DataError, match=r"video-level file .* the models need the frame-level"):
        reader(tmp_path / "l.list", str(file))[0]


def test_a_file_that_cannot_be_read_counts_as_one_failure(tmp_path):
    good = shard(tmp_path / "a.pkl", [entry(0), entry(1)])
    samples = reader(tmp_path / "l.list", good, str(tmp_path / "gone.pkl"))
    assert len(samples) == 3
    (fields, failures), *_ = Loader(samples, evaluation_batches(range(3), 3))
    assert fields["video"] == ["v0", "v1"]
    assert len(failures) == 1 and "gone.pkl" in failures[0][1]


# ---- batches, sampling, order ------------------------------------------------------------------


def test_batches_are_padded_with_lengths(tmp_path):
    path = shard(tmp_path / "a.pkl", [entry(0, 3), entry(1, 5), entry(2, 1)])
    samples = reader(tmp_path / "l.list", path)
    (batch, _), *_ = Loader(samples, [[0, 1, 2]])
    assert batch["rgb"].shape == [3, 5, 8] and batch["rgb_length"].tolist() == [3, 5, 1]
    assert batch["audio_length"].tolist() == [3, 5, 1] and batch["label"].shape == [3, 4]
    assert np.array_equal(batch["rgb"].numpy()[0, :3], samples[0]["rgb"])
    assert not batch["rgb"].numpy()[0, 3:].any()


def test_bytes_stay_bytes_for_nextvlad(tmp_path):
    path = shard(tmp_path / "a.pkl", [entry(0)])
    samples = reader(tmp_path / "l.list", path, kind=QuantisedFeatureReader)
    assert samples[0]["rgb"].dtype == np.uint8 and np.array_equal(samples[0]["rgb"], entry(0)["feature"])
    floats = shard(tmp_path / "b.pkl", [entry(0, feature=np.zeros((5, 8), np.float32))])
    with pytest.raises(DataError, match="needs the bytes of YouTube-8M"):
        reader(tmp_path / "l.list", floats, kind=QuantisedFeatureReader)[0]


def test_sampling_is_even_outside_training_and_drawn_in_training(tmp_path):
    rows = np.arange(12, dtype=np.uint8)[:, None].repeat(8, axis=1)
    path = shard(tmp_path / "a.pkl", [entry(0, 12, feature=rows, audio=rows[:, :4])])
    picked = lambda sample: np.rint((sample["rgb"][:, 0] + 2.0) * 255 / 4).astype(int).tolist()  # noqa: E731
    assert picked(reader(tmp_path / "l.list", path, seg_num=4)[0]) == [1, 4, 7, 10]
    drawing = reader(tmp_path / "l.list", path, seg_num=4, mode="TRAIN")
    first = picked(drawing[0])
    assert first == picked(drawing[0]) and all(3 * i <= row < 3 * i + 3 for i, row in enumerate(first))
    drawn = set()
    for epoch in range(20):
        drawing.set_epoch(epoch)
        sample = drawing[0]
        drawn.add(tuple(picked(sample)))
        assert np.array_equal(sample["rgb"][:, :4], sample["audio"])  # the same moments of every stream
    assert len(drawn) > 10


def test_training_sees_every_record_once_whatever_the_processes(tmp_path, monkeypatch):
    monkeypatch.setattr("reader.feature_reader.WINDOW_RECORDS", 10)
    paths = [shard(tmp_path / f"{i}.pkl", [entry(10 * i + j) for j in range(4)]) for i in range(8)]
    samples = reader(tmp_path / "l.list", *paths, mode="TRAIN")
    order = epoch_order(samples, 0, 0)
    assert sorted(order) == list(range(32)) and order != sorted(order)
    assert order == epoch_order(samples, 0, 0)
    assert order != epoch_order(samples, 0, 1) and order != epoch_order(samples, 1, 0)
    files = [samples.files.locate(index)[0] for index in order]
    assert len(set(files[:12])) == 3  # a window of few files at a time
    shares = [training_batches(order, 8, rank, 2) for rank in range(2)]
    assert sorted(index for share in shares for batch in share for index in batch) == list(range(32))
    for share in shares:
        seen = [video for fields, _ in Loader(samples, share, workers=2) for video in fields["video"]]
        assert len(set(seen)) == 16


def test_only_the_latest_indices_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_files, "INDEXED_RECORDS", 8)
    paths = [shard(tmp_path / f"{i}.pkl", [entry(10 * i + j) for j in range(4)]) for i in range(6)]
    samples = reader(tmp_path / "l.list", *paths)
    assert [samples[i]["video"] for i in range(24)] == [f"v{10 * (i // 4) + i % 4}" for i in range(24)]
    assert sum(len(shard) for shard in samples.files.opened.values()) <= 8


def test_counts_are_kept_beside_the_list_and_checked(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_files, "SLOW_SECONDS", -1)
    path = shard(tmp_path / "a.pkl", [entry(0), entry(1)])
    assert len(reader(tmp_path / "l.list", path)) == 2
    assert (tmp_path / ".l.list.counts.json").is_file()
    with monkeypatch.context() as patch:
        patch.setattr(feature_files, "open_file", lambda line: pytest.fail("counted again"))
        assert len(reader(tmp_path / "l.list", path)) == 2
    shard(tmp_path / "a.pkl", [entry(0), entry(1), entry(2)])
    assert len(reader(tmp_path / "l.list", path)) == 3
    (tmp_path / ".l.list.counts.json").write_text("[1]")
    assert len(reader(tmp_path / "l.list", path)) == 3


def test_the_made_up_set_is_the_same_in_both_forms(tmp_path):
    (tmp_path / "b").mkdir()
    lists = [
        youtube8m.feature_set(tmp_path, 3, 2) / "train.list",
        youtube8m.feature_set(tmp_path / "b", 3, 2, form="tfrecord") / "train.list",
    ]
    pickled, recorded = (
        FeatureReader(FeatureReader.Config(num_classes=34, feature_dims=[8, 4], filelist=str(listed)), "TEST")
        for listed in lists
    )
    for i in range(3):
        for name, value in pickled[i].items():
            assert np.array_equal(recorded[i][name], value), name
