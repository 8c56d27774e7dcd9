"""Show what the sweeps covered, below the tests' results."""

from typing import Any


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == "sweep":
                terminalreporter.write_line(f"{report.nodeid.partition('::')[0]}: {value}")
