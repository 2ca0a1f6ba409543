"""The pytest plugin: ``pytest -p anybroker_contract.plugin --pyargs anybroker_contract --adapter memory``.

Options, brokers, the choice of tests by capability, and the summary. With pytest-xdist the controlling process starts
the brokers once and tells the workers; tests that disturb a broker run one after the other on a separate broker.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from ._adapters import Adapters, find_harnesses
from ._kit import Kit
from ._outcomes import Outcome, Outcomes
from ._reports import LEDGERED, NOT_APPLICABLE, status_of, verdict_of
from ._runner import run_test
from ._schedule import ALONE, SECURED, make_scheduler
from ._skips import OWN, Ledger, read_ledger
from ._table import check_table, write_table
from .harness import DISTURBANCES, BrokerUnavailable, Clustered
from .marks import declares
from .secured import Secured

__all__: list[str] = []

PACKAGE = __name__.rpartition(".")[0]
OTHER_SUITES = [Path(__file__).with_name(name) for name in ("stores", "outboxes")]
"""Those of idempotency stores and outboxes, which have plugins of their own."""
TIERS = ("short", "full", "stress")
REPEATS = 10
"""How often each test runs in the stress tier."""
SECONDS = 45.0
"""How long a test may take, unless it is marked with its own timeout."""
GRACE = 20.0
"""What pytest-timeout gives beyond that, for closing."""

_OUTCOMES = pytest.StashKey[Outcomes]()
_ADAPTERS = pytest.StashKey[Adapters]()
_LEDGER = pytest.StashKey[Ledger]()
_PROBLEMS = pytest.StashKey[list[str]]()

_session: pytest.Config | None = None
"""The configuration of the session's process: the hook that sees reports is given none."""


# ---------------------------------------------------------------------------------------------------------- options


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the suite."""
    group = parser.getgroup("anybroker", "the contract suite of anybroker")
    group.addoption(
        "--adapter",
        action="append",
        default=[],
        metavar="NAME",
        help="what to test: memory, sqlite, …, all, or module:Class of a BrokerHarness; repeatable (default: memory)",
    )
    group.addoption(
        "--require-brokers",
        default="",
        metavar="NAMES",
        help="fail if one of these brokers (comma-separated, or all) is unavailable; by default its tests are skipped",
    )
    group.addoption(
        "--tier",
        choices=TIERS,
        default="short",
        help="short (default), full (larger numbers), stress (ten times)",
    )
    group.addoption(
        "--patience",
        type=float,
        default=None,
        metavar="SECONDS",
        help="by when what a test waits for must have happened. Default: 20.",
    )
    group.addoption(
        "--ledger",
        action="append",
        default=[],
        metavar="FILE",
        help="a ledger of your own, beside the suite's",
    )
    group.addoption("--outcomes", default=None, metavar="FILE", help="write each outcome to this file, one JSON a line")
    group.addoption("--write-table", default=None, metavar="FILE", help="write tests × adapters into this page")
    group.addoption("--check-table", default=None, metavar="FILE", help="fail if that page is not current")
    group.addoption(
        "--mutant",
        action="append",
        default=[],
        metavar="NAME",
        help="run against this broken adapter. Repeatable; all.",
    )
    group.addoption(
        "--killers-only",
        action="store_true",
        help="with --mutant: only the tests that are named as its killers",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Marks, harnesses, the ledger."""
    for line in (
        "requires(*names): capabilities that the test needs",
        "refuses(*names): capabilities whose absence the test shows to be refused",
        "needs_harness(*names): what the test does to the broker",
        "tier(name): the smallest tier that the test runs in",
    ):
        config.addinivalue_line("markers", line)
    classes = find_harnesses(config.option.adapter or ["memory"])
    config.stash[_ADAPTERS] = Adapters(classes)
    config.stash[_LEDGER] = read_ledger([OWN, *map(Path, config.option.ledger)])
    path = config.option.outcomes
    config.stash[_OUTCOMES] = Outcomes(Path(path) if path and not _is_worker(config) else None)
    config.stash[_PROBLEMS] = []
    if not _is_worker(config):
        global _session
        _session = config


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


