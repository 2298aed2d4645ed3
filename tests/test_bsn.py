"""BSN: losses of odd batches, proposal generation against plain loops, its files, readers, and the chain."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

import eval as eval_script
import predict
import train
from metrics.activitynet import generation
from models.bsn_pem import BsnPem
from models.bsn_tem import BsnTem
from reader.bsn_reader import BsnPemReader, BsnTemReader
from tests.conftest import ROOT
from tests.recipes import bsn_pem, bsn_tem
from utils import checkpoint, files, safe_pickle, tables
from utils.errors import DataError, OutputError

STEPS = 12


# ---- networks --------------------------------------------------------------------------------------


def built(network: type, **sizes) -> paddle.nn.Layer:
    with paddle.utils.unique_name.guard():
        return network(network.Config(hidden_dim=3, **sizes))


def tem_batch(targets: dict[str, float]) -> dict[str, paddle.Tensor]:
    shape = [2, STEPS]
    return {f"gt_{name}": paddle.full(shape, targets.get(name, 0.0)) for name in ("start", "end", "action")}


@pytest.mark.parametrize("action", [0.0, 1.0])
def test_a_batch_of_one_kind_of_snippet_has_a_loss_and_a_gradient(action):
    network = built(BsnTem, feat_dim=4)
    outputs = network(paddle.randn([2, 4, STEPS]))
    losses = network.loss(outputs, tem_batch({"action": action}))
    losses["loss"].backward()
    probability = outputs["pred_tem"].numpy()[:, 2]
    n = probability.size
    of_one = 0.5 * -np.log(probability + 1e-6).mean()
    of_zero = 0.5 * n / (n + 1) * -np.log(1 - probability + 1e-6).mean()
    assert float(losses["action_loss"]) == pytest.approx(of_one if action else of_zero, rel=1e-5)
    assert all(np.isfinite(p.grad.numpy()).all() for p in network.parameters())
    total = sum(float(losses[f"{name}_loss"]) for name in ("start", "end", "action"))
    assert float(losses["loss"]) == pytest.approx(total, rel=1e-6)


def pem_loss(iou: list[float]) -> tuple[float, np.ndarray]:
    """The loss of one video's proposals, and the gradient of the layer that is used."""
    paddle.seed(0)
    network = built(BsnPem, feat_dim=4)
    outputs = network(paddle.randn([1, len(iou), 4]))
    loss = network.loss(outputs, {"gt_iou": paddle.to_tensor([iou])})["loss"]
    loss.backward()
    assert all(p.grad is None for p in network.unused.parameters())
    return float(loss), network.overlap.weight.grad.numpy()


def test_without_a_proposal_of_high_overlap_nothing_is_learned():
    loss, gradient = pem_loss([0.1, 0.4, 0.5, 0.0])  # NaN in 2019
    assert loss == 0.0 and not gradient.any()


@pytest.mark.parametrize("iou", [[0.9, 0.8, 0.1], [0.9, 0.4, 0.5], [0.9, 0.7]])
def test_an_empty_tier_of_overlap_is_no_harm(iou):
    loss, gradient = pem_loss(iou)
    assert loss > 0 and np.isfinite(loss) and np.isfinite(gradient).all() and gradient.any()


def test_the_layer_that_2019_never_used_is_saved_and_not_trained(tmp_path):
    recipe = bsn_pem.tiny(tmp_path)
    argv = [f"--config={recipe}", "--use_gpu=False", "--pretrain=none", "--fix_random_seed=True"]
    for epochs in (0, 2):
        train.main([*argv, f"--save_dir={tmp_path / str(epochs)}", f"--epoch={epochs}"])
    before, after = (safe_pickle.load(tmp_path / str(n) / "BsnPem.pdparams") for n in (0, 2))
    assert list(before) == list(after) == ["fc_0.w_0", "fc_0.b_0", "fc_1.w_0", "fc_1.b_0"]
    changed = [name for name in before if not np.array_equal(before[name], after[name])]
    assert changed == ["fc_1.w_0", "fc_1.b_0"]
    states = safe_pickle.load(tmp_path / "2" / "BsnPem.pdopt")
    assert not [name for name in states if name.startswith("fc_0")]


def test_weights_of_other_features_keep_their_layer():
    network = built(BsnTem, feat_dim=4)
    state = {name: np.array(value) for name, value in checkpoint.network_state(network).items()}
    other = built(BsnTem, feat_dim=5).adapt_pretrained(state)
    assert sorted(set(state) - set(other)) == ["Base_1.w_0"]


