"""A group's progress in a SQLite file, shared by the processes of one machine."""

from __future__ import annotations

import os
import secrets
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline.errors import PipelineError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS frames (
    share TEXT NOT NULL, number INTEGER NOT NULL, state TEXT NOT NULL, owner TEXT NOT NULL,
    attempt INTEGER NOT NULL, due REAL NOT NULL, PRIMARY KEY (share, number)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS unfinished ON frames (share, state, due) WHERE state != 'done';
CREATE TABLE IF NOT EXISTS rejected (
    share TEXT NOT NULL, number INTEGER NOT NULL, attempt INTEGER NOT NULL,
    reason TEXT NOT NULL, trace TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS newest (share TEXT PRIMARY KEY, number INTEGER NOT NULL);
"""
_INSERT = "INSERT OR IGNORE INTO frames VALUES (?, ?, 'leased', ?, 1, 0) RETURNING number"


class Ledger:
    """Who has which frame of one (group, stream); thread-safe.

    States: ``leased`` by an owner, ``retry`` when due, ``done`` (rejected ones, too).  An owner is
    a member of a process; what a dead process had leased may be taken over.

    Parameters
    ----------
    path:
        The file; made if it is missing. It must not lie on a network file system.
    share:
        Group and stream id.
    """

    def __init__(self, path: Path, share: str) -> None:
        self._share = share
        self.owner = f"{_process(os.getpid())}:{secrets.token_hex(4)}"
        self._lock = threading.Lock()
        try:
            self._db = sqlite3.connect(
                path, timeout=30.0, isolation_level=None, check_same_thread=False
            )
            self._db.execute("PRAGMA journal_mode = WAL")
            # Survives the death of any process; a loss of power may repeat the last frames.
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise PipelineError(f"group state {path} cannot be used: {error}") from error

    def lease(self, numbers: Sequence[int]) -> list[int]:
        """Take frames that nobody has; return those that are ours now."""
        rows = []
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            for number in numbers:
                rows += self._db.execute(_INSERT, (self._share, number, self.owner)).fetchall()
            self._db.execute("COMMIT")
        return [int(number) for (number,) in rows]

    def pass_over(self, numbers: Sequence[int]) -> None:
        """Say of frames that nobody has had that they are done."""
        insert = "INSERT OR IGNORE INTO frames VALUES (?, ?, 'done', ?, 0, 0)"
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(insert, [(self._share, n, self.owner) for n in numbers])
            self._db.execute("COMMIT")

    def known(self, numbers: Sequence[int]) -> set[int]:
        """Return those of ``numbers`` that somebody has or had."""
        query = "SELECT number FROM frames WHERE share = ? AND number BETWEEN ? AND ?"
        with self._lock:
            found = self._db.execute(query, (self._share, min(numbers), max(numbers)))
            return {int(number) for (number,) in found.fetchall()}

    def take_due(self, now: float) -> tuple[int, int] | None:
        """Take a frame that is due to be tried again; return (number, attempt)."""
        return self._one(
            "UPDATE frames SET state = 'leased', owner = ?, attempt = attempt + 1"
            " WHERE share = ? AND number = (SELECT number FROM frames WHERE share = ?"
            " AND state = 'retry' AND due <= ? ORDER BY due LIMIT 1) RETURNING number, attempt",
            (self.owner, self._share, self._share, now),
        )

    def take_over(self) -> tuple[int, int] | None:
        """Take a frame whose owner has died or left; return (number, attempt)."""
        query = "SELECT DISTINCT owner FROM frames WHERE share = ? AND state = 'leased'"
        with self._lock:
            owners = [str(owner) for (owner,) in self._db.execute(query, (self._share,))]
        for owner in owners:
            if owner != self.owner and not _alive(owner):
                found = self._one(
                    "UPDATE frames SET owner = ? WHERE share = ? AND number = (SELECT number"
                    " FROM frames WHERE share = ? AND state = 'leased' AND owner = ? LIMIT 1)"
                    " RETURNING number, attempt",
                    (self.owner, self._share, self._share, owner),
                )
                if found is not None:
                    return found
        return None

    def _one(self, query: str, values: tuple[object, ...]) -> tuple[int, int] | None:
        with self._lock:
            rows = self._db.execute(query, values).fetchall()
        return (int(rows[0][0]), int(rows[0][1])) if rows else None

    def done(self, number: int) -> bool:
        """Say that a frame is done; False if it is not ours any more."""
        return self._settle(number, "done", 0.0)

    def retry(self, number: int, due: float) -> bool:
        """Say that a frame is to be tried again at ``due``; False if it is not ours any more."""
        return self._settle(number, "retry", due)

    def reject(self, number: int, attempt: int, reason: str, trace: str) -> bool:
        """Keep the reason, and say that the frame is done; False if it is not ours any more."""
        with self._lock:
            values = (self._share, number, attempt, reason, trace)
            self._db.execute("INSERT INTO rejected VALUES (?, ?, ?, ?, ?)", values)
        return self._settle(number, "done", 0.0)

    def _settle(self, number: int, state: str, due: float) -> bool:
        query = (
            "UPDATE frames SET state = ?, due = ? WHERE share = ? AND number = ? AND owner = ?"
            " AND state = 'leased'"
        )
        with self._lock:
            done = self._db.execute(query, (state, due, self._share, number, self.owner))
            return done.rowcount == 1

    def unfinished(self) -> tuple[int, float | None]:
        """Return how many frames are leased or wait, and when the next is due (None: none)."""
        query = (
            "SELECT count(*), min(CASE state WHEN 'retry' THEN due END) FROM frames"
            " WHERE share = ? AND state != 'done'"
        )
        with self._lock:
            count, due = self._db.execute(query, (self._share,)).fetchone()
        return int(count), due

    def rejected(self) -> list[tuple[int, int, str, str]]:
        """Return (number, attempt, reason, traceback) of what was given up."""
        query = "SELECT number, attempt, reason, trace FROM rejected WHERE share = ?"
        with self._lock:
            return self._db.execute(query, (self._share,)).fetchall()

    def drop_rejected(self, numbers: Iterable[int], *, replay: bool) -> None:
        """Forget what was given up; with ``replay`` the frames are due again, as never tried."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            for number in numbers:
                where = (self._share, number)
                if replay:
                    self._db.execute(
                        "UPDATE frames SET state = 'retry', due = 0, attempt = 0"
                        " WHERE share = ? AND number = ? AND state = 'done'",
                        where,
                    )
                self._db.execute("DELETE FROM rejected WHERE share = ? AND number = ?", where)
            self._db.execute("COMMIT")

    def done_numbers(self) -> set[int]:
        """Return the frames that are done, rejected ones included."""
        query = "SELECT number FROM frames WHERE share = ? AND state = 'done'"
        with self._lock:
            return {int(number) for (number,) in self._db.execute(query, (self._share,))}

    def waiting(self) -> int:
        """Return how many frames wait to be tried again."""
        query = "SELECT count(*) FROM frames WHERE share = ? AND state = 'retry' AND attempt > 0"
        with self._lock:
            return int(self._db.execute(query, (self._share,)).fetchone()[0])

    def owners(self) -> list[str]:
        """Return the living members that have frames, as pid:start:member."""
        query = "SELECT DISTINCT owner FROM frames WHERE share = ? AND state = 'leased'"
        with self._lock:
            found = [str(owner) for (owner,) in self._db.execute(query, (self._share,))]
        return [owner for owner in found if _alive(owner)]

    def set_done(self, numbers: Iterable[int]) -> None:
        """Say that exactly these frames are done, and nothing is known of the others."""
        rows = [(self._share, number, self.owner) for number in numbers]
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("DELETE FROM frames WHERE share = ?", (self._share,))
            self._db.executemany("INSERT INTO frames VALUES (?, ?, 'done', ?, 1, 0)", rows)
            self._db.execute("COMMIT")

    def newest(self) -> int:
        """Return the highest number that was taken as the newest, -1 for none."""
        query = "SELECT number FROM newest WHERE share = ?"
        with self._lock:
            row = self._db.execute(query, (self._share,)).fetchone()
        return int(row[0]) if row else -1

    def take_newest(self, number: int) -> bool:
        """Take a frame as the newest; False if it, or a newer one, was taken before."""
        query = (
            "INSERT INTO newest VALUES (?, ?) ON CONFLICT (share) DO UPDATE"
            " SET number = excluded.number WHERE excluded.number > number"
        )
        with self._lock:
            return self._db.execute(query, (self._share, number)).rowcount == 1

    def release(self, numbers: Iterable[int] | None = None) -> None:
        """Give back leases; all of ours by default."""
        with self._lock:
            if numbers is None:
                # Due again at once, with the attempt counted as it was.
                self._db.execute(
                    "UPDATE frames SET state = 'retry', due = 0, attempt = attempt - 1"
                    " WHERE share = ? AND owner = ? AND state = 'leased'",
                    (self._share, self.owner),
                )
                return
            for number in numbers:
                self._db.execute(
                    "DELETE FROM frames"
                    " WHERE share = ? AND owner = ? AND state = 'leased' AND number = ?",
                    (self._share, self.owner, number),
                )

    def close(self) -> None:
        """Give back what is leased and close the file; may be called twice."""
        try:
            self.release()
        except sqlite3.ProgrammingError:  # closed before
            return
        with self._lock:
            self._db.close()


def _process(pid: int) -> str:
    """Return pid and start time: a number used again is another process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return f"{pid}:{fields[19]}" if fields[0] not in ("Z", "X") else f"{pid}:dead"
    except (OSError, IndexError):
        return f"{pid}:0"


def _alive(owner: str) -> bool:
    pid, start, _ = owner.split(":")
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return _process(int(pid)) == f"{pid}:{start}"
