"""Several machines: places and their errors, the roll call, and whole trainings on loopback."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest

from trnet.errors import UserError
from trnet.training import roll_call
from trnet.training.machines import ALONE, Place, Workers, find_place
from trnet.training.roll_call import Member, RollCall

ROOT = Path(__file__).parent.parent
TRAIN = str(ROOT / "scripts/train.py")
LAUNCHERS = ("DMLC_", "OMPI_", "PMI_", "MPI_", "SLURM_")
DMLC = {
    "DMLC_ROLE": "worker",
    "DMLC_PS_ROOT_URI": "10.0.0.1",
    "DMLC_PS_ROOT_PORT": "9000",
    "DMLC_NUM_SERVER": "1",
    "DMLC_NUM_WORKER": "2",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
}
MPICH = {"PMI_RANK": "1", "PMI_SIZE": "4", "MPI_LOCALNRANKS": "4"}
SLURM = {
    "SLURM_PROCID": "0",
    "SLURM_NTASKS": "6",
    "SLURM_NNODES": "3",
    "SLURM_JOB_NODELIST": "login,node[01-04,7]",
    "SLURM_STEP_NODELIST": "node[01-02,7]",
}


def test_a_process_alone_has_no_place():
    for environ in ({}, OPEN_MPI, MPICH, SLURM):
        assert find_place(None, environ) is None


def test_a_place_from_dmlc():
    assert find_place("dist_sync", {**DMLC, **OPEN_MPI}) == Place("worker", "10.0.0.1", 9000, 1, 2)


def test_a_place_tells_mxnet_what_it_was_told():
    assert find_place("dist_sync", DMLC).variables() == DMLC


def test_a_place_from_open_mpi():
    assert find_place("dist_sync", OPEN_MPI) == Place("worker", "127.0.0.1", 9091, 1, 2)
    elsewhere = {"DMLC_PS_ROOT_URI": "node1", "DMLC_PS_ROOT_PORT": "80", "DMLC_NUM_SERVER": "2"}
    environ = {**OPEN_MPI, **elsewhere, "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}
    assert find_place("dist_sync", environ) == Place("worker", "node1", 80, 2, 1)


def test_a_place_from_mpich():
    assert find_place("dist_sync", MPICH) == Place("server", "127.0.0.1", 9091, 1, 2)


def test_a_place_from_slurm():
    assert find_place("dist_sync", SLURM) == Place("scheduler", "node01", 9091, 1, 4)
    assert find_place("dist_sync", {**SLURM, "SLURM_NNODES": "1"}).host == "127.0.0.1"
    with_pmi = {**SLURM, "PMI_RANK": "5", "PMI_SIZE": "6"}  # as of srun --mpi=pmi2
    assert find_place("dist_sync", with_pmi) == Place("worker", "node01", 9091, 1, 4)


@pytest.mark.parametrize(
    "nodes, first",
    [
        ("node7", "node7"),
        ("a,b", "a"),
        ("gpu-[3,5-6]-ib,b", "gpu-3-ib"),
        ("rack[2-3]n[09-10]", "rack2n09"),
    ],
)
def test_the_first_of_slurms_nodes(nodes, first):
    assert find_place("dist_sync", {**SLURM, "SLURM_STEP_NODELIST": nodes}).host == first


def test_roles_by_rank():
    ranks = [{**SLURM, "SLURM_PROCID": str(rank), "DMLC_NUM_SERVER": "2"} for rank in range(6)]
    roles = [find_place("dist_sync", environ).role for environ in ranks]
    assert roles == ["scheduler", "server", "server", "worker", "worker", "worker"]


@pytest.mark.parametrize(
    "environ, said",
    [
        ({}, r"--kvstore dist_sync: .*mpirun or srun.*DMLC_ROLE.*DMLC_NUM_WORKER"),
        ({**DMLC, "DMLC_ROLE": "chief"}, r"DMLC_ROLE: got 'chief'; one of scheduler, server, work"),
        ({"DMLC_ROLE": "server"}, r"DMLC_PS_ROOT_URI: is missing"),
        ({**DMLC, "DMLC_PS_ROOT_PORT": "x"}, r"DMLC_PS_ROOT_PORT: got 'x'.*from 1 to 65534"),
        ({**DMLC, "DMLC_PS_ROOT_PORT": "65535"}, r"DMLC_PS_ROOT_PORT: got '65535'"),
        ({**DMLC, "DMLC_NUM_SERVER": "0"}, r"DMLC_NUM_SERVER: got '0'"),
        ({k: v for k, v in DMLC.items() if k != "DMLC_NUM_WORKER"}, r"DMLC_NUM_WORKER: is missing"),
        ({"PMI_RANK": "0"}, r"PMI_SIZE: is missing"),
        ({**MPICH, "PMI_RANK": "4"}, r"PMI_RANK: got '4'; a whole number from 0 to 3"),
        ({**MPICH, "PMI_SIZE": "2"}, r"PMI_SIZE: got 2; at least 3 processes would fit"),
        ({**MPICH, "DMLC_NUM_SERVER": "3"}, r"PMI_SIZE: got 4; at least 5 processes would fit"),
        ({**MPICH, "DMLC_NUM_WORKER": "3"}, r"DMLC_NUM_WORKER: got '3'; 2 would fit"),
        ({**MPICH, "MPI_LOCALNRANKS": "2"}, r"DMLC_PS_ROOT_URI: is missing; the host on which ran"),
        ({**SLURM, "SLURM_PROCID": "one"}, r"SLURM_PROCID: got 'one'"),
    ],
)
def test_an_environment_that_does_not_fit_is_named(environ, said):
    with pytest.raises(UserError, match=said) as caught:
        find_place("dist_sync", environ)
    assert "\n" not in str(caught.value)


def test_a_role_without_a_kvstore_is_refused():
    with pytest.raises(UserError, match=r"DMLC_ROLE: got 'server' without --kvstore"):
        find_place(None, {"DMLC_ROLE": "server"})


def test_a_place_is_found_without_mxnet(run_python):
    run_python("import sys, trnet.training.machines; assert 'mxnet' not in sys.modules")


def test_the_only_worker_sums_and_agrees_with_itself():
    assert ALONE.sum([1.5, 2]).tolist() == [1.5, 2]
    ALONE.agree("itself", 3)
    assert ALONE.writes and not Workers(index=1, count=2).writes


def test_the_first_workers_dropout_is_the_only_ones():
    states = [np.random.SeedSequence(key).generate_state(4) for key in ((3, 7), (3, 7, 0))]
    assert (states[0] == states[1]).all()


@pytest.fixture
def port() -> int:
    """A port that is free, as the next one is."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as first:
            found = first.getsockname()[1]
            try:
                socket.create_server(("127.0.0.1", found + 1)).close()
            except OSError:
                continue
            return found


