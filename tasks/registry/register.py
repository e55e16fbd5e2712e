"""Registers a bundle in MLflow, once for each content.

Steps, each of which may be repeated after a crash with the same outcome:

1. a version with the bundle's sha256 exists: nothing to add;
2. a run with that sha256 exists (a crash came after it): continue it, else create one;
3. metrics, lineage, bundle and report go into the run;
4. the run is closed and a version made from it;
5. the alias ``candidate`` points to the version.

The bundle's hash is the key, carried as the tag ``sha256`` by run and version alike from the moment they exist.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headland_edge.bundle import Bundle, BundleError, open_bundle

from tasks.registry.contents import figures, lineage

if TYPE_CHECKING:
    from mlflow import MlflowClient

MODEL_NAME = "headland-bundle"
EXPERIMENT = "headland"
ALIAS = "candidate"
REGISTRY_DIR = "registry"


class RegistryError(Exception):
    """The bundle can't be registered; the message says what to do."""


class UnfitBundleError(RegistryError):
    """The bundle is missing or damaged; trying again won't help."""

    cli_exit_code = 7


@dataclass(frozen=True)
class Registered:
    """A bundle's place in the registry; ``is_new`` is False when this content was there already."""

    version: int
    sha256: str
    run_id: str
    tracking_uri: str
    is_new: bool


def tracking_uri(root: Path) -> str:
    """``MLFLOW_TRACKING_URI``, or a SQLite file inside the project."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root.resolve() / REGISTRY_DIR / 'mlflow.db'}"


def open_registry(root: Path) -> MlflowClient:
    """A client of the registry; the local one's folder is made if need be.

    Raises:
        RegistryError: it can't be reached.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    uri = tracking_uri(root)
    (root / REGISTRY_DIR).mkdir(exist_ok=True)
    try:
        return MlflowClient(tracking_uri=uri, registry_uri=uri)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise RegistryError(f"The registry {uri} can't be opened: {error}. Check MLFLOW_TRACKING_URI.") from error


def register(root: Path, bundle: Path, report: Path | None = None, client: MlflowClient | None = None) -> Registered:
    """Register ``bundle`` with its metrics, lineage and report, and make it the candidate.

    Args:
        root: the project; ``metrics/**/*.json`` below it are read.
        bundle: the bundle's tar.
        report: the report's HTML file or folder, if there is one.
        client: a registry other than the project's own.

    Raises:
        RegistryError: the bundle is missing or unreadable, or the registry refuses.
    """
    if not bundle.is_file():
        raise UnfitBundleError(f"There is no bundle at {bundle}. Run `headland retrain` first.")
    opened = _verified(bundle)
    from mlflow.exceptions import MlflowException

    client = client or open_registry(root)
    sha256 = opened.sha256
    try:
        version = _find_version(client, sha256)
        is_new = version is None
        if version is None:
            run_id = _filled_run(client, root, opened, report)
            version = _make_version(client, run_id, bundle, sha256)
        client.set_registered_model_alias(MODEL_NAME, ALIAS, version.version)
    except MlflowException as error:
        raise RegistryError(f"The registry {tracking_uri(root)} refused {bundle.name}: {error}. Run again.") from error
    return Registered(int(version.version), sha256, version.run_id or "", tracking_uri(root), is_new)


def last_registered(root: Path, client: MlflowClient | None = None) -> Registered | None:
    """The version that bears the alias ``candidate``; None if there is no registry or no such version yet."""
    from_environment = bool(os.environ.get("MLFLOW_TRACKING_URI"))
    if client is None and not from_environment and not (root / REGISTRY_DIR / "mlflow.db").exists():
        return None
    from mlflow.exceptions import MlflowException

    client = client or open_registry(root)
    try:
        version = client.get_model_version_by_alias(MODEL_NAME, ALIAS)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise RegistryError(f"The registry {tracking_uri(root)} can't be read: {error}.") from error
    return Registered(
        int(version.version), version.tags.get("sha256", ""), version.run_id or "", tracking_uri(root), False
    )


def _find_version(client: MlflowClient, sha256: str) -> Any | None:
    """The oldest version with this content: if two registrars raced, both settle on the same one."""
    found = client.search_model_versions(f"name = '{MODEL_NAME}' and tags.sha256 = '{sha256}'")
    return min(found, key=lambda version: int(version.version), default=None)


def _verified(bundle: Path) -> Bundle:
    try:
        return open_bundle(bundle)
    except BundleError as error:
        raise UnfitBundleError(f"{error}. It was not registered. Build it again: dvc repro -f -s bundle") from error


def _filled_run(client: MlflowClient, root: Path, bundle: Bundle, report: Path | None) -> str:
    values = figures(root / "metrics")
    run = _find_or_create_run(client, _experiment(client, root), bundle.path, bundle.sha256)
    run_id: str = run.info.run_id
    _log_figures(client, run, values)
    for key, value in lineage(bundle.manifest).items():
        client.set_tag(run_id, key, value)
    client.log_artifact(run_id, str(bundle.path), "bundle")
    if report is not None and report.exists():
        log = client.log_artifacts if report.is_dir() else client.log_artifact
        log(run_id, str(report), "report")
    client.set_terminated(run_id)
    return run_id


def _experiment(client: MlflowClient, root: Path) -> str:
    """The experiment's id. A local one keeps its files in the project, a server's where the server keeps them."""
    known = client.get_experiment_by_name(EXPERIMENT)
    if known is not None:
        return str(known.experiment_id)
    local = tracking_uri(root).startswith("sqlite:")
    place = str((root / REGISTRY_DIR / "artifacts").resolve()) if local else None
    return str(client.create_experiment(EXPERIMENT, artifact_location=place))


def _find_or_create_run(client: MlflowClient, experiment: str, bundle: Path, sha256: str) -> Any:
    found = client.search_runs([experiment], f"tags.sha256 = '{sha256}'", order_by=["attributes.start_time ASC"])
    return found[0] if found else client.create_run(experiment, tags={"sha256": sha256}, run_name=bundle.stem)


def _log_figures(client: MlflowClient, run: Any, values: dict[str, float]) -> None:
    from mlflow.entities import Metric

    # Time and step are the run's own, so that logging twice writes the same rows, not a history.
    rows = [Metric(key, value, run.info.start_time, 0) for key, value in values.items()]
    for first in range(0, len(rows), 500):
        client.log_batch(run.info.run_id, metrics=rows[first : first + 500])


def _make_version(client: MlflowClient, run_id: str, bundle: Path, sha256: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(MODEL_NAME, description="Bundles for devices, one version for each content")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    source = f"{client.get_run(run_id).info.artifact_uri}/bundle/{bundle.name}"
    client.create_model_version(MODEL_NAME, source=source, run_id=run_id, tags={"sha256": sha256})
    return _find_version(client, sha256)
