"""``lichtstrom connect hdf5 | list | remove``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pipeline.cli.hdf5_options import file_options, mapping_option
from pipeline.cli.names import open_stream, stream_argument
from pipeline.cli.output import json_option, print_json, print_pairs, print_table
from pipeline.connectors.errors import (
    ConnectError,
)
from pipeline.errors import (
    RuntimeUnavailableError,
)
from pipeline.naming import StreamId

if TYPE_CHECKING:
    from pipeline.connectors.hdf5 import Job
    from pipeline.connectors.rest import ConnectorStatus, ConnectRest
    from pipeline.session import Session
    from pipeline.sinks.hdf5.files import Options

F = TypeVar("F", bound=Callable[..., Any])


def url_option(command: F) -> F:
    """Add ``--url``."""
    return click.option(
        "--url",
        envvar="LICHTSTROM_CONNECT_URL",
        metavar="URL",
        help="REST address of any worker of the Connect cluster.  [default:"
        " LICHTSTROM_CONNECT_URL, else the worker of `lichtstrom up --connect`]",
    )(command)


@click.group()
def command() -> None:
    """Run sinks inside Kafka Connect, which starts, spreads and restarts them."""


@command.command()
@stream_argument
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where the file goes: DIR/<detector>_<stream>.h5, by this path on every worker.",
)
@click.option(
    "--tasks",
    type=click.IntRange(1, 1000),
    default=1,
    metavar="N",
    help="At most so many tasks; more than the topic has partitions idle.",
)
@file_options
@mapping_option
@click.option(
    "--name", metavar="NAME", help="Of the connector.  [default: hdf5 and the stream's name]"
)
@click.option(
    "--wait",
    is_flag=True,
    help="Return when the file is there; for DIR on a file system that this machine sees.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Limit of --wait.  [default: as long as the stream goes on]",
)
@url_option
@json_option
def hdf5(
    stream: str,
    out: Path,
    tasks: int,
    options: Options,
    mapping: Path | None,
    name: str | None,
    wait: bool,
    timeout_s: float | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Have Kafka Connect write a stream to an HDF5 file, while it is taken or later.

    The command returns when the connector is made, with --wait when the file is finished. The
    connector stays until `lichtstrom connect remove`.
    """
    from pipeline.connectors.hdf5 import Job, finished_file
    from pipeline.connectors.rest import ConnectRest
    from pipeline.connectors.waiting import identity, wait_for_file
    from pipeline.session import connect
    from pipeline.sinks.hdf5.files import check_master_free, master_path

    if timeout_s is not None and not wait:
        raise click.UsageError("--timeout is the limit of --wait, which is not given")
    job = Job(stream=StreamId.parse(stream), directory=out.absolute(), options=options)
    with (
        ConnectRest(_url(url)) as rest,
        connect() as session,
        open_stream(session, stream) as opened,
    ):
        check_master_free(job.directory, opened.info, options)
        path = master_path(job.directory, opened.info, options)
        # The finished file of this very stream is left as it is: no other one will come.
        before = None if finished_file(job, opened) else identity(path)
        facts = _create(rest, session, job, mapping, name=name, tasks=tasks)
        facts["file"] = str(path)
        if wait:
            wait_for_file(rest, facts["connector"], path, before=before, timeout_s=timeout_s)
    if as_json:
        print_json(facts)
    else:
        print_pairs({key: value for key, value in facts.items() if key != "config"})


def _create(
    rest: ConnectRest,
    session: Session,
    job: Job,
    mapping: Path | None,
    *,
    name: str | None,
    tasks: int,
) -> dict[str, Any]:
    """Make the topic of dead letters and the connector; return what was made."""
    from pipeline.connectors.hdf5_config import connector_config, connector_name

    admin = session.services.admin
    if rest.cluster_id() != admin.cluster_id():
        raise ConnectError(
            f"Kafka Connect at {rest.url} works on another Kafka cluster than the one at"
            f" {session.settings.kafka.bootstrap}, where {job.stream} is: name its own by --url"
        )
    name = name or connector_name(job.stream)
    config = connector_config(
        job.stream,
        job.directory,
        job.options,
        names=session.services.names,
        name=name,
        tasks=tasks,
        replication=admin.replication(),
        mapping=mapping.absolute() if mapping is not None else None,
    )
    rest.require_plugin(config["connector.class"])
    dead_letters = config["errors.deadletterqueue.topic.name"]
    # Brokers make no topic by themselves, and Connect would make one that expires in a week.
    admin.create_topic(dead_letters, partitions=1)
    rest.create(name, config)
    return {
        "connector": name,
        "url": rest.url,
        "stream": str(job.stream),
        "topic": config["topics"],
        "dead_letters": dead_letters,
        "config": config,
    }


@command.command("list")
@url_option
@json_option
def list_(url: str | None, as_json: bool) -> None:
    """List the connectors of the cluster, ours and others, with the states of their tasks."""
    from pipeline.connectors.rest import ConnectRest

    with ConnectRest(_url(url)) as rest:
        found = rest.statuses()
    if as_json:
        print_json([_facts(status) for status in found])
    else:
        titles = ("connector", "state", "tasks", "failure")
        rows = [(s.name, s.state.lower(), _tasks(s), s.failure) for s in found]
        print_table(titles, rows)


@command.command()
@click.argument("name", metavar="NAME|STREAM")
@url_option
def remove(name: str, url: str | None) -> None:
    """Remove a connector; files stay, finished or not, and dead letters, too.

    Of STREAM it is the connector that `connect hdf5 STREAM` has made.
    """
    from pipeline.connectors.hdf5_config import connector_name
    from pipeline.connectors.rest import ConnectRest

    if "/" in name:  # no connector's name has it
        name = connector_name(StreamId.parse(name))
    with ConnectRest(_url(url)) as rest:
        forgotten = rest.remove(name)
    click.echo(f"removed {name}")
    if not forgotten:
        click.echo(
            "its place in the topics is kept: a connector of this name would go on there", err=True
        )


def _url(given: str | None) -> str:
    from pipeline.local import default_home
    from pipeline.local.state import load_info

    if given:
        return given
    home = default_home()
    info = load_info(home)
    if info is None or info.connect is None:
        raise RuntimeUnavailableError(
            f"{home} runs no Kafka Connect worker: `lichtstrom up --connect` starts one;"
            " or name another by --url or LICHTSTROM_CONNECT_URL"
        )
    return info.connect.url


def _tasks(status: ConnectorStatus) -> str:
    return ", ".join(f"{task.number} {task.state.lower()}" for task in status.tasks) or "none"


def _facts(status: ConnectorStatus) -> dict[str, Any]:
    return {
        "connector": status.name,
        "state": status.state,
        "worker": status.worker,
        "failure": status.failure,
        "tasks": [
            {"task": t.number, "state": t.state, "worker": t.worker, "trace": t.trace}
            for t in status.tasks
        ],
    }
