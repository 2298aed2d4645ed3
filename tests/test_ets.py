"""ETS: padding and attention of the network, segments of the reader, sentences of the metric, predictions."""

from __future__ import annotations

import json
import logging
import pickle
from pathlib import Path

import numpy as np
import paddle
import pytest

import predict
import train
from metrics.captions import Captions
from models import ZOO
from models.ets import ETS
from reader.ets_reader import ETSReader
from tests.recipes import ets
from utils import build, checkpoint, program
from utils.config import load_yaml
from utils.errors import ConfigError, DataError
from utils.registry import find
from utils.vocabulary import Vocabulary

SPEC = find("ETS", ZOO)


@pytest.fixture(autouse=True)
def _own_log_handlers():
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers, level = handlers, logging.root.setLevel(level)


def network(dict_file: Path, **keys) -> ETS:
    config = {"feat_size": 4, "fc_dim": 6, "gru_hidden_dim": 5, "decoder_size": 5, "word_emb_dim": 3}
    paddle.seed(0)
    with paddle.utils.unique_name.guard():
        made = ETS(ETS.Config(**{**config, "dict_file": str(dict_file), "max_length": 6, **keys}))
    for parameter in made.parameters():  # far from zero, so that everything shows
        parameter.set_value(paddle.randn(parameter.shape) * 0.7)
    made.eval()
    return made


@pytest.fixture
def made(tmp_path: Path) -> dict[str, Path]:
    return ets.write_set(tmp_path / "set")


def reader(made: dict[str, Path], mode: str = "TRAIN", **keys) -> ETSReader:
    config = {"feat_path": str(made["dict"].parent), "feat_size": 4, "dict_file": str(made["dict"])}
    return ETSReader(ETSReader.Config(**{**config, "filelist": str(made["train"]), **keys}), mode)


def tensors(batch: dict) -> dict[str, paddle.Tensor]:
    return {k: paddle.to_tensor(v) for k, v in batch.items() if isinstance(v, np.ndarray)}


# ---- network -----------------------------------------------------------------------------------


def test_what_lies_behind_the_ends_does_not_matter(made):
    net, samples = network(made["dict"]), reader(made)
    batch = samples.collate([samples[i] for i in range(4)])
    assert len(set(batch["feat_length"])) > 1 and len(set(batch["word_length"])) > 1
    alone = [samples.collate([samples[i]]) for i in range(4)]
    for i, length in enumerate(batch["feat_length"]):
        batch["feat"][i, length:] = 9.0
        batch["word"][i, batch["word_length"][i] :] = 5
    together = net(*(tensors(batch)[name] for name in SPEC.inputs))["logits"].numpy()
    apart = [net(*(tensors(one)[name] for name in SPEC.inputs))["logits"].numpy() for one in alone]
    assert np.abs(together - np.concatenate(apart)).max() < 1e-5
    search = program.eager(net.captioner(), *build.predicting(net, SPEC)[1:], ("ids", "scores"))
    found = search({name: batch[name] for name in ("feat", "feat_length")})
    for i, one in enumerate(alone):
        ids = search({name: one[name] for name in ("feat", "feat_length")})
        assert np.array_equal(found["ids"][i], ids["ids"][0])
        assert np.abs(found["scores"][i] - ids["scores"][0]).max() < 1e-4


def test_the_loss_is_the_mean_over_words_not_over_sentences(made):
    net, samples = network(made["dict"]), reader(made)
    batch = tensors(samples.collate([samples[i] for i in range(4)]))
    outputs = net(*(batch[name] for name in SPEC.inputs))
    probability = paddle.nn.functional.softmax(outputs["logits"]).numpy()
    words = np.concatenate([samples[i]["word_next"] for i in range(4)])
    expected = -np.log(probability[np.arange(len(words)), words]).mean()
    assert float(net.loss(outputs, batch)["loss"]) == pytest.approx(expected, rel=1e-5)


