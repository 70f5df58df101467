"""Every metric there is: its name, what it counts, its labels.  docs/metrics.md explains them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]

#: What a frame's way is cut into; values of the label ``stage`` of :data:`STAGE_SECONDS`.
STAGES = {
    "source_acknowledged": "frame handed to the publisher, until published and confirmed",
    "acknowledged_delivered": "record appended by the broker, until handed to a group's member",
    "work": "what the function of a worker took for one frame",
    "result_acknowledged": "a worker's result, until published and confirmed",
    "delivered_durable": "record taken by the sink, until its frames are in the file for good",
}
STAGE_SECONDS = "lichtstrom_stage_seconds"
#: Upper bounds in seconds: a fast local frame takes 3 ms, a store that is away minutes.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric; counters carry the suffix ``_total`` in their name.

    Parameters
    ----------
    kind:
        A counter only rises while its process lives, a gauge is what is so now.
    text:
        One sentence for people.
    labels:
        Names of its labels, in their order.
    """

    name: str
    kind: Kind
    text: str
    labels: tuple[str, ...]


_STREAM = ("beamtime", "detector", "stream")
_GROUP = (*_STREAM, "group")


def _counter(name: str, text: str, labels: tuple[str, ...]) -> Metric:
    return Metric(name=f"lichtstrom_{name}_total", kind="counter", text=text, labels=labels)


def _gauge(name: str, text: str, labels: tuple[str, ...]) -> Metric:
    return Metric(name=f"lichtstrom_{name}", kind="gauge", text=text, labels=labels)