# ---- proposal generation ---------------------------------------------------------------------------


def loops(curves: dict[str, np.ndarray], settings: generation.Config) -> tuple[list, list]:
    """Candidates by falling score, and the features of each, one number at a time."""
    start, end, action = (curves[name] for name in generation.CURVES)
    length = len(start)

    def likely(values: np.ndarray, forced: int) -> list[int]:
        found = []
        for i, value in enumerate(values):
            before = values[i - 1] if i else 0.0
            after = values[i + 1] if i + 1 < length else 0.0
            high = value > settings.pgm_threshold * max(values)
            if i == forced or high or (value > before and value > after):
                found.append(i)
        return found

    rows = [
        (a / length, (b + 1) / length, start[a], end[b])
        for a in likely(start, 0)
        for b in likely(end, length - 1)
        if b >= a
    ]
    rows.sort(key=lambda row: -row[2] * row[3])

    def value_at(time: float) -> float:
        place = time * length - 0.5  # 0 is the middle of the first step
        left = int(np.floor(place))
        inside = [action[i] if 0 <= i < length else 0.0 for i in (left, left + 1)]
        return inside[0] + (place - left) * (inside[1] - inside[0])

    def bins(low: float, high: float, number: int) -> list[float]:
        width, fine = (high - low) / (number - 1), settings.num_sample_perbin
        means = []
        for i in range(number):
            first = low + (i - 0.5) * width
            means.append(np.mean([value_at(first + j * width / fine) for j in range(fine + 1)]))
        return means

    features = []
    for low, high, _, _ in rows:
        beyond = (high - low) * settings.bsp_boundary_ratio
        features.append(
            bins(low, high, settings.num_sample_action)
            + bins(low - beyond, low + beyond, settings.num_sample_start)
            + bins(high - beyond, high + beyond, settings.num_sample_end)
        )
    return rows, features


def random_curves(seed: int, length: int = STEPS) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.uniform(0.01, 1.0, length) for name in generation.CURVES}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "changed", [{}, {"bsp_boundary_ratio": 0.4, "num_sample_perbin": 2, "pgm_threshold": 0.9}]
)
def test_generation_is_that_of_plain_loops(seed, changed):
    settings = generation.Config(num_sample_start=3, num_sample_end=4, num_sample_action=5, **changed)
    curves = random_curves(seed)
    rows, features = loops(curves, settings)
    table, values = generation.generate(curves, np.zeros((0, 2)), len(rows), "v", settings)
    assert list(table) == list(generation.COLUMNS)
    got = np.stack([table[name] for name in generation.COLUMNS[:4]], axis=1)
    assert np.allclose(got, rows, rtol=0, atol=1e-12)
    assert np.allclose(values, features, rtol=0, atol=1e-12) and values.shape == (len(rows), 12)


def test_padding_depends_on_the_video_alone_and_repeats_nothing():
    settings, curves = generation.Config(pgm_threshold=0.95), random_curves(0)
    candidates = generation.propose(curves["start"], curves["end"], 0.95)
    every = STEPS * (STEPS + 1) // 2
    assert len(candidates) < every
    make = lambda video, number: generation.generate(curves, np.zeros((0, 2)), number, video, settings)[0]  # noqa: E731
    one, again, other = make("v_1", every), make("v_1", every), make("v_2", every)
    windows = [tuple(row) for row in np.stack([one["xmin"], one["xmax"]], axis=1)]
    assert len(set(windows)) == every
    assert np.array_equal(np.stack([one[n] for n in generation.COLUMNS], 1)[: len(candidates)], candidates)
    assert all(np.array_equal(one[name], again[name]) for name in one)
    fewer = [make(video, len(candidates) + 5)["xmin"][len(candidates) :] for video in ("v_1", "v_2")]
    assert not np.array_equal(*fewer) and sorted(other["xmin"]) == sorted(one["xmin"])
    more = make("v_1", every + 3)  # no window is left: from the first on
    assert [more["xmin"][i] for i in range(every, every + 3)] == list(more["xmin"][:3])


def test_overlaps_are_of_the_best_action():
    actions = np.array([[0.0, 0.5], [0.25, 1.0]])
    table, _ = generation.generate(random_curves(1), actions, 6, "v", generation.Config())
    for i in range(6):
        low, high = table["xmin"][i], table["xmax"][i]
        common = [max(0.0, min(high, b) - max(low, a)) for a, b in actions]
        unions = [high - low + b - a - c for (a, b), c in zip(actions, common, strict=True)]
        assert table["match_iou"][i] == pytest.approx(max(c / u for c, u in zip(common, unions, strict=True)))
        assert table["match_ioa"][i] == pytest.approx(max(common) / (high - low))