def test_the_decoders_state_does_not_move_the_attention(made):
    """So one context serves all words, and fc_6 has no gradient, as in 2019."""
    net, samples = network(made["dict"]), reader(made)
    batch = tensors(samples.collate([samples[0], samples[1]]))
    encoded = net.encoder(batch["feat"], batch["feat_length"])
    attention = net.attention
    contexts = []
    for state in (paddle.zeros([2, 5]), paddle.randn([2, 5]) * 3):
        scores = attention.score(attention.of_row(encoded) + attention.of_state(state).unsqueeze(1)).numpy()
        scores[1, int(batch["feat_length"][1]) :] = -np.inf
        scores[0, int(batch["feat_length"][0]) :] = -np.inf
        weights = np.exp(scores - scores.max(1, keepdims=True))
        contexts.append((weights / weights.sum(1, keepdims=True) * encoded.numpy()).sum(1))
    assert np.abs(contexts[0] - contexts[1]).max() < 1e-5
    assert np.abs(contexts[0] - attention(encoded, batch["feat_length"])[1].numpy()).max() < 1e-5
    net.train()
    net.loss(net(*(batch[name] for name in SPEC.inputs)), batch)["loss"].backward()
    gradients = {p.name: float(p.grad.abs().max()) for p in net.parameters()}
    assert gradients.pop("fc_6.w_0") < 1e-6
    assert min(gradients.values()) > 1e-6, gradients


def test_a_caption_as_long_as_allowed_keeps_its_last_word(made):
    net, samples = network(made["dict"], max_length=3), reader(made, "TEST")
    bias = net.decoder.output.bias
    bias.set_value(bias - 50.0 * (paddle.arange(bias.shape[0]) == net.vocabulary.end).astype("float32"))
    batch = samples.collate([samples[0]])
    outputs = program.eager(*build.predicting(net, SPEC), ("ids", "scores"))(batch)
    metric = Captions(Captions.Config(dict_file=str(made["dict"])))
    (record,) = metric.decode(outputs, batch)
    assert len(record["sentence"].split()) == 3


@pytest.mark.parametrize(
    "keys, message",
    [({"decoder_size": 6}, "must be MODEL.gru_hidden_dim"), ({"beam_size": 40}, "more than the 9 words")],
)
def test_sizes_that_cannot_be_are_refused(made, keys, message):
    with pytest.raises(ConfigError, match=message):
        network(made["dict"], **keys)


def test_the_rate_rises_and_falls_and_has_a_factor():
    solver = SPEC.part("solver")
    rates = []
    for factor in (1.0, 0.5):
        layer = paddle.nn.Linear(1, 1)
        updates = solver(gru_hidden_dim=64, warmup_steps=4, learning_rate=factor).build(layer.parameters())
        rates.append([])
        for _ in range(6):
            rates[-1].append(updates.get_lr())
            updates._learning_rate.step()
    assert rates[0] == pytest.approx([n / 64 if n <= 4 else (64 * n) ** -0.5 for n in range(1, 7)])
    assert rates[1] == pytest.approx([rate / 2 for rate in rates[0]])


# ---- dictionary and reader -----------------------------------------------------------------------


def test_words_to_ids_and_back(tmp_path):
    file = tmp_path / "dict.txt"
    file.write_text("<s> -1\n<e> -1\n\n<unk> -1\na 9\nman 8\n", encoding="utf-8")
    words = Vocabulary(str(file))
    assert len(words) == 5 and words.encode("a tall man") == [3, 2, 4]
    assert words.decode([0, 3, 4, 1, 1]) == "a man" and words.decode([0, 3, 4]) == "a man"
    assert words.decode([0, 1]) == ""
    with pytest.raises(ConfigError, match=r"'</s>' \(MODEL.END\) is not among its 5 words"):
        Vocabulary(str(file), end="</s>")
    with pytest.raises(ConfigError, match=r"none.txt: cannot read the dictionary \(MODEL.dict_file\)"):
        Vocabulary(str(tmp_path / "none.txt"))


def test_a_segment_is_its_rows_and_its_words(made):
    sample = reader(made)[1]  # v0, 0.5 to 3.0 s
    rows = pickle.loads((made["dict"].parent / "v0").read_bytes())
    assert np.array_equal(sample["feat"], rows[2:15]) and sample["feat"].dtype == np.float32
    assert sample["word"].tolist() == [0, *sample["word_next"].tolist()[:-1]]
    assert sample["word_next"][-1] == 1 and sample["sentence"]
    assert "word" not in reader(made, "INFER")[1]


def test_npy_and_pickle_features_are_the_same(made, tmp_path):
    folder = tmp_path / "npy"
    folder.mkdir()
    for i in range(3):
        np.save(folder / f"v{i}.npy", pickle.loads((made["dict"].parent / f"v{i}").read_bytes()))
    pickled, arrays = reader(made), reader(made, feat_path=str(folder))
    for i in range(len(pickled)):
        assert np.array_equal(pickled[i]["feat"], arrays[i]["feat"])


