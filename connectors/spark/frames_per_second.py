"""Spark Structured Streaming over lichtstrom's topics: frames per stream and second.

    python connectors/spark/frames_per_second.py BEAMTIME DETECTOR [--follow SECONDS]

Needs Java 17 and ``pip install 'lichtstrom[spark]'`` here and on the executors; the four jars of
Spark's Kafka source are fetched from Maven Central and checked (``spark.lock``).  Prints a JSON
line per stream and second.  Only records are read, no pixels.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pipeline
from pipeline.config import Settings
from pipeline.local.jars import ensure, parse_lock
from pipeline.naming import Names
from pipeline.records import Segment, Start
from pipeline.wire.codec import decode

LOCK = Path(__file__).with_name("spark.lock")
#: What a record says about each of its frames, as Spark's columns.
FRAMES = (
    "array<struct<stream_key:string,number:bigint,module:int,timestamp_ns:bigint,nbytes:bigint>>"
)
NAMES = "struct<stream_key:string,stream:string,head:int>"


def frames_of(value: bytes | bytearray) -> list[tuple[str, int, int, int, int]]:
    """Return a row per frame of one record of a data topic; none for marks."""
    record = decode(bytes(value))
    if not isinstance(record, Segment):
        return []
    key, module = record.stream_key.hex(), record.module
    columns = (record.numbers, record.timestamps_ns, record.lengths)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [(key, number, module, stamp_ns, nbytes) for number, stamp_ns, nbytes in rows]


def name_of(value: bytes | bytearray | None) -> tuple[str, str, int] | None:
    """Return key, name and first module of the stream that a record starts; of others None."""
    record = decode(bytes(value)) if value else None
    if not isinstance(record, Start):
        return None
    name = f"{record.beamtime}/{record.detector}/{record.stream}"
    return record.stream_key.hex(), name, min(record.module_indices)


def open_spark(jars: list[Path]) -> Any:
    """Return a local Spark with the Kafka source on its class path."""
    from pyspark.sql import SparkSession

    return (
        SparkSession.builder.appName("lichtstrom")
        .master("local[2]")
        .config("spark.jars", ",".join(str(jar) for jar in jars))
        .config("spark.sql.shuffle.partitions", 2)
        .config("spark.ui.enabled", False)
        # ours are plain functions; Arrow's need pandas
        .config("spark.sql.execution.pythonUDF.arrow.enabled", False)
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .getOrCreate()
    )


def kafka(reader: Any, settings: Settings, topic: str) -> Any:
    """Return a reader of one topic, from its begin; settings of librdkafka are not Spark's."""
    options = {
        "kafka.bootstrap.servers": settings.kafka.bootstrap,
        "subscribe": topic,
        "startingOffsets": "earliest",
    }
    return reader.format("kafka").options(**options).load()


def frames(spark: Any, settings: Settings, beamtime: str, detector: str) -> Any:
    """Return all frames of a detector as a streaming DataFrame, each once, with its stream's name.

    Copies (a writer that went on after a crash) are told by stream, number and module.
    """
    from pyspark.sql import functions as F

    names = Names(settings.kafka.prefix)
    catalogue = kafka(spark.read, settings, names.catalogue(beamtime))
    known = (
        catalogue.select(F.udf(name_of, NAMES)("value").alias("start"))
        .where("start is not null")
        .select("start.*")
        .dropDuplicates(["stream_key"])  # a start may be repeated; the first one counts
    )
    segments = kafka(spark.readStream, settings, names.topic(beamtime, detector))
    rows = segments.select(F.explode(F.udf(frames_of, FRAMES)("value")).alias("frame"))
    each = rows.select("frame.*").dropDuplicates(["stream_key", "number", "module"])
    return each.join(known, "stream_key", "left")


def per_second(found: Any) -> Any:
    """Return frames and bytes per stream and second of exposure (since 1970, UTC)."""
    from pyspark.sql import functions as F

    second = F.expr("timestamp_ns div 1000000000").alias("second")
    once = F.when(F.col("module") == F.col("head"), 1).otherwise(0)  # a frame has many modules
    return found.groupBy("stream", second).agg(
        F.sum(once).alias("frames"), F.sum("nbytes").alias("nbytes")
    )


def run(spark: Any, counts: Any, follow_s: float) -> Iterator[dict[str, Any]]:
    """Yield what was counted once all there was is read, or after so many seconds."""
    writer = counts.writeStream.outputMode("complete").format("memory").queryName("counts")
    if follow_s:
        query = writer.trigger(processingTime="1 second").start()
        query.awaitTermination(follow_s)
        query.processAllAvailable()
        query.stop()
    else:
        query = writer.trigger(availableNow=True).start()
        query.awaitTermination()
    for row in spark.sql("select * from counts order by stream, second").collect():
        yield {**row.asDict(), "second": datetime.fromtimestamp(row.second, UTC).isoformat()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("beamtime")
    parser.add_argument("detector")
    parser.add_argument("--follow", type=float, default=0.0, metavar="SECONDS")
    given = parser.parse_args()
    with pipeline.connect() as session:
        settings = session.settings
    spark = open_spark(list(ensure(parse_lock(LOCK.read_text(), name=LOCK.name), timeout_s=300)))
    try:
        counts = per_second(frames(spark, settings, given.beamtime, given.detector))
        for row in run(spark, counts, given.follow):
            print(json.dumps(row))
    finally:
        spark.stop()


if __name__ == "__main__":
    main()
