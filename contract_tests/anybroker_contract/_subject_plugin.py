"""The pytest plugin of a contract suite: of adapters, of idempotency stores, of outboxes.

Options, servers, the choice of tests by what a harness declares, and the summary. With pytest-xdist the controlling
process starts the servers once and tells the workers; tests that disturb a server run one after the other on a separate
one. Each suite's ``plugin.py`` makes one :class:`SubjectPlugin` and gives its hooks to pytest; no two of them are
loaded together.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from ._outcomes import Outcome, Outcomes
from ._reports import LEDGERED, NOT_APPLICABLE, status_of, verdict_of
from ._runner import run_test
from ._schedule import ALONE, make_scheduler
from ._skips import Ledger, read_ledger
from ._subjects import Kind, Subjects
from ._table import check_table, write_table
from .harness import BrokerUnavailable

__all__ = ["GRACE", "SubjectPlugin", "Suite"]

TIERS = ("short", "full", "stress")
REPEATS = 10
"""How often each test runs in the stress tier."""
SECONDS = 45.0
"""How long a test may take, unless it is marked with its own timeout."""
GRACE = 20.0
"""What pytest-timeout gives beyond that, for closing."""


class Applicable(Protocol):
    """A broken adapter, store or outbox."""

    @property
    def name(self) -> str:
        """Of what is broken."""
        raise NotImplementedError

    @property
    def killers(self) -> tuple[str, ...]:
        """Tests of which at least one must fail."""
        raise NotImplementedError

    def applies(self, declared: Any) -> bool:
        """Whether what declares this can be broken this way."""
        raise NotImplementedError


@dataclass(frozen=True)
class Suite:
    """What differs between the suites."""

    kind: Kind
    folder: Path
    """Where its tests are."""
    about: str
    """As in "the contract suite of anybroker's idempotency stores"."""
    default: str
    """What is tested where nothing is said."""
    disturbances: frozenset[str]
    """What may be done to a server: a test that does one of them has it to itself."""
    made: type[Any]
    """The class of what a test works with, made of a harness, a folder, ``size``, ``patience`` and ``mutant``."""
    mutants: Callable[[], Mapping[str, Applicable]]
    title: str


class SubjectPlugin:
    """The hooks of one suite, in one process."""

    def __init__(self, suite: Suite) -> None:
        self._suite = suite
        self._kind = suite.kind
        self._subjects = self._found({})
        self._ledger: Ledger = {}
        self._outcomes = Outcomes()
        self._problems: list[str] = []
        self._session: pytest.Config | None = None
        """The configuration of the session's process: the hook that sees reports is given none."""

    def _found(self, classes: dict[str, type[Any]]) -> Subjects:
        """What these harnesses are of."""
        return Subjects(self._kind, classes)

    def hooks(self) -> dict[str, Any]:
        """For the plugin's module: ``globals().update(plugin.hooks())``."""
        return {name: getattr(self, name) for name in dir(self) if name.startswith("pytest_")}

    def pytest_addoption(self, parser: pytest.Parser) -> None:
        """The options of the suite."""
        what, plural, default = self._kind.what, self._kind.plural, self._suite.default
        group = parser.getgroup(f"anybroker-{plural}", f"the contract suite of anybroker's {self._suite.about}")
        group.addoption(
            f"--{what}",
            action="append",
            default=[],
            metavar="NAME",
            help=f"what to test: {', '.join(self._kind.built_in)}, all that is installed, or module:Class of a "
            f"{self._kind.harness.__name__}; repeatable (default: {default})",
        )
        group.addoption(
            f"--require-{plural}",
            default="",
            metavar="NAMES",
            help=f"fail if the server of one of these {plural} (comma-separated, or all) is unavailable; by default "
            "its tests are skipped",
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
            default=20.0,
            metavar="SECONDS",
            help="by when what a test waits for must have happened. Default: 20.",
        )
        group.addoption(
            "--ledger", action="append", default=[], metavar="FILE", help="a ledger of your own, beside the suite's"
        )
        group.addoption(
            "--outcomes", default=None, metavar="FILE", help="write each outcome to this file, one JSON a line"
        )
        group.addoption("--write-table", default=None, metavar="FILE", help=f"write tests × {what}s into this page")
        group.addoption("--check-table", default=None, metavar="FILE", help="fail if that page is not current")
        group.addoption(
            "--mutant",
            action="append",
            default=[],
            metavar="NAME",
            help=f"run against this broken {what}. Repeatable; all.",
        )
        group.addoption(
            "--killers-only",
            action="store_true",
            help="with --mutant: only the tests that are named as its killers",
        )

    def pytest_configure(self, config: pytest.Config) -> None:
        """Marks, harnesses, the ledger."""
        for line in (
            f"requires(*names): what the {self._kind.what} must declare",
            f"needs_harness(*names): what the test does to the server or file of the {self._kind.what}",
            "tier(name): the smallest tier that the test runs in",
        ):
            config.addinivalue_line("markers", line)
        chosen = getattr(config.option, self._kind.what) or [self._suite.default]
        self._subjects = self._found(self._kind.find(chosen))
        ledgers = [self._suite.folder / "ledger.toml", *map(Path, config.option.ledger)]
        self._ledger = read_ledger(ledgers, of=self._kind.what, suite=self._suite.folder)
        path = config.option.outcomes
        self._outcomes = Outcomes(Path(path) if path and not self._is_worker(config) else None)
        self._problems = []
        if not self._is_worker(config):
            self._session = config

    def _is_worker(self, config: pytest.Config) -> bool:
        return hasattr(config, "workerinput")

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Start the servers, or learn where they are."""
        config = session.config
        there = self._subjects
        config.add_cleanup(there.stop)
        if self._is_worker(config):
            there.attach(json.loads(config.workerinput[f"anybroker_{self._kind.plural}"]))  # type: ignore[attr-defined] # xdist's
            return
        if config.option.collectonly:
            there.unavailable = {name: BrokerUnavailable("only collecting") for name in there.shared}
            return
        reporter = config.pluginmanager.get_plugin("terminalreporter")

        def say(text: str) -> None:
            if reporter is not None and config.option.verbose >= 0:
                reporter.write_line(f"anybroker: {text}")

        there.start(say)
        required = {
            name.strip() for name in getattr(config.option, f"require_{self._kind.plural}").split(",") if name.strip()
        }
        missing = {name: there.unavailable[name].why for name in there.unavailable if required & {name, "all"}}
        missing |= {name: f"not tested: add --{self._kind.what}" for name in required - {"all"} - there.shared.keys()}
        if missing:
            there.stop()
            lines = "\n".join(f"{name}: {why}" for name, why in missing.items())
            pytest.exit(f"--require-{self._kind.plural}: not available:\n{lines}", returncode=1)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell an xdist worker where the servers are."""
        node.workerinput[f"anybroker_{self._kind.plural}"] = json.dumps(self._subjects.told())

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        """Keep tests together that disturb one server, unless a distribution other than the default was asked for."""
        return make_scheduler(config, log) if config.option.dist == "load" else None

    def pytest_report_header(self, config: pytest.Config) -> list[str]:
        """One line per server: which server, where it comes from and why."""
        if self._is_worker(config) or config.option.collectonly:
            return []
        there = self._subjects
        lines = [f"{self._suite.title}, tier {config.option.tier}"]
        for name, harness in there.shared.items():
            gone = there.unavailable.get(name)
            lines.append(
                f"  {name}: {harness.detail or 'from its harness'}"
                if gone is None
                else f"  {name}: NOT TESTED: {gone.why}"
            )
        return lines

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Every test that takes ``kit`` runs on each (and on each broken one that was asked for)."""
        if "kit" not in metafunc.fixturenames:
            return
        config = metafunc.config
        there = self._subjects
        test = self._test_name(metafunc.definition)
        marks = list(metafunc.definition.iter_markers())
        parameters = []
        for name in there.shared:
            if name in there.unavailable and not config.option.collectonly:
                continue
            extra, disturbs = self._marks_for(config, test, name, marks)
            place = f"{name}{ALONE}" if disturbs else self._place(name, marks)
            repeats = range(REPEATS) if config.option.tier == "stress" else range(1)
            for mutant in self._mutants(config, test, name):
                if mutant is not None and any(mark.name == "skip" for mark in extra):
                    continue
                for repeat in repeats:
                    id_ = "-".join(filter(None, [place, mutant, str(repeat) if repeat else ""]))
                    parameters.append(pytest.param((name, mutant, disturbs), id=id_, marks=extra))
        metafunc.parametrize("kit", parameters, indirect=True)

    def _mutants(self, config: pytest.Config, test: str, name: str) -> list[str | None]:
        if not config.option.mutant:
            return [None]
        known = self._suite.mutants()
        wanted = known if "all" in config.option.mutant else {each: known[each] for each in config.option.mutant}
        return [
            mutant.name
            for mutant in wanted.values()
            if mutant.applies(self._declared(name))
            and (not config.option.killers_only or test.partition("::")[2] in mutant.killers)
        ]

    def _place(self, name: str, marks: list[pytest.Mark]) -> str:
        """Of a test that disturbs nothing: tests of one place that must be together carry its mark."""
        return name

    def _declared(self, name: str) -> Any:
        """By what tests and broken variants are chosen."""
        return self._subjects.shared[name]

    def _can(self, name: str) -> frozenset[str]:
        """What tests may do to it."""
        return self._subjects.can[name]

    def _inapplicable(self, name: str, marks: list[pytest.Mark]) -> str | None:
        """Why what it declares leaves the test out; None: it does not."""
        declared = self._declared(name)
        absent = [item for item in self._arguments(marks, "requires") if not getattr(declared, item)]
        return f"not declared: {absent[0]}" if absent else None

    def _test_name(self, definition: Any) -> str:
        return f"{definition.path.name}::{definition.originalname}"

    def _marks_for(
        self, config: pytest.Config, test: str, name: str, marks: list[pytest.Mark]
    ) -> tuple[list[pytest.MarkDecorator | pytest.Mark], bool]:
        """What is added to the test on this one, and whether it runs on a separate server."""
        extra: list[pytest.MarkDecorator | pytest.Mark] = []
        needs = set(self._arguments(marks, "needs_harness"))
        reason = self._inapplicable(name, marks)
        cannot = sorted(needs - self._can(name))
        smallest = self._arguments(marks, "tier")
        if reason is not None:
            extra.append(pytest.mark.skip(reason=f"{NOT_APPLICABLE}{reason}"))
        elif cannot:
            extra.append(pytest.mark.skip(reason=f"{NOT_APPLICABLE}the harness has no {cannot[0]}()"))
        elif smallest and TIERS.index(smallest[0]) > TIERS.index(config.option.tier):
            extra.append(pytest.mark.skip(reason=f"{NOT_APPLICABLE}only in the {smallest[0]} tier"))
        elif not config.option.mutant:
            row = self._ledger.get((name, test))
            if row is not None:
                extra.append(pytest.mark.xfail(reason=f"{LEDGERED}{row.reason}", strict=True))
        return extra, bool(needs & self._suite.disturbances)

    def _arguments(self, marks: list[pytest.Mark], name: str) -> tuple[str, ...]:
        """What all marks of that name say, the test's own first."""
        return tuple(argument for mark in marks if mark.name == name for argument in mark.args)

    def _parameter(self, item: pytest.Item) -> Any:
        """What the item's ``kit`` is made of; an empty tuple if there is nothing for it."""
        callspec = getattr(item, "callspec", None)
        return None if callspec is None else callspec.params.get("kit")

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Make warnings errors and set a deadline in every test of the suite; drop tests that run nowhere."""
        ours = [item for item in items if "kit" in getattr(item, "fixturenames", ())]
        nowhere = [item for item in ours if not isinstance(self._parameter(item), tuple)]
        if nowhere:
            config.hook.pytest_deselected(items=nowhere)
            items[:] = [item for item in items if item not in set(nowhere)]
        for item in ours:
            item.add_marker(pytest.mark.filterwarnings("error"), append=False)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(SECONDS + GRACE))

    def kit(self, request: pytest.FixtureRequest, folder: Path) -> Any:
        """What a test works with: for the fixture of this name."""
        name, mutant, disturbs = request.param
        option, there = request.config.option, self._subjects
        try:
            harness = there.of_its_own(name) if disturbs else there.shared[name]
        except BrokerUnavailable as exc:
            pytest.fail(f"a second server for tests that disturb it: {exc.why}", pytrace=False)
        return self._made(name, harness, folder, size=option.tier, patience=option.patience, mutant=mutant)

    def _made(self, name: str, harness: Any, folder: Path, **options: Any) -> Any:
        return self._suite.made(harness, folder, **options)

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> bool | None:
        """Run an async test of the suite."""
        kit: Any = pyfuncitem.funcargs.get("kit")
        if not isinstance(kit, self._suite.made):
            return None
        if not inspect.iscoroutinefunction(pyfuncitem.obj):
            raise TypeError(f"{pyfuncitem.name} takes a kit, which only 'async def' tests close")
        wanted = inspect.signature(pyfuncitem.obj).parameters
        arguments = {name: value for name, value in pyfuncitem.funcargs.items() if name in wanted}
        mark = pyfuncitem.get_closest_marker("timeout")
        seconds = mark.args[0] - GRACE if mark is not None else SECONDS
        run_test(pyfuncitem.obj, arguments, kit, max(seconds, 10.0))
        return True

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Add test, place and mutant to the report, which goes to the controlling process."""
        report = yield
        parameter = self._parameter(item)
        if isinstance(parameter, tuple):
            name, mutant, _ = parameter
            report.anybroker = (self._test_name(item), name, mutant)  # type: ignore[attr-defined] # reports may be added to
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """In the session's process: keep the outcome."""
        if self._session is not None and hasattr(report, "anybroker"):
            test, name, mutant = report.anybroker
            verdict, reason = verdict_of(report)
            if verdict is not None:
                self._outcomes.add(Outcome(test, name, verdict, reason, mutant, round(report.duration, 3)))

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """Leave tests that do not apply out of the list of skips: nobody has to read them."""
        return status_of(report)

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write or check the table of a run that was complete."""
        config = session.config
        if self._is_worker(config) or config.option.mutant:
            return
        for option, act in (("write_table", write_table), ("check_table", check_table)):
            path = getattr(config.option, option)
            if path is None:
                continue
            problem = act(Path(path), self._outcomes, list(self._subjects.shared), self._suite.folder)
            if problem is not None:
                self._problems.append(f"--{option.replace('_', '-')} {path}: {problem}")
                session.exitstatus = session.exitstatus or 1

    def pytest_terminal_summary(self, terminalreporter: Any, config: pytest.Config) -> None:
        """One line each; one loud line for each server that was unavailable."""
        there, outcomes = self._subjects, self._outcomes
        if not outcomes.all and not there.unavailable:
            return
        terminalreporter.section(self._suite.title)
        for name in there.shared:
            gone = there.unavailable.get(name)
            if gone is None:
                terminalreporter.write_line(outcomes.summary(name))
            else:
                terminalreporter.write_line(f"{name}: ALL TESTS SKIPPED: {gone.why}", red=True, bold=True)
        for problem in self._problems:
            terminalreporter.write_line(problem, red=True, bold=True)