@pytest.mark.parametrize(
    "line, message",
    [
        ("v0 0 1 a man", "odd.list:1: expected 'video<tab>start<tab>end<tab>sentence'"),
        ("v0\tx\t1\ta man", "odd.list:1: expected"),
        ("v0\t-1\t1\ta man", "odd.list:1: expected"),
        ("v0\t0\t1", "odd.list:1: expected"),
    ],
)
def test_a_malformed_line_is_named(made, line, message):
    made["odd"].write_text(line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=message):
        reader(made, filelist=str(made["odd"]))


def test_a_list_for_prediction_needs_no_sentences(made):
    made["odd"].write_text("v0\t0\t1\n\nv1\t1\t2\ta man\n", encoding="utf-8")
    assert len(reader(made, "INFER", filelist=str(made["odd"]))) == 2


@pytest.mark.parametrize(
    "video, content, message",
    [
        ("v9", None, "no features of 'v9' .*odd.list:1.*feat_path"),
        ("v9", pickle.dumps([1]), "v9: expected an array .*, got list"),
        ("v9", pickle.dumps(np.zeros((9, 3), np.float32)), r"expected floating-point numbers \[rows, 4\]"),
        ("v9", b"not a pickle", "not a readable pickle"),
        ("v0", None, r"v0 5-6 s .*odd.list:1.*: no row of the features, which are 20 rows or 4 s"),
    ],
)
def test_features_that_cannot_be_used_are_named(made, video, content, message):
    if content is not None:
        (made["dict"].parent / video).write_bytes(content)
    made["odd"].write_text(f"{video}\t5\t6\ta man\n", encoding="utf-8")
    samples = reader(made, filelist=str(made["odd"]))
    with pytest.raises(DataError, match=message):
        samples[0]


def test_files_given_directly_are_one_segment_or_several(made, tmp_path):
    file = str(made["dict"].parent / "v1")  # 25 rows, 5 s
    whole = reader(made, "INFER", video_path=file)
    assert len(whole) == 1 and len(whole[0]["feat"]) == 25 and whole[0]["end_second"] == 5.0
    chosen = reader(made, "INFER", video_path=file, segments=[[0.0, 2.0], [2.0, 4.5]])
    assert [len(chosen[i]["feat"]) for i in range(len(chosen))] == [10, 13]
    even = reader(made, "INFER", video_path=file, segment_second=2.0)
    assert [(even[i]["start_second"], even[i]["end_second"]) for i in range(len(even))] == [
        *((0.0, 2.0), (2.0, 4.0), (4.0, 5.0))
    ]
    with pytest.raises(DataError, match=r"INFER\.segments: expected"):
        reader(made, "INFER", video_path=file, segments=[[2.0, 1.0]])


# ---- metric and predictions ------------------------------------------------------------------------


def outputs_of(sentences: list[list[int]]) -> dict[str, np.ndarray]:
    """One source, its captions the best first, of up to 4 words."""
    ids = np.array([[([0, *words] + [1] * 5)[:5] for words in sentences]])
    scores = np.repeat(-1.0 - np.arange(len(sentences)), 5).reshape(1, -1, 5)
    return {"ids": ids, "scores": scores.astype(np.float32)}


def segment(video: str, index: int, sentence: str = "") -> dict:
    return {
        "video": [video],
        "index": [index],
        "start_second": [1.0],
        "end_second": [2.5],
        "sentence": [sentence],
    }


def test_captions_are_counted_merged_in_order_and_written(made, tmp_path):
    config = Captions.Config(dict_file=str(made["dict"]))
    ranks = [Captions(config) for _ in range(2)]
    ranks[0].update(outputs_of([[3, 4], [5]]), segment("v0", 0, "a man"))
    ranks[1].update(outputs_of([[3, 5, 6, 7], [5]]), segment("v1", 1, "a dog sits"))
    ranks[0].update(outputs_of([[], [5]]), segment("v0", 2, "a dog"))
    metric = Captions(config)
    metric.merge([rank.state() for rank in ranks])
    values = metric.running()
    assert values == pytest.approx({"score": -1.0, "num_words": 2.0, "exact_match": 100 / 3})
    assert metric.result_with_failures(1) == pytest.approx({"exact_match": 25.0})
    (file,) = metric.write_results(str(tmp_path))
    assert file.name == "ETS_test_res_.json"
    assert json.loads(file.read_text()) == {
        "version": "VERSION 1.0",
        "results": {
            "v0": [
                {"timestamp": [1.0, 2.5], "sentence": "a man"},
                {"timestamp": [1.0, 2.5], "sentence": ""},
            ],
            "v1": [{"timestamp": [1.0, 2.5], "sentence": "a dog runs sits"}],
        },
        "external_data": {},
    }


