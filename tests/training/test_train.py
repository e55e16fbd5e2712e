from __future__ import annotations

import csv
import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tasks.training.train import end_after, main, usable_epoch
from tasks.training.trainer import Place, PlaceError
from tests.training.project import make_project, run_stage, stage, train_here

TRAIN = "tasks.training.train"


def weights(root: Path) -> bytes:
    return (root / "data/models/irrigation/trained/net.safetensors").read_bytes()


def metrics(root: Path) -> dict[str, object]:
    plain: dict[str, object] = json.loads((root / "metrics/train/irrigation.json").read_text())
    return plain


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_project(tmp_path_factory.mktemp("trained"))
    train_here(root)
    return root


def test_training_learns_and_leaves_net_history_and_metrics(trained: Path) -> None:
    rows = list(csv.DictReader((trained / "plots/irrigation/history.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    figures = metrics(trained)
    best = min(range(3), key=lambda i: float(rows[i]["validation_loss"]))
    assert figures["best_epoch"] == best + 1
    assert isinstance(figures["raw"], dict)
    assert figures["raw"]["pinball"] == pytest.approx(float(rows[best]["validation_loss"]), rel=0.02)
    assert isinstance(figures["calibrated"], dict)
    assert 0.75 <= figures["calibrated"]["coverage"] <= 0.85


def test_a_repetition_trains_anew_and_gives_the_same_bytes(trained: Path) -> None:
    before = weights(trained)
    last = trained / "data/models/irrigation/checkpoints/last.ckpt"
    mark = last.read_bytes()
    run_stage(trained, TRAIN)
    assert metrics(trained)["resumed_after_epoch"] == 0
    assert weights(trained) == before
    assert last.read_bytes() == mark


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    settings = {"epochs": 30, "windows_per_epoch": 640}
    whole = make_project(tmp_path / "whole", model=settings)
    train_here(whole)
    killed = make_project(tmp_path / "killed", model=settings)
    last = killed / "data/models/irrigation/checkpoints/last.ckpt"
    process = stage(killed, TRAIN)
    while not last.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    run_stage(killed, TRAIN)
    resumed = metrics(killed)["resumed_after_epoch"]
    assert isinstance(resumed, int)
    assert 1 <= resumed < 30
    assert weights(killed) == weights(whole)
    assert (killed / "plots/irrigation/history.csv").read_bytes() == (
        whole / "plots/irrigation/history.csv"
    ).read_bytes()


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    """One of the two then calibrates over seasons alone; it must not wait for the other."""
    alone = make_project(tmp_path / "alone", model={"crossfit_folds": 2})
    train_here(alone)
    shared = make_project(tmp_path / "shared", model={"crossfit_folds": 2})
    run_stage(shared, TRAIN, HEADLAND_DEVICES="2", HEADLAND_STRATEGY="ddp")
    one = load_file(alone / "data/models/irrigation/trained/net.safetensors")
    two = load_file(shared / "data/models/irrigation/trained/net.safetensors")
    assert one.keys() == two.keys()
    for name, value in one.items():
        np.testing.assert_allclose(two[name], value, rtol=2e-3, atol=2e-4, err_msg=name)
    assert one["norm0.num_batches_tracked"] == two["norm0.num_batches_tracked"]


@pytest.mark.parametrize(
    "held", [b"", b"no checkpoint at all", b'{"finished": "abc"}'], ids=["empty", "damaged", "finished"]
)
def test_a_checkpoint_that_cannot_be_gone_on_from_means_a_fresh_start(tmp_path: Path, held: bytes) -> None:
    checkpoint = tmp_path / "last.ckpt"
    assert usable_epoch(checkpoint, "abc") == 0
    checkpoint.write_bytes(held)
    assert usable_epoch(checkpoint, "abc") == 0


def test_windows_that_cannot_be_learned_from_end_the_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_project(tmp_path / "few", fields=5, training={"global_batch": 512}, model={"windows_per_epoch": 1024})
    monkeypatch.chdir(root)
    assert main(["irrigation"]) == 1
    assert "240 training windows" in capsys.readouterr().err
    (root / "data/windows/irrigation/targets.npy").unlink()
    assert main(["irrigation"]) == 1
    assert "targets.npy: no such file" in capsys.readouterr().err
    assert not (root / "data/models").exists()


def test_an_unknown_model_is_wrong_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(make_project(tmp_path / "project"))
    assert main(["irigation"]) == 2
    assert "irrigation" in capsys.readouterr().err


def test_the_place_comes_from_the_environment() -> None:
    assert Place.from_environment({}) == Place("auto", "auto", 1, "auto", "32-true")
    chosen = {"HEADLAND_ACCELERATOR": "cpu", "HEADLAND_DEVICES": "2", "HEADLAND_STRATEGY": "ddp"}
    assert Place.from_environment(chosen) == Place("cpu", 2, 1, "ddp", "32-true")
    with pytest.raises(PlaceError, match="HEADLAND_DEVICES=two"):
        Place.from_environment({"HEADLAND_DEVICES": "two"})


def test_a_place_that_is_not_here_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(make_project(tmp_path / "project"))
    monkeypatch.setenv("HEADLAND_ACCELERATOR", "abacus")
    assert main(["irrigation"]) == 1
    assert "HEADLAND_ACCELERATOR" in capsys.readouterr().err


def test_a_run_that_takes_too_long_is_ended() -> None:
    left: list[int] = []
    timer = end_after(0.01, left.append)
    timer.join()
    assert left == [1]


def test_live_curves_go_to_mlflow_when_a_tracking_uri_is_set(trained: Path, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    project, uri = make_project(tmp_path / "project"), f"sqlite:///{tmp_path / 'mlflow.db'}"
    run_stage(project, TRAIN, MLFLOW_TRACKING_URI=uri)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("headland-training")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert len(client.get_metric_history(run.info.run_id, "validation_loss")) == 3
    assert weights(project) == weights(trained)