@pytest.fixture
def made(tmp_path):
    """Three jobs, their settings, and the folders of their results."""
    settings = generation.Config(pgm_top_K=9, pgm_top_K_train=5)
    for i in range(3):
        tables.write_csv(tmp_path / "curves" / f"v_{i}.csv", random_curves(i))
    about = [(f"v_{i}", "training" if i == 0 else "validation", np.zeros((0, 2))) for i in range(3)]
    jobs = generation.jobs(tmp_path / "curves", about, settings)
    return jobs, settings, tmp_path / "proposals", tmp_path / "features"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_generation_goes_on_where_it_stopped(made):
    jobs, settings, proposals, features = made

    def run(settings=settings, **flags):
        return generation.generate_all(jobs, settings, proposals, features, 1, **flags)

    assert run() == (3, []) and run() == (0, [])
    assert [len(np.load(features / f"v_{i}.npy")) for i in range(3)] == [5, 9, 9]
    first = contents(proposals)
    (proposals / "v_1.csv").unlink()
    assert run() == (1, []) and contents(proposals) == first
    later = os.stat(features / "v_2.npy").st_mtime + 10
    os.utime(jobs[2].curves, (later, later))  # newer curves
    assert run() == (1, [])
    os.utime(jobs[2].curves, (0, 0))
    assert run(again=True) == (3, [])
    other = settings.model_copy(update={"bsp_boundary_ratio": 0.1})
    assert run(other) == (3, []) and run(other) == (0, [])


def test_whatever_stops_generation_leaves_whole_files(made, monkeypatch):
    jobs, settings, proposals, features = made
    write, left = files.write_atomic, [4]  # settings, two files of v_0, one of v_1

    def full(path, data, same_as=None):
        if not left[0]:
            raise OutputError(f"{path}: cannot write")
        left[0] -= 1
        write(path, data, same_as)

    monkeypatch.setattr(files, "write_atomic", full)
    with pytest.raises(OutputError):
        generation.generate_all(jobs, settings, proposals, features, 1)
    monkeypatch.undo()
    assert sorted(path.name for path in features.iterdir()) == ["v_0.npy", "v_1.npy"]
    assert generation.generate_all(jobs, settings, proposals, features, 1) == (2, [])
    assert [len(np.load(features / f"v_{i}.npy")) for i in range(3)] == [5, 9, 9]


def test_processes_make_what_one_makes(made, monkeypatch, tmp_path):
    jobs, settings, proposals, features = made
    generation.generate_all(jobs, settings, proposals, features, 1)
    monkeypatch.setattr(generation, "FEWEST", 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    both = tmp_path / "both proposals", tmp_path / "both features"
    assert generation.generate_all(jobs, settings, *both, 2) == (3, [])
    assert (contents(proposals), contents(features)) == (contents(both[0]), contents(both[1]))


def test_damaged_curves_are_named_and_the_others_made(made):
    jobs, settings, proposals, features = made
    jobs[1].curves.write_text("start,end,action\n0.1,nan,0.2\n", encoding="utf-8")
    jobs[2].curves.write_text("start,end\n0.1,0.2\n", encoding="utf-8")
    number, failed = generation.generate_all(jobs, settings, proposals, features, 1)
    assert number == 1 and len(failed) == 2
    assert "v_1.csv" in failed[0] and "not finite" in failed[0]
    assert "v_2.csv" in failed[1] and "'action'" in failed[1]


# ---- readers ---------------------------------------------------------------------------------------


def test_boundaries_are_regions_of_at_least_a_step(tmp_path):
    recipe = bsn_tem.tiny(tmp_path)
    folder = recipe.parent
    places = {"anno_file": str(folder / "annotations.json"), "feat_path": str(folder / "features")}
    config = BsnTemReader.Config(tscale=STEPS, feat_dim=8, subset="training", **places)
    reader = BsnTemReader(config, "TRAIN")
    about = json.loads((folder / "annotations.json").read_text())
    sample = reader[0]
    seconds = about["v_00"]["duration_second"]
    edges = np.arange(STEPS + 1) / STEPS
    for name in ("start", "end", "action"):
        regions = []
        for one in about["v_00"]["annotations"]:
            low, high = (time / seconds for time in one["segment"])
            width = max(1 / STEPS, 0.1 * (high - low))
            middle = {"start": low, "end": high}.get(name)
            regions.append((low, high) if middle is None else (middle - width / 2, middle + width / 2))
        for i in range(STEPS):
            parts = [max(0.0, min(edges[i + 1], b) - max(edges[i], a)) * STEPS for a, b in regions]
            assert sample[f"gt_{name}"][i] == pytest.approx(max(parts), abs=1e-6), (name, i)
    assert not any(reader[3][f"gt_{name}"].any() for name in ("start", "end", "action"))  # no action


@pytest.fixture
def pem(tmp_path):
    bsn_pem.tiny(tmp_path)

    def reader(mode: str = "TEST", **changed) -> BsnPemReader:
        fields = {
            "feat_dim": 8,
            "top_K": 10,
            "anno_file": str(tmp_path / "annotations.json"),
            "feat_path": str(tmp_path / "PGM_feature"),
            "prop_path": str(tmp_path / "PGM_proposals"),
            "subset": "validation",
            "filelist": str(tmp_path / "infer.list"),
        }
        return BsnPemReader(BsnPemReader.Config(**{**fields, **changed}), mode)

    return reader


def rewrite(file: Path, change) -> None:
    with file.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.reader(lines))
    file.write_text("".join(",".join(row) + "\n" for row in change(rows)), encoding="utf-8")