def test_the_loss_is_weighed_by_words(made):
    metric = Captions(Captions.Config(dict_file=str(made["dict"])))
    assert metric.result() == {}
    metric.update({"loss": np.float32(2.0)}, {"word_length": np.array([3, 1])})
    metric.update({"loss": np.float32(1.0)}, {"word_length": np.array([12])})
    assert metric.result() == pytest.approx({"loss": 1.25})


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, Path]:
    """Recipe and weights."""
    folder = tmp_path_factory.mktemp("ets")
    recipe = ets.tiny(folder)
    argv = [f"--config={recipe}", f"--save_dir={folder}", "--use_gpu=False", "--fix_random_seed=True"]
    assert train.main([*argv, "--valid_interval=0"]) == 0
    return recipe, folder / "ETS"


def test_predictions_of_feature_files_with_pictures(trained, tmp_path, capsys):
    recipe, weights = trained
    argv = [f"--config={recipe}", f"--weights={weights}", f"--save_dir={tmp_path}", "--visualize"]
    folder = recipe.parent / "set"
    assert predict.main([*argv, f"--video_path={folder / 'v1'}", "-o", "INFER.segment_second=2"]) == 0
    results = json.loads((tmp_path / "ETS_infer_result.json").read_text())["results"]
    assert [record["timestamp"] for record in results] == [[0, 2], [2, 4], [4, 5]]
    assert {record["picture"] for record in results} == {"pictures/00000_v1.png"}
    assert (tmp_path / "pictures" / "00000_v1.png").read_bytes().startswith(b"\x89PNG")
    assert all(len(r["candidates"]) == 2 and r["candidates"][0]["sentence"] == r["sentence"] for r in results)
    short = json.loads((tmp_path / "ETS_infer_res_.json").read_text())["results"]
    (video,) = short
    assert [entry["sentence"] for entry in short[video]] == [record["sentence"] for record in results]
    assert "4-5 s:" in capsys.readouterr().out


def test_a_segment_without_features_is_an_error_record(trained, tmp_path):
    recipe, weights = trained
    listed = tmp_path / "some.list"
    listed.write_text("v0\t0\t1\nv0\t50\t60\nv7\t0\t1\n", encoding="utf-8")
    argv = [f"--config={recipe}", f"--weights={weights}", f"--save_dir={tmp_path}"]
    assert predict.main([*argv, f"--filelist={listed}"]) == 1
    results = json.loads((tmp_path / "ETS_infer_result.json").read_text())["results"]
    assert ["error" in record for record in results] == [False, True, True]
    assert list(json.loads((tmp_path / "ETS_infer_res_.json").read_text())["results"]) == ["v0"]


def test_all_paths_write_the_same_captions(trained):
    recipe, weights = trained
    sections = load_yaml(recipe)
    net = build.network(SPEC, sections, "INFER", str(recipe))
    checkpoint.load_weights(net, str(weights))
    samples = build.reader(SPEC, sections, "INFER", str(recipe))
    called, row = build.predicting(net, SPEC)
    paths = [program.eager(called, row, row.outputs), program.OneDNN(called, row)]
    for chosen in ([0], [1, 2, 3], [4, 0]):  # other batches, other lengths
        batch = samples.collate([samples[i] for i in chosen])
        found = [path({name: batch[name] for name in row.inputs}) for path in paths]
        for name in row.outputs:
            assert program.difference(found[1][name], found[0][name]) < 1e-5
    assert paths[1].agrees


def test_many_captions_at_once_are_the_predictors_and_few_are_eager(trained, caplog):
    recipe, _ = trained
    sections = load_yaml(recipe)
    net = build.network(SPEC, sections, "INFER", str(recipe))
    samples = build.reader(SPEC, sections, "INFER", str(recipe))
    called, row = build.predicting(net, SPEC)
    with caplog.at_level("INFO"):
        infer = program.inference(called, row, on_gpu=False, to_static=False)
        for number, built in ((row.onednn_from - 1, False), (row.onednn_from, True)):
            batch = samples.collate([samples[i % len(samples)] for i in range(number)])
            infer({name: batch[name] for name in row.inputs})
            assert ("inference path: oneDNN predictor (agrees" in caplog.text) == built