# ---------------------------------------------------------------------------------------------------------- brokers


def pytest_sessionstart(session: pytest.Session) -> None:
    """Start the brokers, or learn where they are."""
    config = session.config
    adapters = config.stash[_ADAPTERS]
    config.add_cleanup(adapters.stop)
    if _is_worker(config):
        adapters.attach(json.loads(config.workerinput["anybroker"]))  # type: ignore[attr-defined] # xdist's
        return
    if config.option.collectonly:
        adapters.unavailable = {name: BrokerUnavailable("only collecting") for name in adapters.shared}
        return
    reporter = config.pluginmanager.get_plugin("terminalreporter")

    def say(text: str) -> None:
        if reporter is not None and config.option.verbose >= 0:
            reporter.write_line(f"anybroker: {text}")

    adapters.start(say)
    required = {name.strip() for name in config.option.require_brokers.split(",") if name.strip()}
    missing = [name for name in adapters.unavailable if name in required or "all" in required]
    if missing:
        adapters.stop()
        lines = "\n".join(f"{name}: {adapters.unavailable[name].why}" for name in missing)
        pytest.exit(f"--require-brokers: not available:\n{lines}", returncode=1)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell an xdist worker where the brokers are."""
    node.workerinput["anybroker"] = json.dumps(node.config.stash[_ADAPTERS].told())


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep tests together that disturb one broker, unless a distribution other than the default was asked for."""
    return make_scheduler(config, log) if config.option.dist == "load" else None


def pytest_report_header(config: pytest.Config) -> list[str]:
    """One line per adapter: which broker, where it comes from and why."""
    if _is_worker(config) or config.option.collectonly:
        return []
    adapters = config.stash[_ADAPTERS]
    lines = [f"anybroker contract suite, tier {config.option.tier}"]
    for name, harness in adapters.shared.items():
        gone = adapters.unavailable.get(name)
        lines.append(
            f"  {name}: {harness.detail or 'from its harness'}" if gone is None else f"  {name}: NOT TESTED: {gone.why}"
        )
    return lines


# ------------------------------------------------------------------------------------------------ which tests run


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave the other suites out: other options, other fixtures."""
    return True if collection_path in OTHER_SUITES else None


def _is_ours(definition: Any) -> bool:
    return "kit" in getattr(definition, "fixturenames", ())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test that takes ``kit`` runs on each adapter (and on each broken one that was asked for)."""
    if "kit" not in metafunc.fixturenames:
        return
    config = metafunc.config
    adapters = config.stash[_ADAPTERS]
    test = _test_name(metafunc.definition)
    marks = {mark.name: mark for mark in reversed(list(metafunc.definition.iter_markers()))}
    parameters = []
    for name in adapters.shared:
        if name in adapters.unavailable and not config.option.collectonly:
            continue
        extra, disturbs = _marks_for(config, test, name, marks)
        secured = "secured" in _arguments(marks, "needs_harness")
        place = f"{name}{ALONE}" if disturbs else f"{name}{SECURED}" if secured else name
        repeats = range(REPEATS) if config.option.tier == "stress" else range(1)
        for mutant in _mutants(config, test, name):
            if mutant is not None and any(mark.name == "skip" for mark in extra):
                continue
            for repeat in repeats:
                id_ = "-".join(filter(None, [place, mutant, str(repeat) if repeat else ""]))
                parameters.append(pytest.param((name, mutant, disturbs), id=id_, marks=extra))
    metafunc.parametrize("kit", parameters, indirect=True)


