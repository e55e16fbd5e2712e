"""``headland fleet broker`` and ``headland fleet listen``: the MQTT uplink's half in the cloud."""

from __future__ import annotations

import json
import logging
import signal
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tasks.errors import errors_told

app = typer.Typer(help="A mosquitto broker for the fleet: make its folder, run it.", no_args_is_help=True)

FleetDir = Annotated[Path, typer.Option("--fleet", help="The fleet's folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
FLEET = Path(".headland/fleet")


@app.command("init")
def broker_init(
    device: Annotated[list[str] | None, typer.Option(help="Device that may connect; once or more.")] = None,
    host: Annotated[str | None, typer.Option(help="Name or address that devices connect to.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65_535, help="Port to listen on.")] = None,
    bind: Annotated[str | None, typer.Option(help="Address of this machine to listen on; loopback at first.")] = None,
    fleet: FleetDir = FLEET,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Make a broker's folder, or add devices to it; passwords and certificates that are there stay."""
    with errors_told(debug):
        from tasks.fleet.broker import Address, broker_of, init

        before = asdict(broker_of(fleet).address() or Address())
        told = {name: value for name, value in (("host", host), ("port", port), ("bind", bind)) if value is not None}
        address = Address(**{**before, **told})
        folder = init(fleet, device or (), address)
        secrets = {name: str(folder.secret(name)) for name in device or ()}
        content = {"conf": str(folder.conf), "ca": str(folder.ca), **asdict(address), "passwords": secrets}
        lines = [f"broker      {address.host}:{address.port}, listening on {address.bind}", f"ca          {folder.ca}"]
        lines += [f"{name}: password in {path}" for name, path in secrets.items()]
        lines += ["next        headland fleet broker run, or kill -HUP a broker that runs"]
        typer.echo(json.dumps(content, indent=2) if as_json else "\n".join(lines))


@app.command("remove")
def broker_remove(
    device: Annotated[str, typer.Argument(help="Device that may no longer connect.")],
    fleet: FleetDir = FLEET,
    debug: Debug = False,
) -> None:
    """Take a device's password away."""
    with errors_told(debug):
        from tasks.fleet.broker import remove

        remove(fleet, device)
        typer.echo(f"{device} has no password any more. Restart the broker: one that is connected stays until then.")


@app.command("run")
def broker_run(fleet: FleetDir = FLEET, debug: Debug = False) -> None:
    """Run the broker here until it is stopped; this process becomes mosquitto."""
    with errors_told(debug):
        from tasks.fleet.broker import run

        run(fleet)


def listen(
    host: Annotated[str | None, typer.Option(help="A broker of your own; without it, the fleet's.")] = None,
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Its port.")] = 8883,
    ca_file: Annotated[Path | None, typer.Option(help="CA that signed its certificate.")] = None,
    username: Annotated[str | None, typer.Option(help="The cloud's name there.")] = None,
    password_file: Annotated[Path | None, typer.Option(help="The cloud's password there.")] = None,
    fleet: FleetDir = FLEET,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Take in what devices send over MQTT, until stopped; a broker that goes away is waited for."""
    with errors_told(debug):
        from headland_edge.mqtt_session import Broker

        from tasks.fleet.broker import CLOUD
        from tasks.fleet.mqtt_ingest import consume

        broker = None
        if host is not None:
            if ca_file is None or password_file is None:
                raise typer.BadParameter("--host needs --ca-file and --password-file")
            broker = Broker(host, port, ca_file, username or CLOUD, password_file)
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        found = consume(fleet, stop, broker=broker)
        refused = ", ".join(f"{count} {code}" for code, count in sorted(found.refused.items())) or "nothing"
        line = f"{found.batches} batches: {found.new} new, {found.repeated} known already, refused: {refused}"
        typer.echo(json.dumps(asdict(found)) if as_json else line)
