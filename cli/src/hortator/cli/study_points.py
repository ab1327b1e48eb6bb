"""Points of a study, whichever: simulated in processes, kept as they come, written as JSON and a page.

Points are simulated in as many processes as there are cores, and each is kept as soon as it is there (one
line of JSON in the work folder, in a file named after the commit): a study that was interrupted goes on
where it was. From a tree with changes nothing is kept or reused.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hortator.cli.bench import result
from hortator.cli.console import stderr
from hortator.cli.study_pool import ctrl_c_held_back, end_with_parent

Figures = dict[str, Any]


class Keyed(Protocol):
    """A point: an ordered, frozen dataclass of plain values."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def key(self) -> str:
        """As one text, the same in every process."""

    def __lt__(self, other: Any, /) -> bool:
        """Points are simulated in this order."""


P = TypeVar("P", bound=Keyed)


class KnownPoints(Generic[P]):
    """Figures by point, kept in a file."""

    def __init__(self, kind: Callable[..., P], *, work: Path, name: str) -> None:
        """`name` tells what the figures depend on beside the commit, which is added."""
        self.figures: dict[P, Figures] = {}
        self.commit, self.is_modified = result.commit()
        self._path = path = None if self.is_modified else work / f"{name}-{self.commit[:12]}.jsonl"
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            for line in path.read_text().splitlines():
                kept = json.loads(line)
                self.figures[kind(**kept["point"])] = kept["figures"]

    def add(self, point: P, figures: Figures) -> None:
        """Keep them."""
        self.figures[point] = figures
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps({"point": asdict(point), "figures": figures}) + "\n")


def simulate_points(
    points: Iterable[P], known: KnownPoints[P], figures_at: Callable[[P], Figures], *, text: str
) -> None:
    """Simulate those that are not known, in processes; `figures_at` is a module's function, or a partial."""
    missing = sorted(point for point in points if point not in known.figures)
    if not missing:
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        Progress(*columns, console=stderr()) as progress,
        ProcessPoolExecutor(
            min(len(missing), len(os.sched_getaffinity(0))),
            multiprocessing.get_context("spawn"),
            end_with_parent,
        ) as pool,
    ):
        task = progress.add_task(text, total=len(missing))
        with ctrl_c_held_back():  # the processes start here
            futures = {pool.submit(figures_at, point): point for point in missing}
        try:
            for future in as_completed(futures):
                known.add(futures[future], future.result())
                progress.advance(task)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def write(
    name: str,
    known: KnownPoints[P],
    *,
    out: Path,
    settings: Mapping[str, Any],
    rows: Sequence[Any],
    points: Iterable[P],
    page: Callable[[Mapping[str, Any]], str],
    file_name: str = "",
) -> None:
    """Write the document of study `name` and its page as `file_name` (default: its name) into `out`."""
    document = {
        "study": name,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": known.commit,
        "is_modified": known.is_modified,
        "machine": result.machine(),
        "settings": settings,
        "rows": rows,
        "points": {point.key(): known.figures[point] for point in sorted(points)},
    }
    json_file = out / f"{file_name or name}.json"
    result.write(document, json_file)
    page_file = json_file.with_suffix(".md")
    page_file.write_text(page(document))
    stderr().print(f"{json_file}, {page_file}", markup=False)
