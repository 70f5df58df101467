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

    beamtime, store = sys.argv[1:]
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        with pipeline.connect(store) as session:
            bootstrap = session.settings.kafka.bootstrap.encode()
            stream = session.stream(beamtime, "d", "s")
            array = stream.array(masked=True, frames_per_block=4)
            results = stream.map_blocks(ends, frames_per_block=4)
        # the session is closed: the workers have the store alone
        graph = pickle.dumps(dict(array.__dask_graph__()))
        pids = client.run(lambda: __import__("os").getpid())
        print(
            json.dumps(
                {
                    "means": array.mean(axis=(1, 2)).compute().tolist(),
                    "blocks": dask.compute(*results),
                    "workers": len(set(pids.values())),
                    "knows_broker": bool(bootstrap) and bootstrap in graph,
                }
            )
        )


if __name__ == "__main__":
    main()