def test_proposals_are_the_first_of_both_files(pem, tmp_path):
    sample = pem()[0]
    table = tables.read_csv(tmp_path / "PGM_proposals" / "v_08.csv", ("xmin", "xmax", "match_iou"))
    assert np.allclose(sample["gt_iou"], table["match_iou"][:10])
    assert np.allclose(sample["props_info"][:, 1], table["xmax"][:10]) and sample["props_info"].shape == (
        10,
        4,
    )
    assert np.allclose(sample["feat"], np.load(tmp_path / "PGM_feature" / "v_08.npy")[:10])
    assert "gt_iou" not in pem("INFER")[0] and "props_info" not in pem("TRAIN", subset="training")[0]


def test_overlaps_that_stage_1_did_not_write_are_computed(pem, tmp_path):
    expected = pem()[0]["gt_iou"]
    rewrite(tmp_path / "PGM_proposals" / "v_08.csv", lambda rows: [row[:5] for row in rows])
    assert np.allclose(pem()[0]["gt_iou"], expected, atol=1e-6) and expected.any()
    assert not pem()[2]["gt_iou"].any()  # a video without actions


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("PGM_proposals/v_08.csv", Path.unlink, "v_08.csv: no such proposals of v_08"),
        ("PGM_feature/v_08.npy", Path.unlink, "v_08.npy: no such features of v_08"),
        ("PGM_proposals/v_08.csv", lambda f: rewrite(f, lambda rows: rows[:20]), "19 proposals, but 40 rows"),
        ("PGM_feature/v_08.npy", lambda f: np.save(f, np.zeros((40, 7))), r"\(40, 7\), expected \(T, 8\)"),
        (
            "PGM_proposals/v_08.csv",
            lambda f: rewrite(f, lambda rows: [row[1:] for row in rows]),
            "no column 'xmin'",
        ),
    ],
)
def test_what_is_wrong_with_a_video_is_said_by_name(pem, tmp_path, file, change, message):
    change(tmp_path / file)
    reader = pem()
    with pytest.raises(DataError, match=message):
        reader[0]
    assert reader[1]["video"] == "v_09"


def test_too_few_proposals_say_what_to_do(pem):
    with pytest.raises(DataError, match=r"got 40 proposals, expected 41 \(TEST.top_K\).*pgm_top_K"):
        pem(top_K=41)[0]


def test_the_number_of_proposals_may_stand_in_the_model_section(tmp_path):
    recipe = bsn_pem.tiny(tmp_path, MODEL={"top_K": 7})
    argv = [f"--config={recipe}", "--use_gpu=False", f"--save_dir={tmp_path}"]
    train.main([*argv, "--pretrain=none", "--epoch=0"])
    assert eval_script.main([*argv, f"--weights={tmp_path / 'BsnPem'}"]) == 0
    with (tmp_path / "PEM_results" / "v_08.csv").open(encoding="utf-8") as lines:
        assert len(lines.readlines()) == 1 + 7