def wait_for(what: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


class Roll:
    """A roll call of two members: a true one, and a plain socket that does what it is told to."""

    def __init__(self, port: int) -> None:
        self.address = ("127.0.0.1", port)
        self.scheduler_ends, self.member_ends = [], []
        self.scheduler = RollCall(self.address, 2, self.scheduler_ends.append)
        self.member = Member(self.address, "worker 0 (here)", self.member_ends.append)
        self.other = socket.create_connection(self.address, timeout=10)
        self.other.sendall(b"name a worker (there)\n")
        assert self.other.recv(100) == b"welcome \n"

    def assert_all_end(self, why: str) -> None:
        wait_for(lambda: self.member_ends and self.scheduler_ends, seconds=10)
        time.sleep(0.1)
        for ends in (self.member_ends, self.scheduler_ends):
            assert len(ends) == 1 and ends[0].startswith(why)

    def assert_nobody_ends(self) -> None:
        time.sleep(0.3)
        assert self.member_ends == self.scheduler_ends == []


@pytest.fixture
def roll(port, monkeypatch) -> Roll:
    monkeypatch.setattr(roll_call, "LAST_WORDS", 0.1)
    return Roll(port)


def test_the_roll_call_misses_one_that_is_gone(roll):
    roll.other.sendall(b"name worker 1 (there)\n")
    roll.other.close()
    roll.assert_all_end("worker 1 (there) was lost; all others end")


def test_the_roll_call_misses_one_that_is_silent(roll, monkeypatch):
    monkeypatch.setattr(roll_call, "SILENCE", 0.3)
    roll.assert_nobody_ends()  # one that has not begun to beat may be at a long import
    roll.other.sendall(b"beat\n")
    roll.assert_all_end("a worker (there) was lost; all others end")


def test_the_roll_call_passes_on_why_one_ends(roll):
    roll.other.sendall(b"goodbye no images:\t/data\n")
    roll.assert_all_end("a worker (there) ended: no images:")


def test_the_roll_call_lets_one_go_that_ends_well(roll):
    roll.other.sendall(b"goodbye\n")
    roll.other.close()
    roll.assert_nobody_ends()


def test_the_roll_call_ignores_strangers(roll):
    for words in (b"", b"GET / HTTP/1.1\r\n\r\n", b"goodbye cruel world\n", b"\xff" * 10_000):
        with socket.create_connection(roll.address) as stranger:
            stranger.sendall(words)
    roll.assert_nobody_ends()


def test_another_trainings_member_is_sent_away(roll):
    said = r"127\.0\.0\.1: .* has all its servers and workers; another DMLC_PS_ROOT_PORT would fit"
    with pytest.raises(UserError, match=said):
        Member(roll.address, "a worker (astray)")
    roll.assert_nobody_ends()


def test_a_scheduler_that_ends_says_how(roll):
    roll.scheduler.leave()
    roll.assert_nobody_ends()


def test_a_scheduler_that_fails_says_why(roll):
    roll.scheduler.leave("no MXNet here")
    wait_for(lambda: roll.member_ends, seconds=10)
    assert roll.member_ends == [f"the scheduler ({socket.gethostname()}) ended: no MXNet here"]


def test_a_member_that_left_is_not_ended(roll):
    roll.member.leave("its own reasons")
    wait_for(lambda: roll.scheduler_ends, seconds=10)
    assert roll.member_ends == []


@pytest.mark.parametrize("last_words", [b"", b"beat\n"], ids=["gone", "silent"])
def test_a_member_misses_its_scheduler(port, monkeypatch, last_words):
    monkeypatch.setattr(roll_call, "SILENCE", 0.3)
    ends = []
    with socket.create_server(("127.0.0.1", port)) as listener, ThreadPoolExecutor() as threads:
        threads.submit(Member, ("127.0.0.1", port), "worker 0", ends.append)
        scheduler, _ = listener.accept()
        scheduler.sendall(b"welcome\n" + last_words)
        if not last_words:
            scheduler.close()
        wait_for(lambda: ends, seconds=10)
    assert len(ends) == 1 and ends[0].startswith("the scheduler (127.0.0.1) was lost; all others")


def test_a_member_that_nobody_answers_says_so(port, monkeypatch, capsys):
    monkeypatch.setattr(roll_call, "PATIENCE", 0.3)
    member = Member(("127.0.0.1", port), "worker 0")
    assert member.host is None
    member.rename("worker 1")
    member.leave("tired")
    said = f"warning: no scheduler of trnet's answers on 127.0.0.1:{port}, so"
    assert capsys.readouterr().err.startswith(said)


def test_a_scheduler_whose_members_do_not_come_says_so(port, monkeypatch, capsys):
    monkeypatch.setattr(roll_call, "PATIENCE", 0.2)
    RollCall(("127.0.0.1", port), 3)
    time.sleep(0.4)
    assert "warning: 0 of 3 servers and workers are here" in capsys.readouterr().err


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """240 images for training and 51 for validation, in the form of Fashion-MNIST."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 200, (10, 7, 7)).repeat(4, axis=1).repeat(4, axis=2)
    for part, n in (("train", 240), ("t10k", 51)):
        labels = np.arange(n) % 10
        images = patterns[labels] + rng.integers(0, 56, (n, 28, 28))
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = np.array([0x0800 + array.ndim, *array.shape], dtype=">u4").tobytes()
            path = folder / f"{part}-{kind}-ubyte.gz"
            path.write_bytes(gzip.compress(header + array.astype("uint8").tobytes()))
    return folder


@pytest.fixture(scope="module")
def experiment_file(data) -> Path:
    """A config of a small network without dropout and batch normalisation."""
    path = data / "suite" / "small.yaml"
    path.parent.mkdir()
    path.write_text(f"""
name: small
dataset: {{name: fashion_mnist, root: {data}}}
model:
  backbone: small_alexnet
  head: {{type: dense, hidden: []}}
train:
  epochs: 3
  batch_size: 40
  learning_rate: 0.002
  schedule: {{type: cosine, warmup_epochs: 1}}
""")
    return path


def folder_of(runs: Path) -> Path:
    return runs / "suite/small/seed0"


def metrics_of(runs: Path) -> list[dict]:
    path = folder_of(runs) / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def environment(**variables: str) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHERS)}
    return {**inherited, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}


class Cluster:
    """A scheduler, a server and two workers of a training, all on this machine."""

    def __init__(self, port: int, file: Path, runs: Path, *settings: str) -> None:
        self.command = [sys.executable, "-W", "ignore", TRAIN, str(file), "--runs", str(runs)]
        self.command += [f"--set={setting}" for setting in settings]
        self.port, self.processes = port, {}

    def start(self, name: str, *arguments: str, command: list[str] | None = None) -> None:
        variables = {
            **DMLC,
            "DMLC_ROLE": name.split()[0],
            "DMLC_PS_ROOT_URI": "127.0.0.1",
            "DMLC_PS_ROOT_PORT": str(self.port),
        }
        self.processes[name] = subprocess.Popen(
            command or [*self.command, "--kvstore=dist_sync", *arguments],
            env=environment(**variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def start_all(self) -> None:
        for name in ("scheduler", "server", "worker a", "worker b"):
            if name not in self.processes:
                self.start(name)

    def end(self) -> dict[str, tuple[int, str, str]]:
        """Exit code, output and errors of every process, all of which have to end by themselves."""
        try:
            texts = {name: p.communicate(timeout=60) for name, p in self.processes.items()}
        finally:
            for process in self.processes.values():
                process.kill()
        ended = {name: (self.processes[name].returncode, *texts[name]) for name in texts}
        assert all("Traceback" not in errors for _, _, errors in ended.values()), ended
        self.processes = {}
        return ended


def assert_end_well(ended: dict) -> None:
    assert [code for code, _, _ in ended.values()] == [0] * 4, ended
    outputs = sorted(output for _, output, _ in ended.values())
    assert outputs[:3] == [""] * 3 and "Top-1" in outputs[3]  # one of the workers tells


def lines_of_errors(ended: dict) -> dict[str, list[str]]:
    return {
        name: [line for line in errors.splitlines() if not line.startswith("small seed")]
        for name, (_, _, errors) in ended.items()
    }


@pytest.fixture(scope="module")
def alone(experiment_file, tmp_path_factory):
    """Runs of a single process, by its devices and settings."""
    done = {}

    def run(devices: str, *settings: str) -> Path:
        key = (devices, *settings)
        if key not in done:
            done[key] = tmp_path_factory.mktemp("alone")
            arguments = ["--runs", str(done[key]), "--devices", devices]
            arguments += [f"--set={setting}" for setting in settings]
            ended = run_train(str(experiment_file), *arguments)
            assert ended.returncode == 0, ended.stderr
        return done[key]

    return run


def assert_same_run(runs: Path, expected: Path, relative: float = 1e-6) -> None:
    """Same metrics and parameters; the parameters' tolerance is of the largest."""
    rows, expected_rows = metrics_of(runs), metrics_of(expected)
    assert len(rows) == len(expected_rows)
    for row, other in zip(rows, expected_rows):
        for key in ("epoch", "learning_rate", "train_loss", "top1", "top5", "loss"):
            assert row[key] == pytest.approx(other[key], rel=relative)
    name = f"checkpoints/epoch-{len(rows):04d}/network.params"
    saved, reference = (mx.nd.load(str(folder_of(r) / name)) for r in (runs, expected))
    assert saved.keys() == reference.keys()
    for key in saved:
        one, other = saved[key].asnumpy(), reference[key].asnumpy()
        assert np.abs(one - other).max() <= relative * np.abs(other).max()


@pytest.mark.parametrize(
    "batch_size, devices, relative",
    [
        (40, "cpu:0,1", 1e-6),  # two devices sum as two workers do
        (37, "cpu", 5e-3),  # rounding turns a few activations off or on
    ],
)
def test_two_workers_train_the_network_that_one_does(
    experiment_file, alone, port, tmp_path, batch_size, devices, relative
):
    """Each on half of every batch: two on the whole of it would sum twice the gradients."""
    setting = f"train.batch_size={batch_size}"
    cluster = Cluster(port, experiment_file, tmp_path, setting)
    cluster.start_all()
    assert_end_well(cluster.end())
    assert_same_run(tmp_path, alone(devices, setting), relative)
    result = json.loads((folder_of(tmp_path) / "result.json").read_text())
    assert result["workers"] == 2
    assert result["dataset"] == {"name": "fashion_mnist", "train": 240, "validation": 51}
    files = sorted(path.name for path in folder_of(tmp_path).iterdir())
    assert files == [".lock", "checkpoints", "config.yaml", "metrics.jsonl", "result.json"]


@pytest.mark.parametrize("victim", ["worker a", "server"])
def test_a_killed_process_ends_all_and_they_go_on(experiment_file, alone, port, tmp_path, victim):
    cluster = Cluster(port, experiment_file, tmp_path, "train.epochs=10")
    cluster.start_all()
    wait_for(lambda: metrics_of(tmp_path))
    cluster.processes[victim].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    ended = cluster.end()
    assert time.monotonic() - killed < 10
    assert ended.pop(victim)[0] == -signal.SIGKILL
    lost = (
        rf"error: {'worker [01]' if victim != 'server' else 'a server'} \(.+\) was lost; all others"
    )
    for name, lines in lines_of_errors(ended).items():
        assert ended[name][0] == 1
        assert len(lines) == 1 and re.match(lost, lines[0]), lines
    n_done = len(metrics_of(tmp_path))
    assert 1 <= n_done < 10 and not (folder_of(tmp_path) / "result.json").exists()
    if victim == "server":
        return
    cluster.start_all()
    ended = cluster.end()
    assert_end_well(ended)
    assert any("resumes behind epoch" in errors for _, _, errors in ended.values())
    assert_same_run(tmp_path, alone("cpu:0,1", "train.epochs=10"))


def test_a_workers_mistake_ends_all(experiment_file, port, tmp_path):
    cluster = Cluster(port, experiment_file, tmp_path)
    cluster.start("worker a", "--set=dataset.root=/nowhere")
    cluster.start_all()
    ended = cluster.end()
    assert ended.pop("worker a")[0] == 2
    # The data's folder is no part of the config's hash: each machine may have its own.
    for name, lines in lines_of_errors(ended).items():
        assert ended[name][0] == 1
        assert len(lines) == 1
        assert re.match(r"error: worker [01] \(.+\) ended: .*/nowhere", lines[0]), lines
    assert not folder_of(tmp_path).exists()


def test_workers_of_different_commands_do_not_train(experiment_file, port, tmp_path):
    cluster = Cluster(port, experiment_file, tmp_path)
    cluster.start("worker a", "--seed=1")
    cluster.start_all()
    ended = cluster.end()
    assert all(code in (1, 2) for code, _, _ in ended.values())
    for lines in lines_of_errors(ended).values():
        assert len(lines) == 1
        assert re.search(r"workers differ in the seed \(worker 0: [01], worker 1: [01]\)", lines[0])
    assert list(tmp_path.iterdir()) == []


def test_an_infinite_loss_ends_all(experiment_file, port, tmp_path):
    cluster = Cluster(port, experiment_file, tmp_path, "train.learning_rate=1e30")
    cluster.start_all()
    ended = cluster.end()
    assert all(code in (1, 2) for code, _, _ in ended.values())
    for lines in lines_of_errors(ended).values():
        assert len(lines) == 1 and "the loss is no longer finite in epoch" in lines[0]


def test_ctrl_c_on_a_worker_ends_all(experiment_file, port, tmp_path):
    cluster = Cluster(port, experiment_file, tmp_path, "train.epochs=200")
    cluster.start_all()
    wait_for(lambda: metrics_of(tmp_path))
    cluster.processes["worker b"].send_signal(signal.SIGINT)
    ended = cluster.end()
    code, _, errors = ended.pop("worker b")
    assert code == 130 and errors.splitlines()[-1].startswith("interrupted; the same command")
    for name, lines in lines_of_errors(ended).items():
        assert ended[name][0] == 1
        assert len(lines) == 1
        assert re.match(r"error: worker [01] \(.+\) ended: interrupted", lines[0]), lines


def test_a_scheduler_that_is_only_mxnets_will_do(experiment_file, alone, port, tmp_path):
    """As SageMaker starts it, and the servers."""
    cluster = Cluster(port, experiment_file, tmp_path, "train.batch_size=40")
    only_mxnet = [sys.executable, "-W", "ignore", "-c", "import mxnet"]
    hasty = """
import runpy, sys
from trnet.training import roll_call
roll_call.PATIENCE = 0.5
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    for name in ("scheduler", "server"):
        cluster.start(name, command=only_mxnet)
    for name in ("worker a", "worker b"):
        script = [TRAIN, *cluster.command[4:], "--kvstore=dist_sync"]
        cluster.start(name, command=[sys.executable, "-W", "ignore", "-c", hasty, *script])
    ended = cluster.end()
    assert_end_well(ended)
    for name, lines in lines_of_errors(ended).items():
        assert bool(lines) is name.startswith("worker")
        assert all("so a process that is lost will not be noticed" in line for line in lines)
    assert_same_run(tmp_path, alone("cpu:0,1", "train.batch_size=40"))


def run_train(*arguments: str, **variables: str) -> subprocess.CompletedProcess:
    command = [sys.executable, TRAIN, *arguments]
    return subprocess.run(command, env=environment(**variables), capture_output=True, text=True)


def test_train_says_what_it_needs(experiment_file, port):
    file = str(experiment_file)
    for variables, arguments, said in (
        ({}, ["--kvstore=dist_sync"], "error: --kvstore dist_sync: this process has no place"),
        ({"DMLC_ROLE": "worker"}, [], "error: DMLC_ROLE: got 'worker' without --kvstore"),
    ):
        done = run_train(file, *arguments, **variables)
        assert done.returncode == 2 and done.stderr.startswith(said)
        assert done.stderr.count("\n") == 1
    done = run_train(file, "--kvstore=dist_async")
    assert done.returncode == 2 and "choose from" in done.stderr


def test_a_scheduler_says_where_it_cannot_listen(experiment_file, port):
    scheduler = {**DMLC, "DMLC_ROLE": "scheduler", "DMLC_PS_ROOT_PORT": str(port)}
    for taken in (port, port + 1):
        with socket.create_server(("127.0.0.1", taken)):
            local = {**scheduler, "DMLC_PS_ROOT_URI": "127.0.0.1"}
            done = run_train(str(experiment_file), "--kvstore=dist_sync", **local)
        assert done.returncode == 2 and done.stderr.count("\n") == 1
        assert re.search(r"DMLC_PS_ROOT_PORT: got .* would fit: .* in use$", done.stderr)
    elsewhere = {**scheduler, "DMLC_PS_ROOT_URI": "203.0.113.1"}
    done = run_train(str(experiment_file), "--kvstore=dist_sync", **elsewhere)
    assert done.returncode == 2 and "got 203.0.113.1" in done.stderr
    assert done.stderr.count("\n") == 1
