"""Make ``tests/golden``: the part of a conformance folder that travels with the project.

``python -m tests.conformance.subset --conformance-dir DIR`` copies small cases and generated data only:
no real clip and no real annotation. Lists lose the lines of what is left behind, and recorded cases the
samples that belong to them. Extend ``KEPT`` for a new model; the whole stays below 3 MB.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np

from tests.conformance.cases import ROOT, read_json

GOLDEN = ROOT / "tests" / "golden"
LIMIT_BYTES = 3_000_000

KEPT = {
    "networks": {
        "TSN": (
            *("small_infer_b2", "small_valid_b2", "small_test_b2", "small_valid_ignore"),
            *("small_train3", "small_infer_seglen2", "lr", "lr2"),
        ),
        "ATTENTIONCLUSTER": (
            "small_infer_b2",
            "small_valid_b3",
            "small_train3",
            "small_train3_dropout",
            "lr",
        ),
        "NEXTVLAD": ("small_infer_b3", "small_valid_b3", "small_train3", "small_train3_dropout", "lr"),
        "TSM": ("small_infer_seg4", "small_test_b2", "small_train3_dropout", "lr"),
        "STNET": ("small_infer_b2", "small_test_b2", "lr"),
        "NONLOCAL": ("valid_b2_t4", "test_b1_t4", "infer_i3d50_t4", "infer_affine_t8", "lr"),
        "ATTENTIONLSTM": (
            *("small_infer_b3", "small_infer_1feature", "small_valid_b3"),
            *("small_train3", "small_train3_dropout", "lr"),
        ),
        "TALL": (
            *("small_infer_b2", "small_valid_b5", "small_train3", "small_train3_clip"),
            *("lr", "lr_clip"),
        ),
        "BMN": (
            *("small_infer_dscale8", "small_test_b2", "small_valid_b2_random"),
            *("small_train3", "small_train3_random", "lr"),
        ),
        "BSNTEM": ("small_infer_b2", "small_valid_zero_pos", "small_train3", "lr"),
        "BSNPEM": ("infer_b1", "valid_b2_random", "valid_b2_manyhigh", "train3_random", "small_train3", "lr"),
        "CTCN": ("small_infer_b2", "small_valid_b2", "small_train3", "lr"),
        "VIDEOTAG_ATTENTIONLSTM": ("small_infer_b3", "small_train3", "lr"),
        "ETS": (
            *("small_infer_b3", "small_infer_b3_beam1", "small_infer_b2_endearly", "small_test_b2"),
            *("small_valid_b3", "small_train3", "small_train3_clip", "lr"),
        ),
    },
    "checkpoints": {
        "TSN": (
            *("info.json", "values.npz", "ResNet50_partial", "pretrain_TSN.json", "pretrain_TSN.npz"),
            *("pretrain_STNET.json", "pretrain_STNET.npz"),
            *("pretrain_NONLOCAL.json", "pretrain_NONLOCAL.npz"),
        ),
        "TALL": None,  # everything
        "BSNPEM": None,
    },
    "readers": (
        *("tsn_mp4_infer", "tsn_mp4_test_seg7", "tsn_mp4_bad", "tsn_mp4_infer_video_path_bad"),
        *("tsn_pkl_infer", "tsn_pkl_test_seg7", "tsn_pkl_bad", "tsn_filelist_missing"),
        *("nonlocal_infer", "nonlocal_train_crop_equals_scale"),
        *("attentioncluster_audio_short", "attentioncluster_test", "nextvlad_infer"),
        "stnet_mp4_test_seg25",
        *("tall_train_ctx2", "tall_infer", "tall_valid"),
        *("ets_infer", "ets_test"),
        *("vt_attentionlstm_missing_npy", "vt_tsn_frames_valid"),
    ),
    "metrics": (
        *("kinetics_infer", "kinetics_lt5classes", "kinetics_tsn_train", "kinetics_tsn_valid"),
        *("kinetics_tsm_test", "kinetics_stnet_test"),
        *("nonlocal_infer", "nonlocal_test_full", "nonlocal_test_missing_and_repeated", "nonlocal_valid"),
        *("y8m_attentioncluster_test_top20", "y8m_infer", "y8m_nextvlad_valid_top20_ties"),
        *("tall_infer", "tall_test", "tall_valid"),
        "vt_attentionlstm_infer",
        *("ets_infer", "ets_test", "ets_valid"),
    ),
    "data": ("ets", "kinetics", "nonlocal", "youtube8m", "video_tag", "tall"),
}
LEFT_BEHIND = (
    "real_",
    "pkl/gen_fast",
    "pkl/gen_odd",
    "features/3",
    "features/4",
    "features/5",
)  # real clips, and what is large


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--conformance-dir", type=Path, required=True)
    source = parser.parse_args().conformance_dir
    shutil.rmtree(GOLDEN, ignore_errors=True)
    _networks(source / "networks", GOLDEN / "networks")
    _checkpoints(source / "networks" / "checkpoints", GOLDEN / "networks" / "checkpoints")
    shutil.copytree(source / "io" / "cli", GOLDEN / "io" / "cli")
    for name in KEPT["data"]:
        _data(source / "io" / "data" / name, GOLDEN / "io" / "data" / name)
    for name in KEPT["readers"]:
        _reader_case(source / "io", GOLDEN / "io", name)
    for name in KEPT["metrics"]:
        shutil.copytree(source / "io" / "metrics" / name, GOLDEN / "io" / "metrics" / name)
    shutil.copy(source / "io" / "metrics" / "multicrop_gt.txt", GOLDEN / "io" / "metrics")
    for area in ("readers", "metrics"):
        _write(GOLDEN / "io" / area / "manifest.json", {"cases": list(KEPT[area])})
    size = sum(file.stat().st_size for file in GOLDEN.rglob("*") if file.is_file())
    print(f"{GOLDEN}: {size / 1e6:.2f} MB")
    if size > LIMIT_BYTES:
        raise SystemExit(f"more than {LIMIT_BYTES / 1e6:.0f} MB: keep fewer or smaller cases")


def _write(file: Path, value: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


def _networks(source: Path, target: Path) -> None:
    for model, names in KEPT["networks"].items():
        manifest = read_json(source / model / "manifest.json")
        cases = {name: manifest["cases"][name] for name in names}
        _write(target / model / "manifest.json", {**manifest, "cases": cases})
        files = ["parameters.json", *(path.name for path in (source / model).glob("*.npy"))]
        files += [path.name for path in (source / model).glob("dict_12.txt")]
        for case in cases.values():
            files += [case[key] for key in ("file", "parameters_file") if key in case]
        for file in files:
            shutil.copy(source / model / file, target / model / file)


def _checkpoints(source: Path, target: Path) -> None:
    for model, names in KEPT["checkpoints"].items():
        for name in names or [path.name for path in (source / model).iterdir()]:
            (target / model).mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (source / model / name).is_dir() else shutil.copy
            copy(source / model / name, target / model / name)


def _data(source: Path, target: Path) -> None:
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        inside = file.relative_to(source)
        if file.suffix == ".md" or any(part in str(inside) for part in LEFT_BEHIND):
            continue
        (target / inside).parent.mkdir(parents=True, exist_ok=True)
        if file.suffix in (".list", ".txt"):
            kept = [line for line in file.read_text().splitlines() if not _left_behind(line)]
            (target / inside).write_text("\n".join(kept) + "\n")
        else:
            shutil.copy(file, target / inside)


def _left_behind(line: str) -> bool:
    return any(part in line for part in LEFT_BEHIND)


def _reader_case(source: Path, target: Path, name: str) -> None:
    """A case of one sample a batch, without the samples of what was left behind.

    A case whose files hold many records each, whose lists name segments, or that has no list, is copied as it
    is.
    """
    described = read_json(source / "readers" / f"{name}.json")
    listed = described["overrides"][described["mode"].upper()].get("filelist", "")
    if not listed or listed.startswith("ets/") or "youtube8m" in listed:
        if "npz" in described:
            shutil.copy(source / "readers" / described["npz"], _made(target / "readers"))
        described.pop("config", None)
    elif described.get("batches"):
        mode = described["mode"].upper()
        keys = described["overrides"][mode]
        log = " ".join(line[2] for line in described["log"])
        lines = (source / "data" / keys["filelist"]).read_text().splitlines()
        lines = [line for line in lines if line.split()[0] not in log]
        recorded = [sample for batch in described["batches"] for sample in batch["samples"]]
        if "stopped_after" in described:
            lines = lines[: len(recorded)]
        if "error" not in described and len(lines) - len(recorded) >= keys["batch_size"]:
            raise SystemExit(f"{name}: {len(recorded)} samples recorded for {len(lines)} lines")
        pairs = zip(lines, recorded, strict=False)
        kept = [sample for line, sample in pairs if not _left_behind(line)]
        arrays = np.load(source / "readers" / described["npz"])
        used = {field["key"]: arrays[field["key"]] for s in kept for field in s if "key" in field}
        np.savez_compressed(_made(target / "readers") / described["npz"], **used)
        batches = [{"epoch": 0, "size": 1, "samples": [sample]} for sample in kept]
        overrides = {**described["overrides"], mode: {**keys, "batch_size": 1}}
        # One sample that 2019 dropped with its partial batch may be left over.
        described = {**described, "batches": batches, "overrides": overrides, "stopped_after": len(batches)}
        described.pop("config", None)
    _write(target / "readers" / f"{name}.json", described)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


if __name__ == "__main__":
    main()
