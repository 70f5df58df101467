"""Values from Bluesky: a callback for the RunEngine that publishes its documents.

Nothing of Bluesky is imported: a callback is called with a name and a dictionary.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pipeline.frame import AttributeValue
from pipeline.session import Session
from pipeline.value_publisher import ValuePublisher

log = logging.getLogger(__name__)
#: Elements of an array beyond which it is no attribute.
_MOST_ELEMENTS = 64
#: The documents' own name for what is measured at the points of a scan.
_POINTS = "primary"


class BlueskyValues:
    """Publishes each run as a stream of values; ``RE.subscribe(BlueskyValues(session, "c1"))``.

    Every event is put at its own time.  Those of ``primary``, the points of the scan, have
    ``seq_num`` (from 1) and ``trigger`` (from ``first_trigger``) too: frames join them by
    ``on="trigger"``.  The stream ends with its run; an error of publishing stops the plan.

    Parameters
    ----------
    channel:
        Stands where detectors have their name.
    stream:
        Name of the stream, or what makes it of the start document.  By default the start
        document's ``stream`` (``RE(plan, stream="scan_7")``), else ``scan_<scan_id>_<uid>``.
    tick_s:
        After so much silence the stream says that nothing has changed.
    """

    def __init__(
        self,
        session: Session,
        beamtime: str,
        channel: str = "bluesky",
        *,
        stream: str | Callable[[Mapping[str, Any]], str] | None = None,
        first_trigger: int = 0,
        tick_s: float | None = 0.5,
    ) -> None:
        self._session = session
        self._beamtime, self._channel = beamtime, channel
        self._stream = stream
        self._first_trigger = first_trigger
        self._tick_s = tick_s
        #: By the run's uid, and by the descriptor's: runs may be nested.
        self._runs: dict[str, ValuePublisher] = {}
        self._units: dict[str, dict[str, str]] = {}
        self._descriptors: dict[str, tuple[str, str, frozenset[str]]] = {}

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take a document; others than those of a run's values are passed over."""
        if name == "start":
            self._begin(doc)
        elif name == "descriptor":
            self._describe(doc)
        elif name == "event":
            self._put(doc)
        elif name == "event_page":
            for event in _events(doc):
                self._put(event)
        elif name == "stop":
            self._end(doc)

    def _begin(self, doc: Mapping[str, Any]) -> None:
        facts = {key: doc[key] for key in ("uid", "scan_id", "plan_name") if key in doc}
        self._runs[doc["uid"]] = self._session.publish_values(
            self._beamtime,
            self._channel,
            self._name(doc),
            metadata={f"bluesky_{key}": value for key, value in facts.items()},
            tick_s=self._tick_s,
        )

    def _name(self, doc: Mapping[str, Any]) -> str:
        if isinstance(self._stream, str):
            return self._stream
        if self._stream is not None:
            return self._stream(doc)
        return str(doc.get("stream") or f"scan_{doc.get('scan_id', 0)}_{doc['uid'][:8]}")

    def _describe(self, doc: Mapping[str, Any]) -> None:
        run, keys = doc["run_start"], doc["data_keys"]
        taken = frozenset(key for key, said in keys.items() if _is_value(said))
        self._descriptors[doc["uid"]] = run, doc.get("name", _POINTS), taken
        units = self._units.setdefault(run, {})
        fresh = {key: str(keys[key]["units"]) for key in taken if keys[key].get("units")}
        if fresh and not fresh.items() <= units.items():
            units.update(fresh)
            self._runs[run].update_metadata({"units": dict(units)})

    def _put(self, doc: Mapping[str, Any]) -> None:
        run, name, taken = self._descriptors[doc["descriptor"]]
        values: dict[str, AttributeValue] = {
            key: _plain(value) for key, value in doc["data"].items() if key in taken
        }
        if name == _POINTS:
            values["seq_num"] = doc["seq_num"]
            values["trigger"] = doc["seq_num"] - 1 + self._first_trigger
        self._runs[run].put_all(values, round(doc["time"] * 1e9))

    def _end(self, doc: Mapping[str, Any]) -> None:
        run = doc["run_start"]
        out = self._runs.pop(run)
        self._units.pop(run, None)
        self._descriptors = {k: d for k, d in self._descriptors.items() if d[0] != run}
        done = doc.get("exit_status") == "success"
        out.end("complete" if done else "aborted")
        log.info("run ended stream=%s state=%s", out.out.stream, doc.get("exit_status"))

    def close(self) -> None:
        """Leave the streams of runs that have not ended open, to be continued."""
        for out in self._runs.values():
            out.close()
        self._runs.clear()


def _is_value(said: Mapping[str, Any]) -> bool:
    """Tell whether a data key is a value: not an image that lies elsewhere, no long array."""
    elements = 1
    for extent in said.get("shape") or ():
        elements *= extent or 0
    return "external" not in said and elements <= _MOST_ELEMENTS


def _plain(value: Any) -> AttributeValue:
    """Return numpy's scalars and arrays as Python's."""
    plain: AttributeValue = value.tolist() if hasattr(value, "tolist") else value
    return plain


def _events(page: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for row, seq_num in enumerate(page["seq_num"]):
        data = {key: column[row] for key, column in page["data"].items()}
        yield {
            "descriptor": page["descriptor"],
            "seq_num": seq_num,
            "time": page["time"][row],
            "data": data,
        }