# ---- scripts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("save_dir", [True, False])
def test_stage_1_writes_the_files_of_2019(tmp_path, save_dir, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = bsn_tem.tiny(tmp_path)
    argv = [f"--config={recipe}", "--use_gpu=False"]
    train.main([*argv, "--pretrain=none", "--epoch=0", f"--save_dir={tmp_path / 'trained'}"])
    argv += [f"--weights={tmp_path / 'trained' / 'BsnTem'}"]
    assert eval_script.main([*argv, f"--save_dir={tmp_path / 'out'}"] if save_dir else argv) == 0
    out = tmp_path / ("out" if save_dir else "eval")
    names = [f"v_{i:02d}" for i in range(15)]
    for folder, suffix in (("TEM_results", "csv"), ("PGM_proposals", "csv"), ("PGM_feature", "npy")):
        assert sorted(path.stem for path in (out / folder).glob(f"v_*.{suffix}")) == names
    head = (out / "PGM_proposals" / "v_00.csv").read_text(encoding="utf-8").splitlines()[0]
    assert head == "xmin,xmax,xmin_score,xmax_score,score,match_iou,match_ioa"
    head = (out / "PGM_proposals" / "v_03.csv").read_text(encoding="utf-8").splitlines()[0]
    assert head == "xmin,xmax,xmin_score,xmax_score,score"  # nothing is annotated


def test_the_chain_is_its_commands(tmp_path):
    """Training both stages and evaluation, then prediction of a plain list of names."""
    (tmp_path / "tem").mkdir(), (tmp_path / "pem").mkdir()
    tem, pem = bsn_tem.tiny(tmp_path / "tem"), bsn_pem.tiny(tmp_path / "pem")
    script = str(ROOT / "data" / "dataset" / "bsn" / "chain.py")
    flags = [f"--tem_config={tem}", f"--pem_config={pem}", f"--save_dir={tmp_path}", "--use_gpu=False"]
    chain = lambda *argv: subprocess.run(  # noqa: E731
        [sys.executable, script, *argv, *flags], capture_output=True, text=True, timeout=300
    )
    done = chain("train", "--seed=1")
    assert done.returncode == 0, done.stderr[-2000:]
    commands = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("python ")]
    assert commands == ["train.py", "eval.py", "train.py", "eval.py"]
    report = json.loads((tmp_path / "eval" / "BsnPem_eval_result.json").read_text(encoding="utf-8"))
    assert report["num_samples"] == 7 and "AUC" in report["result"]
    by_hand = tmp_path / "by hand"  # the second stage alone, on the same proposals
    argv = [f"--config={pem}", "--use_gpu=False", f"--save_dir={by_hand}"]
    argv += [f"--weights={tmp_path}/train/BsnPem", "-o", f"MODEL.feat_path={tmp_path}/eval/PGM_feature"]
    assert eval_script.main([*argv, f"MODEL.prop_path={tmp_path}/eval/PGM_proposals"]) == 0
    name = "bsn_results_validation.json"
    assert (by_hand / name).read_bytes() == (tmp_path / "eval" / name).read_bytes()
    (tmp_path / "names.list").write_text("v_09\nv_08\n", encoding="utf-8")
    done = chain("predict", f"--filelist={tmp_path / 'names.list'}")
    assert done.returncode == 0, done.stderr[-2000:]
    records = json.loads((tmp_path / "predict" / "BsnPem_infer_result.json").read_text(encoding="utf-8"))
    assert [record["video"] for record in records["results"]] == ["v_09", "v_08"]
    broken = chain("predict", f"--filelist={tmp_path / 'none.list'}")
    assert broken.returncode == 2 and "none.list" in broken.stderr


def test_predictions_of_stage_2_from_files_of_proposals(tmp_path):
    recipe = bsn_pem.tiny(tmp_path, MODEL={"top_K": 20})
    argv = [f"--config={recipe}", "--use_gpu=False", f"--save_dir={tmp_path}"]
    train.main([*argv, "--pretrain=none", "--epoch=0"])
    argv += [f"--weights={tmp_path / 'BsnPem'}", f"--video_path={tmp_path / 'PGM_proposals' / 'v_0[12].csv'}"]
    assert predict.main([*argv, "--visualize"]) == 0
    records = json.loads((tmp_path / "BsnPem_infer_result.json").read_text(encoding="utf-8"))["results"]
    assert [record["video"] for record in records] == ["v_01", "v_02"]
    assert records[0]["proposals"] and len(list((tmp_path / "pictures").iterdir())) == 2
