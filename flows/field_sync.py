"""The way back: what the field has sent becomes a new version of the field's data, if anything is new.

Started by ``headland sync``, by a schedule (``prefect.yaml``), in the Prefect UI, or served from here with
``python -m flows.field_sync``. Run twice it changes nothing; killed anywhere, the next run ends with the same files.
"""

# No postponed annotations here: a scheduled run loads this file as a script and could not resolve them.
import time
from pathlib import Path
from typing import Annotated, Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from pydantic import Field

from tasks.dvc_state import mend_after_crash
from tasks.field.collect import Collected, collect
from tasks.field.schema import FOLDER
from tasks.field.summary import SyncSummary, summarize
from tasks.field.version import add_version, write_card
from tasks.fleet.folder import FleetFolder
from tasks.fleet.ingest import Ingested, ingest_folder
from tasks.fleet.store import Store
from tasks.running import AlreadyRunningError, exclusive_run
from tasks.stages import find_root

NIGHTLY = "0 3 * * *"  # at night, before the devices' morning


@flow(name="field-sync", persist_result=False)
def field_sync(
    folder: Annotated[Path | None, Field(description="an uplink's folder, a stick; none: the fleet's own")] = None,
    fleet: Annotated[Path | None, Field(description="the fleet's folder; none: .headland/fleet")] = None,
) -> SyncSummary:
    """Take in what devices have sent, and keep their records as a version of the field's data."""
    root = find_root(Path.cwd())
    cloud = FleetFolder(fleet.resolve()) if fleet else FleetFolder.of(root)
    ingested = take_in(cloud, folder.resolve() if folder else cloud.uplink)
    with exclusive_run(root):
        mend_after_crash(root)
        collected = records(root, cloud)
        is_new = keep_version(root, collected)
    summary = summarize(root / FOLDER, ingested, collected, is_new)
    rows: list[dict[str, Any]] = [{"what": what, "value": str(value)} for what, value in summary.in_words()]
    create_table_artifact(table=rows, key="field-sync", description="What the field sent")
    get_run_logger().info("%s", summary.headline())
    return summary


def passing_trouble(_task: Any, _run: Any, state: Any) -> bool:
    """Whether the disk or a lock failed, and not what was asked for."""
    return isinstance(state.result(raise_on_failure=False), OSError | AlreadyRunningError)


@task(retries=2, retry_delay_seconds=3, retry_condition_fn=passing_trouble, cache_policy=NO_CACHE, persist_result=False)
def take_in(fleet: FleetFolder, folder: Path) -> Ingested:
    """Batches of a folder into the store, each message once."""
    with Store(fleet.store) as store:
        return ingest_folder(folder, store, fleet.quarantine, received_s=time.time(), devices=fleet.enrolled())


@task(retries=2, retry_delay_seconds=3, retry_condition_fn=passing_trouble, cache_policy=NO_CACHE, persist_result=False)
def records(root: Path, fleet: FleetFolder) -> Collected:
    """Records of the store into one file for each crop and season."""
    with Store(fleet.store) as store:
        return collect(store, root / FOLDER, fleet.refused_records)


@task(retries=2, retry_delay_seconds=3, retry_condition_fn=passing_trouble, cache_policy=NO_CACHE, persist_result=False)
def keep_version(root: Path, collected: Collected) -> bool:
    """The files as they are into DVC, and their card beside them; False if both are there already."""
    is_new = add_version(root, root / FOLDER)
    return write_card(root / FOLDER, collected.refused, collected.dropped) or is_new


if __name__ == "__main__":
    field_sync.serve(name="daily", cron=NIGHTLY, limit=1)
