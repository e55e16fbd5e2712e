"""The rollout: judge the candidate, publish it, and bring it to the fleet in waves.

Started by ``headland rollout``, by a schedule (``prefect.yaml``: one step every few minutes), in the Prefect UI, or
served from here with ``python -m flows.rollout``. Killed at any moment it goes on where it was: what was decided is
signed, what was said is in the store, and nothing else is remembered.
"""

# No postponed annotations here: a scheduled run loads this file as a script and could not resolve them.
import time
from pathlib import Path
from typing import Annotated, Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import Field

from flows.rollout_journal import RolloutJournal
from tasks.fleet.candidate import find_candidate, judge_candidate
from tasks.fleet.control import Standing, plan_of, take_step
from tasks.fleet.folder import FleetFolder
from tasks.fleet.ingest import Ingested, ingest_folder
from tasks.fleet.keys import keyring
from tasks.fleet.publish import Published, publish
from tasks.fleet.rollout import Plan
from tasks.fleet.rollout_summary import RolloutSummary
from tasks.fleet.store import Store
from tasks.params import Params, load
from tasks.registry.gate import Verdict
from tasks.running import exclusive_run
from tasks.stages import find_root

EVERY_FEW_MINUTES = "*/5 * * * *"


@flow(name="rollout", persist_result=False)
def rollout(
    to_publish: Annotated[
        bool, Field(description="judge and publish the candidate first; needs the offline keys")
    ] = True,
    once: Annotated[bool, Field(description="take one step and end, for a schedule; else go on to the end")] = False,
    dry_run: Annotated[bool, Field(description="only tell what would be signed")] = False,
    every_s: Annotated[float, Field(gt=0, description="seconds between two steps")] = 60.0,
    fleet: Annotated[Path | None, Field(description="the fleet's folder; none: .headland/fleet")] = None,
) -> RolloutSummary | State[RolloutSummary]:
    """Bring the newest release to every device, or take it back from all: such a run ends as ``Halted``."""
    root = find_root(Path.cwd())
    folder, params = FleetFolder(fleet.resolve()) if fleet else FleetFolder.of(root), load(root / "params.yaml")
    with RolloutJournal() as journal:
        published = None
        candidate = find_candidate(root) if to_publish else None
        if candidate is not None:
            journal.judged(gate(root, folder, candidate, params))
            published = publish_bundle(folder, candidate, dry_run)
            journal.published(published)
        while True:
            if not dry_run:
                take_in_reports(folder)
            standing = step(folder, plan_of(params.rollout), dry_run)
            journal.stands(standing)
            if once or dry_run or standing.is_over:
                summary = RolloutSummary(published, standing)
                return Completed(name="Halted", data=summary) if summary.is_halted else summary
            time.sleep(every_s)


def passing_trouble(_task: Any, _run: Any, state: Any) -> bool:
    """Whether the disk or a lock failed, and not what was asked for."""
    return isinstance(state.result(raise_on_failure=False), OSError)


@task(cache_policy=NO_CACHE, persist_result=False)
def gate(root: Path, fleet: FleetFolder, candidate: Path, params: Params) -> Verdict:
    """Whether the candidate may be published; no stage rewrites its data meanwhile."""
    with exclusive_run(root):
        return judge_candidate(root, fleet, candidate, params)


@task(retries=2, retry_delay_seconds=3, retry_condition_fn=passing_trouble, cache_policy=NO_CACHE, persist_result=False)
def publish_bundle(fleet: FleetFolder, candidate: Path, dry_run: bool) -> Published:
    """Sign the candidate into the repositories, once for each content."""
    return publish(fleet.root, candidate, keyring(fleet.keys), dry_run=dry_run)


@task(retries=2, retry_delay_seconds=3, retry_condition_fn=passing_trouble, cache_policy=NO_CACHE, persist_result=False)
def take_in_reports(fleet: FleetFolder) -> Ingested:
    """What devices have put into the uplink's folder, into the store."""
    with Store(fleet.store) as store:
        now_s = time.time()
        return ingest_folder(fleet.uplink, store, fleet.quarantine, received_s=now_s, devices=fleet.enrolled())


@task(retries=2, retry_delay_seconds=3, retry_condition_fn=passing_trouble, cache_policy=NO_CACHE, persist_result=False)
def step(fleet: FleetFolder, plan: Plan, dry_run: bool) -> Standing:
    """Decide from the reports, and sign what follows."""
    return take_step(fleet, keyring(fleet.keys), plan, now_s=time.time(), dry_run=dry_run)


if __name__ == "__main__":
    rollout.serve(name="waves", cron=EVERY_FEW_MINUTES, limit=1, parameters={"once": True, "to_publish": False})
