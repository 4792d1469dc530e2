"""One training by several processes: the same pictures, figures and files as by one."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import psutil
import pytest
from conftest import LINEAR, LINEAR_YAML, ROOT, TINY, make_flowers, read_csv, run_in

from nano_cv.config.processes import check_started
from nano_cv.data.order import Order
from nano_cv.data.shard_order import ShardOrder
from nano_cv.errors import UserError
from nano_cv.serving import triton

OPTIONS = [
    *("--config-dir=own", "+data=flowers", "+model=linear", "data.batch_size=8", "logger=csv"),
    *("trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.max_epochs=2"),
]
SIDE_BY_SIDE = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "-m")
SYNCED = ("trainer.devices=2", "trainer.sync_batchnorm=true")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """23 and 11 pictures, so that the last step has a process with one less."""
    folder = tmp_path_factory.mktemp("processes")
    root = make_flowers(folder / "data" / "flowers")
    for split, count in (("train", 23), ("val", 11)):
        names = (root / f"{split}.txt").read_text().split()
        (root / f"{split}.txt").write_text("\n".join(names[:count]))
    (folder / "own" / "model").mkdir(parents=True)
    (folder / "own" / "model" / "linear.yaml").write_text(LINEAR_YAML)
    (folder / "linear.py").write_text(LINEAR)
    return folder


def start(
    folder: Path, name: str, *settings: str, by: Sequence[str] = (), **variables: str
) -> "subprocess.Popen[str]":
    """A training in a process of its own, with runs and weights below `name`."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"} | variables
    return subprocess.Popen(
        [sys.executable, *by, str(ROOT / "train.py"), *OPTIONS, *places(name), *settings],
        **{"cwd": folder, "env": environment, "text": True},
        **{"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "start_new_session": True},
    )


def places(name: str) -> list[str]:
    return [f"paths.runs={name}/runs", f"paths.weights={name}/weights"]


def ended(running: "subprocess.Popen[str]") -> tuple[int, str]:
    output = running.communicate(timeout=300)[0]
    return running.returncode, output


def figures(folder: Path) -> dict[str, list[float]]:
    """What the only run below a folder logged, by name."""
    (file,) = folder.glob("runs/train/linear_flowers/*/csv/version_0/metrics.csv")
    (run,) = folder.glob("runs/train/linear_flowers/*")
    assert len(list(folder.glob("weights/*"))) == 1
    assert json.loads((run / "metrics.json").read_text())["test/accuracy"] > 0
    assert [one.name for one in run.glob("*.log")] == ["train.log"]
    found: dict[str, list[float]] = {}
    for name, value in chain.from_iterable(row.items() for row in read_csv(file)):
        if value and name.startswith(("train/loss_epoch", "val/", "test/")):
            found.setdefault(name, []).append(float(value))
    return found


@pytest.fixture(scope="module")
def alone(folder) -> dict[str, list[float]]:
    """The figures of a single process, this one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        run_in(folder, "train", *OPTIONS, *places("alone"))
    return figures(folder / "alone")


def test_two_processes(folder, alone):
    status, output = ended(start(folder, "two", "trainer.devices=2"))
    assert status == 0, output
    assert "batch 8 (over 2 processes)" in output
    assert output.count("epoch 1/2") == output.count("best val/accuracy") == 1
    found = figures(folder / "two")
    assert found.keys() == alone.keys()
    for name, values in alone.items():
        assert found[name] == pytest.approx(values, rel=1e-4), name
    more = ("trainer.devices=2", "trainer.max_epochs=3", "resume=true")
    status, output = ended(start(folder, "two", *more))
    assert status == 0 and output.count("epoch 3/3") == 1, output


def test_settings_that_do_not_fit_the_processes(folder, fails, monkeypatch):
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.chdir(folder)
    options = [*OPTIONS, *places("refused")]
    assert "SyncBatchNorm" not in (said := fails("train", *options, *SYNCED))
    assert said.startswith("error: trainer.sync_batchnorm=true: is for GPUs")
    few = ("trainer.devices=16", "data.batch_size=16")
    assert "11 validation pictures are too few for 16 processes" in fails("train", *options, *few)
    by_torchrun = {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}
    by_srun = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "4", "SLURM_NNODES": "2"}
    by_srun |= {"SLURM_NTASKS_PER_NODE": "2"}
    for variables in (by_torchrun, by_srun):
        with monkeypatch.context() as patch:
            for name, value in (variables | {"RANK": "0"}).items():
                patch.setenv(name, value)
            check_started(2, 2)
            for devices, nodes in ((1, 1), (2, 1), (1, 2), (4, 1), (4, 2)):
                with pytest.raises(
                    UserError, match=r"type trainer\.devices=2 trainer\.num_nodes=2"
                ):
                    check_started(devices, nodes)
            said = fails("train", *options)
            assert "4 processes were started, 2 in each machine, and the settings are for 1" in said


def outputs_of(*running: "subprocess.Popen[str]") -> list[str]:
    """Wait for the parts of a training, of which none may fail."""
    outputs = []
    for status, output in map(ended, running):
        assert status == 0, output
        outputs.append(output)
    assert sum(output.count("best val/accuracy") for output in outputs) == 1
    return outputs


def test_four_processes_on_two_machines_by_torchrun(folder, alone):
    """Two agents on this one, with two processes each."""
    module = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=2"]
    module += ["--master_addr=127.0.0.1", f"--master_port={triton.free_ports(1)[0]}"]
    shape = ("trainer.num_nodes=2", "trainer.devices=2")
    agents = [[*module, f"--node_rank={rank}"] for rank in range(2)]
    outputs = outputs_of(*(start(folder, "torchrun", *shape, by=agent) for agent in agents))
    assert "batch 8 (over 4 processes)" in "".join(outputs)
    assert figures(folder / "torchrun")["val/loss"] == pytest.approx(alone["val/loss"], rel=1e-4)


def test_two_machines_by_slurm_and_a_job_that_is_started_again(folder, alone, monkeypatch):
    nodes, port = "trainer.num_nodes=2", str(triton.free_ports(1)[0])
    variables = {
        **{"SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0", "SLURM_JOB_NAME": "flowers"},
        **{"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_NODELIST": "127.0.0.1"},
        **{"MASTER_PORT": port, "MASTER_ADDR": "127.0.0.1", "SLURM_LOCALID": "0"},
    }
    tasks = [variables | {"SLURM_PROCID": str(n), "SLURM_NODEID": str(n)} for n in range(2)]
    outputs_of(*(start(folder, "slurm", nodes, **one) for one in tasks))
    assert figures(folder / "slurm")["val/loss"] == pytest.approx(alone["val/loss"], rel=1e-4)
    (run,) = folder.glob("slurm/runs/train/linear_flowers/*")
    assert run.name == "slurm_77_0"
    assert not list(folder.glob("*.ckpt")), "the folder of the project stays clean"
    kept = {file: file.stat().st_mtime_ns for file in run.rglob("*.ckpt")}
    for name, value in (tasks[0] | {"SLURM_NTASKS": "1"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(str(folder))
    run_in(folder, "train", *OPTIONS, *places("slurm"))
    assert [run] == list(folder.glob("slurm/runs/train/linear_flowers/*"))
    assert kept == {file: file.stat().st_mtime_ns for file in kept}, "it goes on with its own run"


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGUSR1, signal.SIGTERM])
def test_one_process_ends(folder, by):
    """All end, with one message and no traceback; by SLURM's signal the run can be resumed."""
    running = start(folder, f"killed{by}", "trainer.devices=2", "trainer.max_epochs=100000")
    run = folder / f"killed{by}" / "runs/train/linear_flowers"
    deadline = time.monotonic() + 120
    while not list(run.glob("*/checkpoints/last.ckpt")):
        assert running.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    if by is signal.SIGKILL:
        every = psutil.Process(running.pid).children()
        (child,) = [one for one in every if "train.py" in str(one.cmdline())]
        child.send_signal(by)
    else:
        os.killpg(running.pid, by)
    status, output = ended(running)
    assert status != 0 and "Traceback" not in output, output
    if by is not signal.SIGKILL:
        assert output.count("interrupted; to go on, add resume=true") == 1


def test_sigterm_ends_a_sweep_and_its_processes(folder):
    running = start(folder, "sweep", "trainer.max_epochs=100000", "seed=1,2", *SIDE_BY_SIDE)
    deadline = time.monotonic() + 120
    while len(list(folder.glob("sweep/runs/*/*/[01]/checkpoints/last.ckpt"))) < 2:
        assert running.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    every = psutil.Process(running.pid).children(recursive=True)
    running.terminate()
    status, output = ended(running)
    assert status == 130 and "Traceback" not in output, output
    assert len(every) >= 2 and not psutil.wait_procs(every, timeout=20)[1]


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("shards", [None, (200, 200, 160), (2000,) * 5, (7, 90, 3, 40, 1, 60)])
@pytest.mark.parametrize("workers", [0, 2])
def test_each_picture_once_an_epoch(processes, shards, workers):
    count = 201 if shards is None else sum(shards)
    numbers = np.repeat(np.arange(len(shards or ())), shards or ()).tolist()
    orders = []
    for rank in range(processes):
        order = Order(count, (processes, rank))
        if shards:
            order = ShardOrder(numbers, 4, workers, (processes, rank))
        order.set_epoch(3)
        orders.append(list(order))
        assert len(orders[-1]) == len(order)
    assert sorted(chain.from_iterable(orders)) == list(range(count))
    assert max(map(len, orders)) - min(map(len, orders)) <= 1, "no process waits for another"


def test_a_message_of_another_process_says_so(run, flowers, monkeypatch):
    missing = "nowhere/train.txt: not found"
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert f"error (process 1): {missing}" in run("train", *TINY, "data.root=nowhere").err
    monkeypatch.delenv("WORLD_SIZE")  # then a number left over in a shell means nothing
    assert f"error: {missing}" in run("train", *TINY, "data.root=nowhere").err
    assert not {"RANK", "LOCAL_RANK"} & {*os.environ}, "Lightning would follow them"