_ALL = (
    Metric(
        name=STAGE_SECONDS,
        kind="histogram",
        text="Seconds that frames took for one stage of their way.",
        labels=("stage", *_GROUP),
    ),
    # -- publishers: adapters, values, replays, results of workers ------------------------------
    _counter("publish_frames", "Frames published and confirmed.", _STREAM),
    _counter("publish_bytes", "Bytes of their payloads.", _STREAM),
    _counter("publish_refused", "Frames not taken because the queue was full.", _STREAM),
    _counter("publish_repeated", "Frames given twice and sent once.", _STREAM),
    _counter("publish_retries", "Puts to the store that failed and were tried again.", _STREAM),
    _counter("publish_failures", "Publishers stopped by an error (superseded, ...).", _STREAM),
    _gauge("publish_queue_frames", "Frames in memory, not confirmed yet.", _STREAM),
    _gauge("publish_missing_frames", "Numbers between those published that are not.", _STREAM),
    _gauge("spool_frames", "Frames that wait on local disk.", _STREAM),
    _gauge("spool_bytes", "Bytes of local disk they take.", _STREAM),
    _gauge("spool_limit_bytes", "Bytes of local disk they may take; 0 without a spool.", _STREAM),
    # -- adapters -------------------------------------------------------------------------------
    _counter("adapter_frames", "Frames taken from the instrument.", _STREAM[:2]),
    _counter("adapter_bytes", "Bytes taken from the instrument.", _STREAM[:2]),
    _counter("adapter_skipped", "Frames found published by an earlier run.", _STREAM[:2]),
    _counter("adapter_quarantined", "Things that could not be read as a frame.", _STREAM[:2]),
    _counter("adapter_streams", "Streams begun.", _STREAM[:2]),
    _counter("adapter_ended_streams", "Streams ended.", _STREAM[:2]),
    _counter("adapter_held_back_seconds", "Seconds in which the source had to wait.", _STREAM[:2]),
    _gauge("adapter_waiting", "1 while the source is held back, else 0.", _STREAM[:2]),
    # -- members of groups ----------------------------------------------------------------------
    _counter("group_delivered", "Frames handed to this member.", _GROUP),
    _counter("group_received_bytes", "Payload bytes of the records this member took.", _GROUP),
    _counter("group_acknowledged", "Frames this member has done.", _GROUP),
    _counter("group_retried", "Frames given back, to be tried again.", _GROUP),
    _counter("group_rejected", "Frames given up: dead letters.", _GROUP),
    _counter("group_void", "Frames settled after they had gone to another member.", _GROUP),
    _counter("group_filtered", "Frames left out by the group's expression.", _GROUP),
    _counter("group_incomplete", "Frames delivered without all their modules.", _GROUP),
    _gauge("group_queue_frames", "Frames read from the topic and not handed out yet.", _GROUP),
    _gauge("group_in_hand_frames", "Frames handed out and not settled yet.", _GROUP),
    # -- workers --------------------------------------------------------------------------------
    _counter("worker_results", "Frames whose function returned something.", _GROUP),
    _counter("worker_skipped", "Frames whose function returned nothing.", _GROUP),
    _gauge("worker_pending_results", "Results not confirmed yet.", _GROUP),
    _counter("worker_crashes", "Processes of this worker that died.", ("group",)),
    _gauge("worker_processes", "Processes of this worker, by state.", ("group", "state")),
    _gauge("worker_resident_bytes", "Memory of all its processes together.", ("group",)),
    _counter("worker_process_frames", "Frames handled, by process.", ("group", "process")),
    # -- sinks ----------------------------------------------------------------------------------
    _counter("sink_frames", "Frames in the files of this sink.", _STREAM),
    _counter("sink_bytes", "Payload bytes of frames given to the files.", _STREAM),
    _counter("sink_duplicates", "Further copies of frames that were there.", _STREAM),
    _counter("sink_invalid", "Frames that could not be written: dead letters.", _STREAM),
    _gauge("sink_waiting_frames", "Frames that wait to be written.", _STREAM),
    _gauge(
        "sink_checkpoint_age_seconds",
        "Seconds since all that came was in the file for good.",
        _STREAM,
    ),
    # -- lichtstrom exporter --------------------------------------------------------------------
    _gauge(
        "streams",
        "Streams of a beamtime and detector, by state.",
        ("beamtime", "detector", "state"),
    ),
    _gauge("group_lag_frames", "Frames that a group has not done yet.", _GROUP),
    _gauge("group_lag_records", "Records behind the group's committed offsets.", _GROUP),
    _gauge("group_lag_seconds", "Frame time from the oldest of them to the newest.", _GROUP),
    _gauge("group_retry_frames", "Frames that wait to be tried again.", _GROUP),
    _gauge("group_members", "Members of a group.", _GROUP),
    _gauge("group_dead_letters", "Dead letters that are kept.", _GROUP),
    _gauge("stream_head_frame", "Highest frame number of a stream.", _STREAM),
    _gauge("stream_idle_seconds", "Seconds since a record was last appended.", _STREAM),
    _gauge("left_spool_bytes", "Bytes that dead writers left in a spool.", ("folder",)),
    _gauge("left_spool_segments", "Segments that dead writers left in a spool.", ("folder",)),
    _gauge("broker_up", "1 if the broker answered in the last round, else 0.", ()),
    _gauge("broker_answer_seconds", "How long it took to answer.", ()),
    _gauge("brokers", "Brokers of the cluster.", ()),
    _gauge("partitions", "Partitions of our topics.", ()),
    _gauge("under_replicated_partitions", "Those with fewer replicas in sync than wanted.", ()),
    _gauge("offline_partitions", "Those without a leader.", ()),
    _gauge("store_up", "1 if the store took and gave a small object, else 0.", ("store",)),
    _gauge("store_put_seconds", "How long the put of 4 KiB took.", ("store",)),
    _gauge("store_get_seconds", "How long the get of 4 KiB took.", ("store",)),
    _gauge("store_free_bytes", "Free space where the store is a directory here.", ("store",)),
    _gauge("store_total_bytes", "Size of that file system.", ("store",)),
    _gauge("exporter_round_seconds", "How long the last look at everything took.", ()),
    _gauge("exporter_age_seconds", "Seconds since the last look that succeeded.", ()),
    _counter("exporter_failures", "Looks that failed.", ()),
    # -- each process ---------------------------------------------------------------------------
    _gauge(
        "build_info", "Always 1; the version of lichtstrom, the command.", ("version", "command")
    ),
    _gauge("folded_streams", 'Older streams that share the label stream="other".', ()),
)
#: By name.
METRICS = {metric.name: metric for metric in _ALL}
