"""Each case of the folder becomes a test; at the end every model's counts are held against it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.conformance import cases

AREAS = ("networks", "checkpoints", "readers", "metrics")
_expected: Counter = Counter()
_passed: Counter = Counter()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "recorded_scores" in metafunc.fixturenames:
        folder = Path(metafunc.config.getoption("--conformance-dir")).resolve()
        file = folder / "io" / "metrics" / "anet_eval.json"  # of real annotations: it does not travel along
        metafunc.parametrize("recorded_scores", list(cases.read_json(file)) if file.is_file() else [])
    for area in AREAS:
        if f"{area}_case" not in metafunc.fixturenames:
            continue
        folder = Path(metafunc.config.getoption("--conformance-dir")).resolve()
        found = cases.find(area, folder, metafunc.config.getoption("--models"))
        _expected.update((case.label, area) for case in found)
        metafunc.parametrize(f"{area}_case", found, ids=[case.id for case in found])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without the placeholders of areas that have no case for the chosen models: they would be "skipped"."""
    items[:] = [item for item in items if "[NOTSET]" not in item.name]


@pytest.fixture
def conformance_dir(request: pytest.FixtureRequest) -> Path:
    return Path(request.config.getoption("--conformance-dir")).resolve()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    report = (yield).get_result()
    parameters = getattr(item, "callspec", None)
    for area in AREAS:
        case = parameters.params.get(f"{area}_case") if parameters else None
        if case is not None and report.when == "call" and report.passed:
            _passed[case.label, area] += 1


def _short(config: pytest.Config) -> list[str]:
    """What did not pass, unless tests were chosen by hand."""
    chosen = config.option.keyword or config.option.collectonly or any("::" in a for a in config.args)
    short = [key for key, count in _expected.items() if _passed[key] != count]
    return [] if chosen else [f"{name} {area}" for name, area in short]


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _short(session.config) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    if not _expected:
        return
    terminalreporter.section("conformance: passed / recorded")
    for name in sorted({name for name, _ in _expected}):
        parts = [f"{a} {_passed[name, a]}/{_expected[name, a]}" for a in AREAS if _expected[name, a]]
        terminalreporter.line(f"{name}: {', '.join(parts)}")
    if _short(config):
        terminalreporter.line("not all recorded cases passed: " + ", ".join(_short(config)), red=True)