def _mutants(config: pytest.Config, test: str, name: str) -> list[str | None]:
    if not config.option.mutant:
        return [None]
    from .mutants import MUTANTS

    wanted = MUTANTS if "all" in config.option.mutant else {name: MUTANTS[name] for name in config.option.mutant}
    return [
        mutant.name
        for mutant in wanted.values()
        if mutant.applies(config.stash[_ADAPTERS].capabilities[name])
        and (not config.option.killers_only or test.partition("::")[2] in mutant.killers)
    ]


def _test_name(definition: Any) -> str:
    return f"{definition.path.name}::{definition.originalname}"


def _marks_for(
    config: pytest.Config, test: str, name: str, marks: dict[str, pytest.Mark]
) -> tuple[list[pytest.MarkDecorator | pytest.Mark], bool]:
    """What is added to the test on this adapter, and whether it runs on a separate broker."""
    extra: list[pytest.MarkDecorator | pytest.Mark] = []
    capabilities = config.stash[_ADAPTERS].capabilities[name]
    needs = set(marks["needs_harness"].args) if "needs_harness" in marks else set()
    disturbs = bool(needs & DISTURBANCES)
    absent = [item for item in _arguments(marks, "requires") if not declares(capabilities, item)]
    declared = [item for item in _arguments(marks, "refuses") if declares(capabilities, item)]
    cannot = sorted(needs - config.stash[_ADAPTERS].can[name] - {"url"})
    smallest = _arguments(marks, "tier")
    if absent:
        extra.append(pytest.mark.skip(reason=f"{NOT_APPLICABLE}absent: {absent[0]}"))
    elif declared:
        extra.append(pytest.mark.skip(reason=f"{NOT_APPLICABLE}declared: {declared[0]}"))
    elif cannot:
        extra.append(pytest.mark.skip(reason=f"{NOT_APPLICABLE}the harness has no {cannot[0]}()"))
    elif smallest and TIERS.index(smallest[0]) > TIERS.index(config.option.tier):
        extra.append(pytest.mark.skip(reason=f"{NOT_APPLICABLE}only in the {smallest[0]} tier"))
    elif not config.option.mutant:
        row = config.stash[_LEDGER].get((name, test))
        if row is not None:
            extra.append(pytest.mark.xfail(reason=f"{LEDGERED}{row.reason}", strict=True))
    return extra, disturbs


def _arguments(marks: dict[str, pytest.Mark], name: str) -> tuple[str, ...]:
    return tuple(marks[name].args) if name in marks else ()


def _parameter(item: pytest.Item) -> Any:
    """What the item's ``kit`` is made of; an empty tuple if there is no adapter for it."""
    callspec = getattr(item, "callspec", None)
    return None if callspec is None else callspec.params.get("kit")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Make warnings errors and set a deadline in every test of the suite; drop tests without an adapter."""
    nowhere = [item for item in items if _is_ours(item) and not isinstance(_parameter(item), tuple)]
    if nowhere:
        config.hook.pytest_deselected(items=nowhere)
        items[:] = [item for item in items if item not in set(nowhere)]
    for item in items:
        if _is_ours(item):
            item.add_marker(pytest.mark.filterwarnings("error"), append=False)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(SECONDS + GRACE))


# ------------------------------------------------------------------------------------------------------ running


@pytest.fixture
def kit(request: pytest.FixtureRequest, tmp_path: Path) -> Kit:
    """What a test works with, on one adapter."""
    name, mutant, disturbs = request.param
    config = request.config
    adapters = config.stash[_ADAPTERS]
    try:
        harness = adapters.of_its_own(name) if disturbs else adapters.shared[name]
    except BrokerUnavailable as exc:
        pytest.fail(f"a second broker for tests that disturb it: {exc.why}", pytrace=False)
    patience = config.option.patience or 20.0
    capabilities = adapters.capabilities[name]
    return Kit(harness, capabilities, tmp_path, size=config.option.tier, patience=patience, mutant=mutant)


@pytest.fixture
def secured(request: pytest.FixtureRequest, kit: Kit, tmp_path_factory: pytest.TempPathFactory) -> Secured:
    """The adapter's broker with TLS and credentials; started when the first test of this process asks for it."""
    adapters = request.config.stash[_ADAPTERS]
    name = kit.harness.name
    try:
        return adapters.secured_of(name, lambda: tmp_path_factory.mktemp(f"secured-{name}"))
    except BrokerUnavailable as exc:
        _do_without(request.config, name, "broker with TLS and credentials", exc)


