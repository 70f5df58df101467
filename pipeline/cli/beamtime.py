"""``lichtstrom beamtime create | list | show``."""

from __future__ import annotations

import click

from pipeline.cli.names import literal
from pipeline.cli.output import json_option, print_json, print_pairs, print_table


@click.group()
def command() -> None:
    """Create, list and show beamtimes."""


@command.command()
@click.argument("beamtime", metavar="NAME")
@click.option("--detector", metavar="NAME", help="Make its topic, too.  [default: none]")
@click.option(
    "--partitions",
    type=click.IntRange(min=1),
    metavar="N",
    help="Of the detector's topic.  [default: kafka.partitions, 8]",
)
@click.option(
    "--replication",
    type=click.IntRange(min=1),
    metavar="N",
    help="Copies of each record.  [default: 3, or as many as there are brokers]",
)
@json_option
def create(
    beamtime: str,
    detector: str | None,
    partitions: int | None,
    replication: int | None,
    as_json: bool,
) -> None:
    """Make the topics and the bucket of a beamtime; what exists is left as it is."""
    from pipeline.session import connect

    with connect() as session:
        made = session.create_beamtime(
            beamtime, detector, partitions=partitions, replication=replication
        )
    if as_json:
        print_json({"beamtime": beamtime, "made": made})
    else:
        for name in made:
            click.echo(name)


@command.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the beamtimes of the broker, or of the store where there is no broker."""
    from pipeline.session import connect

    with connect() as session:
        services = session.services
        if services.has_broker:
            known = services.admin.beamtimes()
        else:
            buckets = services.store.folders("")
            found = (services.names.beamtime_of_bucket(bucket) for bucket in buckets)
            known = sorted(name for name in found if name is not None)
    if as_json:
        print_json(known)
    else:
        for name in known:
            click.echo(name)


@command.command()
@click.argument("beamtime", metavar="NAME")
@json_option
def show(beamtime: str, as_json: bool) -> None:
    """Tell a beamtime's topics, bucket and streams."""
    from pipeline.errors import TopicMissingError
    from pipeline.session import connect

    with connect() as session:
        services = session.services
        names = services.names
        catalogue = names.catalogue(beamtime)
        topics: dict[str, int] = {}
        if services.has_broker:
            start = catalogue.removesuffix("catalogue")
            topics = {n: p for n, p in services.admin.topics().items() if n.startswith(start)}
            if catalogue not in topics:
                raise TopicMissingError(catalogue, f"lichtstrom beamtime create {beamtime}")
        streams = [
            {"stream": str(s.name), "state": s.state, "created_ns": s.info.start.created_ns}
            for s in session.streams(f"{literal(beamtime)}/*/*")
        ]
        bucket = names.bucket(beamtime)
    if as_json:
        print_json({"beamtime": beamtime, "bucket": bucket, "topics": topics, "streams": streams})
        return
    print_pairs({"beamtime": beamtime, "bucket": bucket})
    for name, partitions in sorted(topics.items()):
        click.echo(f"topic     {name} ({partitions} partitions)")
    print_table(("stream", "state"), [(s["stream"], s["state"]) for s in streams])
