"""The seasonal retrain: bring every stage of ``dvc.yaml`` up to date, then register the bundle.

Started by ``headland retrain``, by a schedule (``prefect.yaml``), in the Prefect UI, or served from here with
``python -m flows.seasonal_retrain``. They all run the stages that ``dvc repro`` would run, and no others.
"""

# No postponed annotations here: a scheduled run loads this file as a script and could not resolve them.
import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from pydantic import Field

from flows.journal import Journal
from tasks.dvc_state import mend_after_crash
from tasks.registry.register import Registered, UnfitBundleError, register
from tasks.running import AlreadyRunningError, exclusive_run
from tasks.stages import Project, find_root, run_stage
from tasks.summary import SeasonSummary

YEARLY = "0 4 1 2 *"  # 1 February, 4 o'clock: before the first field is sown
_PASSING = {errno.EAGAIN, errno.EINTR, errno.EBUSY, errno.ENOMEM}


@flow(name="seasonal-retrain", persist_result=False)
def seasonal_retrain(
    force: Annotated[tuple[str, ...], Field(description="stages to run though unchanged: train, train@yield")] = (),
    until: Annotated[
        tuple[str, ...], Field(description="only these stages and what they need: bundle; none: all")
    ] = (),
    to_registry: Annotated[bool, Field(description="register the bundle and make it the candidate")] = True,
    stage_timeout_h: Annotated[float, Field(gt=0, description="a stage that takes longer is ended")] = 6.0,
) -> SeasonSummary:
    """Retrain for the season that ``params.yaml`` names, and register what comes of it."""
    with project_at_work(Path.cwd()) as project, Journal(len(project.needed_for(until))) as journal:
        forced = project.select(force)
        for stage in project.needed_for(until):
            why = ("asked for",) if stage.name in forced else project.why_changed(stage.name)
            if why:
                journal.started(stage.name, why)
                stage_task = execute.with_options(name=stage.name, task_run_name=stage.name)
                journal.finished(
                    stage_task(project.root, stage.name, journal, stage.name in forced, stage_timeout_h * 3600)
                )
            else:
                journal.unchanged(stage.name)
        bundle, report = project.find_output("bundle", "*.tar"), project.find_output("report", "index.html")
        registered = register_bundle(project.root, bundle, report) if to_registry and bundle else None
        return journal.summary(bundle, report, registered)


@contextmanager
def project_at_work(place: Path) -> Iterator[Project]:
    """The project that ``place`` lies in, held for this run alone and mended if an earlier one was killed."""
    root = find_root(place)
    with exclusive_run(root):
        mend_after_crash(root)
        yield Project(root)


def passing_trouble(_task: Any, _run: Any, state: Any) -> bool:
    """Whether a failed stage may succeed unaltered: stages are deterministic, only the machine's state passes."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, AlreadyRunningError) or (isinstance(error, OSError) and error.errno in _PASSING)


def not_the_bundle(_task: Any, _run: Any, state: Any) -> bool:
    """Whether registering failed for another reason than a bundle that never will be good."""
    return not isinstance(state.result(raise_on_failure=False), UnfitBundleError)


@task(retries=2, retry_delay_seconds=3, retry_condition_fn=passing_trouble, cache_policy=NO_CACHE, persist_result=False)
def execute(root: Path, stage: str, journal: Journal, force: bool, timeout_s: float) -> float:
    """Run one stage of ``dvc.yaml``; returns the seconds it took."""
    return run_stage(root, stage, journal.line, force=force, timeout_s=timeout_s)


@task(retries=2, retry_delay_seconds=3, retry_condition_fn=not_the_bundle, cache_policy=NO_CACHE, persist_result=False)
def register_bundle(root: Path, bundle: Path, report: Path | None) -> Registered:
    """Put the bundle into the registry, once for each content."""
    return register(root, bundle, report)


if __name__ == "__main__":
    seasonal_retrain.serve(name="seasonal", cron=YEARLY, limit=1)
