"""Files that are replaced while we run: read again when they change, kept as they were when they cannot be.

What is on disk counts from the first look that finds all of it whole. A set that is half swapped, wrong or
gone leaves the one before it in use; each such problem is logged once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import structlog

T = TypeVar("T")

_Stamp = tuple[int, int, int]


class FollowedFiles(Generic[T]):
    """A value made of some files. `current` is cheap: it reads only what has changed."""

    def __init__(
        self, paths: Sequence[Path], read: Callable[[T | None], T], *, error: type[Exception], what: str
    ) -> None:
        """Read the files once; what `read` raises is raised.

        Args:
            paths: of all files.
            read: makes the value of what is there now; it is given the one in use, None at first.
            error: what `read` raises for files that cannot be used; one line that names the file.
            what: what the files hold, for the log.
        """
        self._paths = tuple(paths)
        self._read = read
        self._error = error
        self._what = what
        self._stamps = self._look()
        self._value = read(None)
        self._problem = ""
        self._log = structlog.get_logger("hortator.runtime.followed_files")

    def current(self) -> T:
        """The newest value."""
        try:
            stamps = self._look()
            if stamps == self._stamps:
                self._problem = ""
                return self._value
            fresh = self._read(self._value)
            if self._look() == stamps:  # not swapped while we read
                self._value, self._stamps, self._problem = fresh, stamps, ""
                self._log.info(f"{self._what} read again", path=str(self._paths[0]))
        except self._error as error:
            if str(error) != self._problem:
                self._log.warning(f"{self._what} not taken", error=str(error))
            self._problem = str(error)
        return self._value

    def _look(self) -> tuple[_Stamp, ...]:
        return tuple(map(self._stamp, self._paths))

    def _stamp(self, path: Path) -> _Stamp:
        try:
            status = path.stat()
        except OSError as error:
            raise self._error(f"{path}: {error.strerror}") from None
        return status.st_ino, status.st_mtime_ns, status.st_size
