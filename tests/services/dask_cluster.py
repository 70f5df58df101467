"""A stream computed by a Dask cluster of processes: run by a test, prints what came out."""

from __future__ import annotations

import json
import pickle
import sys
from typing import Any

import pipeline


def ends(frames: list[Any]) -> list[Any]:
    return [(f.number, f.attributes["omega"], int(f.array.max())) for f in frames]


def main() -> None:
    import dask
    from distributed import Client, LocalCluster

    beamtime, *detectors = sys.argv[1:]
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        work, graphs = {}, b""
        with pipeline.connect("s3") as session:
            bootstrap = session.settings.kafka.bootstrap.encode()
            for detector in detectors:
                stream = session.stream(beamtime, detector, "s")
                array = stream.array(masked=True, frames_per_block=4)
                work[detector] = array, stream.map_blocks(ends, frames_per_block=4)
                graphs += pickle.dumps((dict(array.__dask_graph__()), work[detector][1]))
        # the session is closed: the workers have the store alone
        found: dict[str, Any] = {
            detector: (array.mean(axis=(1, 2)).compute().tolist(), dask.compute(*results))
            for detector, (array, results) in work.items()
        }
        pids = client.run(lambda: __import__("os").getpid())
        found |= {"workers": len(set(pids.values())), "knows_broker": bootstrap in graphs}
        print(json.dumps(found))


if __name__ == "__main__":
    main()
