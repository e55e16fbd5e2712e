"""A registered bundle, back from the registry, checked against the hash it was registered with."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.durable import write_bytes
from tasks.registry.register import Registered, RegistryError, open_registry

if TYPE_CHECKING:
    from mlflow import MlflowClient


def fetch(root: Path, registered: Registered, folder: Path, client: MlflowClient | None = None) -> Path:
    """Bring a registered bundle into ``folder``; one that lies there already, whole, is not brought again.

    Raises:
        RegistryError: the registry does not have it any more, or has other bytes under its name.
    """
    path = folder / f"{registered.sha256}.tar"
    if path.is_file() and _sha256(path.read_bytes()) == registered.sha256:
        return path
    from mlflow.exceptions import MlflowException

    client = client or open_registry(root)
    with tempfile.TemporaryDirectory() as aside:
        try:
            files = sorted(Path(client.download_artifacts(registered.run_id, "bundle", aside)).glob("*.tar"))
        except (MlflowException, OSError) as error:
            raise RegistryError(f"Version {registered.version} cannot be fetched: {error}. Register again.") from error
        data = next((data for file in files if _sha256(data := file.read_bytes()) == registered.sha256), None)
    if data is None:
        raise RegistryError(
            f"Version {registered.version} is not in the registry as it was. Register again: headland retrain"
        )
    write_bytes(path, data)
    return path


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
