"""The effect `register` on a real SQLite registry: once for each content, whatever interrupts it."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.registry.contents import UnreadableError, figures
from tasks.registry.register import MODEL_NAME, RegistryError, last_registered, open_registry, register
from tests.toy import write_bundle


class CrashError(BaseException):
    """Stands for kill -9: nothing that handles errors may handle it."""


class FailingClient:
    """The real client, until its n-th call; then the process dies, before or after the call took effect."""

    def __init__(self, client: Any, calls: int, after: bool) -> None:
        self._client, self._left, self._after = client, calls, after

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._client, name)

        def call(*arguments: Any, **options: Any) -> Any:
            self._left -= 1
            if self._left == 0 and not self._after:
                raise CrashError
            result = real(*arguments, **options)
            if self._left == 0:
                raise CrashError
            return result

        return call


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "metrics" / "compress").mkdir(parents=True)
    (tmp_path / "metrics" / "compress" / "irrigation.json").write_text('{"int8": {"metric": 0.5, "name": "mae"}}')
    (tmp_path / "metrics" / "evaluate.json").write_text('{"irrigation": {"policies": {"threshold 70 %": 3}}}')
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "index.html").write_text("<html>")
    return tmp_path


def _versions(client: Any) -> list[Any]:
    return list(client.search_model_versions(f"name = '{MODEL_NAME}'"))


def test_a_registered_bundle_carries_figures_lineage_and_report(project: Path) -> None:
    bundle = write_bundle(project / "headland-2009.tar", 2009)
    result = register(project, bundle, project / "report")
    client = open_registry(project)
    run = client.get_run(result.run_id)
    assert run.data.metrics == {
        "compress/irrigation/int8/metric": 0.5,
        "evaluate/irrigation/policies/threshold 70 _": 3,
    }
    assert run.data.tags["lineage.git_commit"] == "abc"
    assert {f.path for f in client.list_artifacts(result.run_id, "report")} == {"report/index.html"}
    version = client.get_model_version_by_alias(MODEL_NAME, "candidate")
    assert Path(version.source).read_bytes() == bundle.read_bytes()
    assert Path(version.source).is_relative_to(project / "registry" / "artifacts")
    assert last_registered(project) is not None
    assert not list((project / "registry").rglob("*.pkl"))


def test_the_same_content_gives_one_version_and_new_content_another(project: Path) -> None:
    first = register(project, write_bundle(project / "a.tar", 2009))
    again = register(project, write_bundle(project / "copy.tar", 2009))
    other = register(project, write_bundle(project / "b.tar", 2010))
    assert (first.version, first.is_new) == (1, True)
    assert (again.version, again.is_new, again.run_id) == (1, False, first.run_id)
    assert other.version == 2
    back = register(project, project / "a.tar")
    candidate = last_registered(project)
    assert candidate is not None
    assert candidate.version == back.version == 1


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_crash_at_any_call_is_mended_by_repeating(project: Path, after: bool) -> None:
    client = open_registry(project)
    for calls in itertools.count(1):
        bundle = write_bundle(project / "bundle.tar", 3000 + calls)
        try:
            register(project, bundle, project / "report", FailingClient(client, calls, after))  # type: ignore[arg-type]  # the client's stand-in
        except CrashError:
            result = register(project, bundle, project / "report", client)
        else:
            break
        same = client.search_model_versions(f"name = '{MODEL_NAME}' and tags.sha256 = '{result.sha256}'")
        runs = client.search_runs(
            [client.get_run(result.run_id).info.experiment_id], f"tags.sha256 = '{result.sha256}'"
        )
        assert (len(same), len(runs), runs[0].info.status) == (1, 1, "FINISHED")
        assert len(client.get_metric_history(result.run_id, "compress/irrigation/int8/metric")) == 1
        assert int(client.get_model_version_by_alias(MODEL_NAME, "candidate").version) == result.version
    assert calls > 8
    assert len(_versions(client)) == calls


def test_what_is_no_bundle_is_refused_by_name(project: Path) -> None:
    with pytest.raises(RegistryError, match=r"gone\.tar"):
        register(project, project / "gone.tar")
    data = bytearray(write_bundle(project / "broken.tar").read_bytes())
    data[600] ^= 1
    (project / "broken.tar").write_bytes(data)
    with pytest.raises(RegistryError, match=r"broken\.tar"):
        register(project, project / "broken.tar")
    (project / "metrics" / "evaluate.json").write_text("{")
    with pytest.raises(UnreadableError, match=r"evaluate\.json"):
        register(project, write_bundle(project / "good.tar", 2009))
    assert last_registered(project) is None


def test_an_unreachable_registry_is_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "file").write_text("")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/file/mlflow.db")
    with pytest.raises(RegistryError, match=r"file/mlflow\.db"):
        register(project, write_bundle(project / "good.tar", 2009))


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@given(_json)
def test_any_metrics_file_gives_keys_a_registry_accepts(tmp_path_factory: pytest.TempPathFactory, content: Any) -> None:
    from mlflow.utils.validation import _validate_metric

    folder = tmp_path_factory.mktemp("metrics")
    (folder / "any.json").write_text(json.dumps(content))
    for key, value in figures(folder).items():
        _validate_metric(key, value, 0, 0)
