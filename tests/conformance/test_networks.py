"""Names, shapes, forward values, losses, gradients, optimizer steps and rates of every network."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import ParamAttr

from models.common import proposals
from tests.conformance import filling
from tests.conformance.captions import compare_search
from tests.conformance.cases import Case, assert_close, assert_stored, read_json, sections_of, stored
from tests.conformance.tolerances import ZERO_GRADIENT, tolerance
from utils import build, device, engine, optimizer
from utils.config import resolve

FEEDS = {"data": "image"}  # name in 2019 -> ours
SAMPLE_ID = "fileid"  # of the localisers
DRAWN = "uniform_random:"  # a random tensor that was fetched, too


def test_network(networks_case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case = networks_case
    described = read_json(case.folder / "manifest.json")["cases"][case.name]
    arrays = np.load(case.folder / described["file"])
    monkeypatch.chdir(case.folder.parent)  # paths in overrides are relative to networks/
    if described["mode"] == "optimizer":
        _optimizer_case(case, described, arrays)
    elif described["mode"] == "train":
        _training_case(case, described, arrays, monkeypatch)
    else:
        _forward_case(case, described, arrays, monkeypatch)


def _filled_network(case: Case, described: dict) -> paddle.nn.Layer:
    """The network of a case with the recorded names and shapes, and the made-up values."""
    sections, file = sections_of(case, described)
    network = build.network(case.spec, sections, described["mode"].upper(), file)
    listed = described.get("parameters_file")
    if listed:
        recorded = [(p[0], p[1], p[2]) for p in read_json(case.folder / listed)]
    else:
        parameters = read_json(case.folder / "parameters.json")["parameters"]
        recorded = [(p["name"], p["shape"], p["fill_kind"]) for p in parameters]
    values = {n: filling.fill(n, shape, k, described["salt"]) for n, shape, k in recorded if k != "const"}
    shapes = {n: np.empty(shape, np.bool_) for n, shape, _ in recorded}
    adapt = getattr(network, "adapt_weights", lambda state: state)  # 2019 layouts of one mode only
    ours = {p.name: p for p in network.parameters()}
    assert {n: list(p.shape) for n, p in ours.items()} == {n: list(v.shape) for n, v in adapt(shapes).items()}
    for name, value in adapt(values).items():
        ours[name].set_value(value)
    return network


def _is_extractor(described: dict) -> bool:
    """2020 built TSN without its classifier to make features."""
    return described.get("get_model_kw", {}).get("is_videotag", False)


def padded(sequences: list[np.ndarray]) -> np.ndarray:
    """Sequences ``(T, …)`` of different length as one array ``(N, T, …)`` with zeros behind their ends."""
    longest = max(map(len, sequences))
    value = np.zeros((len(sequences), longest, *sequences[0].shape[1:]), sequences[0].dtype)
    for i, sequence in enumerate(sequences):
        value[i, : len(sequence)] = sequence
    return value


def make_batch(described: dict) -> dict[str, np.ndarray]:
    """Inputs by name; ragged ones as ``(N, T, …)`` padded with zeros, and ``<name>_length`` ``(N,)``."""
    batch = {}
    for item in described["inputs"]:
        value = filling.make_input(described["case"], item, described["salt"])
        name = item["name"].removeprefix("train_").removeprefix("test_")  # some differ by mode
        name = FEEDS.get(name, name)
        if item["recursive_seq_lens"]:
            lengths = item["recursive_seq_lens"][-1]
            value = padded(np.split(value, np.cumsum(lengths)[:-1]))
            if value.dtype == np.int64:  # words: 2019 fed them as a column
                value = value.squeeze(2)
            batch[f"{name}_length"] = np.array(lengths, np.int64)
        batch[name] = value
    return batch


def _inputs(case: Case, described: dict) -> tuple[str, ...]:
    sections, file = sections_of(case, described)
    return build.row(case.spec, sections, described["mode"].upper(), file).inputs


def _fetches(case: Case, described: dict, losses: dict, outputs: dict, batch: dict) -> list:
    """Our values in the order of the 2019 fetch list."""
    spec = case.spec
    wanted = len(_recorded_fetches(described))
    if not spec.outputs:  # what it predicts is searched for: _search_case
        return [losses[name] for name in spec.losses]
    everything = [losses[name] for name in spec.losses] if losses else []
    everything += [outputs[name] for name in spec.outputs]
    # The localisers fetch the number of the sample, and not what only the loss needs.
    fetched = {
        fetch["var"].removeprefix("train_").removeprefix("test_") for fetch in _recorded_fetches(described)
    }
    targets = [name for name in batch if name in fetched] if SAMPLE_ID in fetched else spec.targets
    everything += [batch[name] for name in targets if name in batch]
    # Where 2019 fetched less, it was the losses alone in training, all but them elsewhere.
    return everything[:wanted] if described["mode"] in ("train", "valid") else everything[-wanted:]


def _recorded_fetches(described: dict) -> list[dict]:
    """Without the random tensors, and what is inside the network, that were recorded beside."""
    fetches = [fetch for fetch in described["fetches"] if not fetch["key"].startswith("rnd")]
    return [fetch for fetch in fetches if not fetch["var"].startswith(("extra:", DRAWN))]


def _search_case(case: Case, described: dict, arrays) -> None:
    network = _filled_network(case, described)
    if "ets_end" in described.get("note", ""):
        bias = {p.name: p for p in network.parameters()}["fc_9.b_0"]
        value = bias.numpy()
        value[network.vocabulary.end] += 1.5
        bias.set_value(value)
    limit = tolerance(case.label, "forward")
    compare_search(network, case, make_batch(described), described["fetches"], arrays, limit)


def _forward_case(case: Case, described: dict, arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    if case.spec.prediction is not None and described["mode"] in ("test", "infer"):
        _search_case(case, described, arrays)
        return
    drawn = [arrays[fetch["key"]] for fetch in described["fetches"] if fetch["var"].startswith(DRAWN)]
    if drawn:  # the losses of proposals; outside training ours always draw the same
        given = lambda shape, training: paddle.to_tensor(drawn.pop(0).reshape(shape))  # noqa: E731
        monkeypatch.setattr(proposals, "draws", given)
    network = _filled_network(case, described)
    network.eval()
    batch = {name: paddle.to_tensor(value) for name, value in make_batch(described).items()}
    with paddle.no_grad():
        inputs = [batch[name] for name in _inputs(case, described)]
        if _is_extractor(described):
            outputs = {name: network.forward_features(*inputs) for name in case.spec.outputs}
        else:
            outputs = network(*inputs)
        has_targets = all(name in batch for name in case.spec.targets)
        losses = network.loss(outputs, batch) if has_targets else {}
    got = _fetches(case, described, losses, outputs, batch)
    for fetch, value in zip(_recorded_fetches(described), got, strict=True):
        what = f"{case.id} {fetch['key']} ({fetch['var']})"
        limit = tolerance(case.label, "forward")
        value, expected = value.numpy().reshape(fetch["shape"]), stored(arrays, fetch["key"])
        if "loss" in losses and all(np.isnan(part).all() for part in expected.values()):
            assert np.isfinite(value).all(), f"{what}: NaN in 2019, a number here"
            continue
        assert_stored(value, expected, limit, what)


class _Recorded:
    """Stands in for random draws: hands out the tensors recorded at one step, in order.

    ``lengths`` are those of the ragged inputs, by how many rows they have in all: a mask of so many rows
    is padded as they are.
    """

    def __init__(self, arrays, step: int, batch: dict) -> None:
        names = [name for name in arrays.files if name.startswith(f"step{step}_rnd")]
        self.values = [arrays[f"step{step}_rnd{i}"] for i in range(len(names))]
        self.masked = bool(names)
        lengths = [value.numpy() for name, value in batch.items() if name.endswith("_length")]
        self.lengths = {int(value.sum()): value for value in lengths}

    def dropout(self, x, p=0.5, *args, training=True, **kwargs):
        if not self.masked:  # recorded with every dropout taken out
            return x
        assert training and self.values, "a dropout that 2019 did not have"
        mask = self.values.pop(0)
        if mask.size != np.prod(x.shape):
            lengths = self.lengths[len(mask)]
            mask = padded(np.split(mask, np.cumsum(lengths)[:-1]))
        return x * paddle.to_tensor(mask.reshape(x.shape), dtype=x.dtype)

    def rand(self, shape, dtype="float32", name=None):
        return paddle.to_tensor(self.values.pop(0).reshape(shape), dtype=dtype)


def _training_case(case: Case, described: dict, arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, limit = case.spec, lambda check, step=0: tolerance(case.label, check, step)
    network = _filled_network(case, described)
    sections, file = sections_of(case, described)
    ours = {p.name: p for p in network.parameters()}
    start = {name: p.numpy() for name, p in ours.items()}
    _compare_parameters(described, arrays, ours, 0, 1e-6)
    with paddle.utils.unique_name.guard():
        updates = build.solver(spec, sections, file).build(network.parameters())
    batch = {name: paddle.to_tensor(value) for name, value in make_batch(described).items()}
    network.train()
    # Where 2019's loss counted devices, it took the recipe's number of them.
    num_gpus = sections["TRAIN"].get("num_gpus", 1)
    monkeypatch.setattr(device, "world_size", lambda: num_gpus)
    monkeypatch.setattr(device, "mean", lambda value: value)
    for step in range(1, described["steps"] + 1):
        recorded = _Recorded(arrays, step, batch)
        monkeypatch.setattr(paddle.nn.functional, "dropout", recorded.dropout)
        if recorded.values:
            monkeypatch.setattr(paddle, "rand", recorded.rand)
        assert_close(updates.get_lr(), arrays["lr"][step - 1], limit("rate"), f"rate of step {step}")
        outputs = network(*(batch[name] for name in _inputs(case, described)))
        losses = network.loss(outputs, batch)
        if getattr(network, "loss_is_sum", False):
            losses["loss"] = losses["loss"] * engine.part_weights(network, [batch])[0]
        losses["loss"].backward()
        got = _fetches(case, described, losses, outputs, batch)
        for fetch, value in zip(_recorded_fetches(described), got, strict=True):
            is_loss = fetch["key"] in {f"out{i}" for i in range(len(spec.losses))}
            check = "loss" if is_loss else "forward_in_training"
            expected = stored(arrays, f"step{step}_{fetch['key']}")
            value = value.numpy().reshape(fetch["shape"])
            assert_stored(value, expected, limit(check, step), f"step {step} {fetch['key']}")
        assert not recorded.values, "2019 drew more random numbers"
        if step == 1 and "g_step1_l2" in arrays.files:
            _compare_gradients(case, described, arrays, ours, start)
        updates.step()
        updates.clear_grad()
        optimizer.advance(updates)
        if f"p_step{step}_l2" in arrays.files:
            still = _without_gradient(case.label, described, arrays)
            moved = {n: p for n, p in ours.items() if n not in still}
            _compare_parameters(described, arrays, moved, step, limit("parameter", step))


def _compare_parameters(described: dict, arrays, ours: dict, step: int, limit: float) -> None:
    for i, name in enumerate(described["param_order"]):
        if name not in ours:
            continue
        value = ours[name].numpy().astype(np.float64).reshape(-1)
        norm = float(arrays[f"p_step{step}_l2"][i])
        first = arrays[f"p_step{step}_first8"][i][: value.size].astype(np.float64)
        what = f"{name} after {step} steps"
        assert abs(np.sqrt((value**2).sum()) - norm) <= limit * max(norm, 1e-30), what
        assert np.abs(value[:8] - first[: value[:8].size]).max() <= limit * max(norm, 1e-30), what


def _without_gradient(model: str, described: dict, arrays) -> list[str]:
    """Those of ``ZERO_GRADIENT`` that had none in this case either (dropout may give them one)."""
    norms = dict(zip(described.get("grad_order", []), arrays["g_step1_l2"], strict=True))
    least = 1e-6 * max(norms.values())
    return [name for name in ZERO_GRADIENT.get(model.upper(), ()) if norms.get(name, 0.0) <= least]


def _compare_gradients(case: Case, described: dict, arrays, ours: dict, start: dict) -> None:
    """Recorded gradients include the weight decay, unless the optimizer clips."""
    recorded = read_json(case.folder / "parameters.json")
    rule = recorded["optimizer"].get("regularization") or {}
    own = {p["name"]: p["regularizer"] for p in recorded["parameters"]}
    clips = case.label in ("ETS", "TALL")
    limit = tolerance(case.label, "gradient")
    zero = _without_gradient(case.label, described, arrays)
    largest = float(arrays["g_step1_l2"].max())
    for i, name in enumerate(described["grad_order"]):
        if name in zero and ours[name].grad is None:
            continue
        gradient = ours[name].grad.numpy().astype(np.float64)
        if name in zero:
            assert np.abs(gradient).max() <= 1e-6 * largest, f"gradient of {name}"
            continue
        decay = (own.get(name) or rule).get("coeff", 0.0)
        if not clips:
            gradient = gradient + decay * start[name]
        flat, norm = gradient.reshape(-1), float(arrays["g_step1_l2"][i])
        first = arrays["g_step1_first8"][i].astype(np.float64)[: flat[:8].size]
        assert abs(np.sqrt((flat**2).sum()) - norm) <= limit * max(norm, 1e-30), f"gradient of {name}"
        assert np.abs(flat[:8] - first).max() <= limit * max(norm, 1e-30), f"gradient of {name}"


def _optimizer_case(case: Case, described: dict, arrays) -> None:
    """The model's optimizer on a network of two parameters: sum((x w + b) ** 2)."""
    sections, file = sections_of(case, described)
    with paddle.utils.unique_name.guard():
        layer = paddle.nn.Linear(
            4, 3, weight_attr=ParamAttr(name="dummy_w"), bias_attr=ParamAttr(name="dummy_b")
        )
        layer.weight.set_value(filling.fill("dummy_w", [4, 3], "weight"))
        layer.bias.set_value(filling.fill("dummy_b", [3], "bias"))
        updates = resolve(case.spec.part("solver"), sections, "TRAIN", file).build(layer.parameters())
    item = {"name": "x", "shape": [5, 4], "dtype": "float32", "kind": "normal", "kw": {}}
    x = paddle.to_tensor(filling.make_input("lr_dummy", item))
    limit = tolerance(case.label, "optimizer")
    for step in range(len(arrays["lr"])):
        assert_close(updates.get_lr(), arrays["lr"][step], 1e-6, f"rate of step {step}")
        if "loss" in arrays.files and "dummy_w" in arrays.files:
            loss = paddle.square(layer(x)).sum()
            loss.backward()
            updates.step()
            updates.clear_grad()
            assert_close(float(loss), arrays["loss"][step], limit, f"loss of step {step}")
            assert_close(layer.weight.numpy(), arrays["dummy_w"][step], limit, f"w, step {step}")
            assert_close(layer.bias.numpy(), arrays["dummy_b"][step], limit, f"b, step {step}")
        optimizer.advance(updates)
