"""Published file formats: Fluid's .pdparams/.pdopt and one-file-per-variable folders, by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.conformance import filling
from tests.conformance.cases import Case, assert_close, read_json, sections_of
from utils import build, checkpoint, fluid_file, safe_pickle


def _values(file: Path) -> dict[str, np.ndarray]:
    arrays = np.load(file)
    return {name: arrays[name] for name in arrays.files}


def test_every_recorded_file_reads_to_its_values(conformance_dir: Path) -> None:
    """Also of models that are still to come: the format is one."""
    folder = conformance_dir / "networks" / "checkpoints"
    if not folder.is_dir():
        pytest.fail(f"{folder} does not exist")
    files = 0
    for base in sorted(path for path in folder.iterdir() if path.is_dir()):
        values = _values(base / "values.npz")
        for file in sorted([*base.glob("*.pdparams"), *base.glob("*.pdopt")]):
            state = safe_pickle.load(file, encoding="latin1")
            for name, value in state.items():
                assert name in values, f"{file.name}: {name}"
                assert np.array_equal(np.asarray(value), values[name]), f"{file.name}: {name}"
            files += 1
        for variables in sorted(path for path in base.iterdir() if path.is_dir()):
            later = base / f"{variables.name}.values.npz"
            expected = _values(later) if later.is_file() else values
            for name, value in fluid_file.read_folder(variables).items():
                assert np.array_equal(value, expected[name]), f"{variables.name}/{name}"
            files += 1
    assert files


def test_checkpoint(checkpoints_case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case = checkpoints_case
    if case.name.startswith("pretrain_"):
        _pretrain_case(case)
    elif (case.folder / f"{case.name}.pdparams").is_file():
        monkeypatch.chdir(case.folder.parents[1])
        _checkpoint_case(case)
    else:
        assert checkpoint.read_weights(str(case.folder / case.name))


def _pretrain_case(case: Case) -> None:
    """What --pretrain makes of a folder: the recorded parameters change, the others stay."""
    described = read_json(case.folder / f"{case.name}.json")
    sections, file = sections_of(case, {**described, "config": case.spec.config})
    network = build.network(case.spec, sections, "TRAIN", file)
    before = checkpoint.network_state(network)
    report = checkpoint.load_pretrained(network, str(case.folder / "ResNet50_partial"))
    after = checkpoint.network_state(network)
    expected = _values(case.folder / f"{case.name}.npz")
    assert sorted(report.loaded) == sorted(described["changed"])
    for name, value in after.items():
        wanted = expected[name] if name in described["changed"] else before[name]
        assert np.allclose(value, wanted, rtol=1e-6, atol=0), name


def _checkpoint_case(case: Case) -> None:
    """Recorded weights give the recorded inference; with the optimizer, the recorded next losses."""
    described = read_json(case.folder / "info.json")
    sections, file = sections_of(case, described)
    prefix = str(case.folder / case.name)
    network = build.network(case.spec, sections, "INFER", file)
    checkpoint.load_weights(network, f"{prefix}.pdparams")
    network.eval()
    assert_resumes(case, described, sections, file, prefix)


def assert_resumes(case: Case, described: dict, sections: dict, file: str, prefix: str) -> None:
    import paddle

    from utils import optimizer

    network = build.network(case.spec, sections, "TRAIN", file)
    solver = build.solver(case.spec, sections, file)
    with paddle.utils.unique_name.guard():
        updates = solver.build(network.parameters())
        checkpoint.load_weights(network, f"{prefix}.pdparams")
        checkpoint.load_optimizer(updates, prefix, solver.counter_begin)
        batch = {
            item["name"]: paddle.to_tensor(filling.make_input("small_train3", item))
            for item in described["train_inputs"]
        }
        for expected in described["train_losses_steps_3_4_after_saving"]:
            losses = network.loss(network(*(batch[name] for name in case.spec.inputs)), batch)
            assert_close(float(losses["loss"]), expected, 1e-5, "loss after resuming")
            losses["loss"].backward()
            updates.step()
            updates.clear_grad()
            optimizer.advance(updates)