@pytest.fixture
def cluster(request: pytest.FixtureRequest, kit: Kit) -> Iterator[Clustered]:
    """Three servers that are one broker, for this test only."""
    try:
        found = kit.harness.cluster()
    except BrokerUnavailable as exc:
        _do_without(request.config, kit.harness.name, "broker of three servers", exc)
    yield found
    found.servers.stop()


def _do_without(config: pytest.Config, name: str, what: str, exc: BrokerUnavailable) -> NoReturn:
    """Fail the test if the adapter's broker is required, else skip it."""
    required = {item.strip() for item in config.option.require_brokers.split(",")}
    if required & {name, "all"}:
        pytest.fail(f"a {what}: {exc.why}", pytrace=False)
    pytest.skip(f"no {what}: {exc.why}")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run an async test of the suite."""
    kit = pyfuncitem.funcargs.get("kit")
    if not isinstance(kit, Kit) or not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    wanted = inspect.signature(pyfuncitem.obj).parameters
    arguments = {name: value for name, value in pyfuncitem.funcargs.items() if name in wanted}
    mark = pyfuncitem.get_closest_marker("timeout")
    seconds = mark.args[0] - GRACE if mark is not None else SECONDS
    run_test(pyfuncitem.obj, arguments, kit, max(seconds, 10.0))
    return True


# ---------------------------------------------------------------------------------------------------- outcomes


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add test, adapter and mutant to the report, which goes to the controlling process."""
    report = yield
    parameter = _parameter(item)
    if isinstance(parameter, tuple):
        name, mutant, _ = parameter
        report.anybroker = (_test_name(item), name, mutant)  # type: ignore[attr-defined] # reports may be added to
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """In the session's process: keep the outcome."""
    if _session is not None and hasattr(report, "anybroker"):
        test, name, mutant = report.anybroker
        verdict, reason = verdict_of(report)
        if verdict is not None:
            _session.stash[_OUTCOMES].add(Outcome(test, name, verdict, reason, mutant, round(report.duration, 3)))


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """Leave tests that a capability excludes out of the list of skips: nobody has to read them."""
    return status_of(report)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Write or check the table of a run that was complete."""
    config = session.config
    if _is_worker(config) or config.option.mutant:
        return
    for option, act in (("write_table", write_table), ("check_table", check_table)):
        path = getattr(config.option, option)
        if path is None:
            continue
        problem = act(Path(path), config.stash[_OUTCOMES], list(config.stash[_ADAPTERS].shared))
        if problem is not None:
            config.stash[_PROBLEMS].append(f"--{option.replace('_', '-')} {path}: {problem}")
            session.exitstatus = session.exitstatus or 1


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """One line per adapter; one loud line for each broker that was unavailable."""
    adapters, outcomes = config.stash[_ADAPTERS], config.stash[_OUTCOMES]
    if not outcomes.all and not adapters.unavailable:
        return
    terminalreporter.section("anybroker contract suite")
    for name in adapters.shared:
        gone = adapters.unavailable.get(name)
        if gone is None:
            terminalreporter.write_line(outcomes.summary(name))
        else:
            terminalreporter.write_line(f"{name}: ALL TESTS SKIPPED: {gone.why}", red=True, bold=True)
    for problem in config.stash[_PROBLEMS]:
        terminalreporter.write_line(problem, red=True, bold=True)
