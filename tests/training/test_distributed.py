"""Distributed training: a process's place, the errors of its environment, and workers' sums."""

import os
from unittest import mock

import numpy as np
import pytest
from training.cluster import DMLC

from trnet.errors import UserError
from trnet.training import distributed
from trnet.training.distributed import ALONE, Place, Workers, find_place, find_secret

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


def test_a_place_gives_mxnet_the_variables_that_it_came_from():
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
    with mock.patch.dict(os.environ, SLURM):  # which is no dict
        assert find_place("dist_sync", os.environ).host == "node01"
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
        (
            {**DMLC, "DMLC_ROLE": "chief"},
            r"DMLC_ROLE: expected one of scheduler, server, worker, got 'chief'",
        ),
        ({"DMLC_ROLE": "server"}, r"DMLC_PS_ROOT_URI: expected the scheduler's host, .* not set"),
        (
            {**DMLC, "DMLC_PS_ROOT_PORT": "x"},
            r"DMLC_PS_ROOT_PORT: expected an integer from 1 to 65534, got 'x'",
        ),
        ({**DMLC, "DMLC_PS_ROOT_PORT": "65535"}, r"DMLC_PS_ROOT_PORT: .*, got '65535'"),
        ({**DMLC, "DMLC_NUM_SERVER": "0"}, r"DMLC_NUM_SERVER: .*, got '0'"),
        (
            {k: v for k, v in DMLC.items() if k != "DMLC_NUM_WORKER"},
            r"DMLC_NUM_WORKER: .*, but it is not set",
        ),
        ({"PMI_RANK": "0"}, r"PMI_SIZE: .*, but it is not set"),
        ({**MPICH, "PMI_RANK": "4"}, r"PMI_RANK: expected an integer from 0 to 3, got '4'"),
        ({**MPICH, "PMI_SIZE": "2"}, r"PMI_SIZE: expected at least 3 processes .*, got 2"),
        ({**MPICH, "DMLC_NUM_SERVER": "3"}, r"PMI_SIZE: expected at least 5 processes .*, got 4"),
        ({**MPICH, "DMLC_NUM_WORKER": "3"}, r"DMLC_NUM_WORKER: expected 2, .*, got '3'"),
        (
            {**MPICH, "MPI_LOCALNRANKS": "2"},
            r"DMLC_PS_ROOT_URI: expected the host of rank 0, but it is not set",
        ),
        ({**SLURM, "SLURM_PROCID": "one"}, r"SLURM_PROCID: .*, got 'one'"),
    ],
)
def test_an_impossible_environment_is_named(environ, said):
    with pytest.raises(UserError, match=said) as caught:
        find_place("dist_sync", environ)
    assert "\n" not in str(caught.value)


def test_a_role_without_a_kvstore_is_refused():
    with pytest.raises(UserError, match=r"DMLC_ROLE: got 'server' without --kvstore"):
        find_place(None, {"DMLC_ROLE": "server"})


def test_a_place_is_found_without_mxnet(run_python):
    run_python("import sys, trnet.training.distributed; assert 'mxnet' not in sys.modules")


def test_under_kubernetes_the_scheduler_listens_everywhere(monkeypatch, port):
    """The name may be that of a service, whose address no machine has."""
    listening = []
    monkeypatch.setenv("DMLC_USE_KUBERNETES", "1")
    monkeypatch.setattr(distributed, "Monitor", lambda address, *_: listening.append(address))
    distributed._monitor(Place("scheduler", "a-service.invalid", port, 1, 1), "secret")
    assert listening == [("", port + 1)]


def test_the_only_worker_sums_and_agrees_with_itself():
    assert ALONE.sum([1.5, 2]).tolist() == [1.5, 2]
    ALONE.agree("itself", 3)
    assert ALONE.writes and not Workers(index=1, count=2).writes


def test_the_first_workers_dropout_is_the_only_ones():
    states = [np.random.SeedSequence(key).generate_state(4) for key in ((3, 7), (3, 7, 0))]
    assert (states[0] == states[1]).all()


@pytest.mark.parametrize("count", [2, 3, 5])
def test_sums_are_exact_whatever_the_order_and_the_precision_of_the_server(count):
    """MXNet's adds in the order of arrival, and float64 sometimes in float32."""
    own = np.random.default_rng(0).normal(size=(count, 2, 3)) * 10.0 ** np.arange(-3, 3).reshape(
        2, 3
    )
    own[0, 0, 0], own[1, 1, 1] = 2**53 - 1, -np.inf
    pushed: list[np.ndarray] = []

    class Kept:
        def init(self, key, array):
            assert array.dtype == np.float32

        def pushpull(self, key, array):
            pushed.append(array.asnumpy())

    class Answered(Kept):
        def pushpull(self, key, array):
            total = np.zeros_like(pushed[0])
            for index in np.random.permutation(count):
                total += pushed[index]
            array[:] = total

    for kvstore in (Kept(), Answered()):
        found = [Workers(i, count, kvstore).sum(own[i]) for i in range(count)]
    for total in found:
        np.testing.assert_array_equal(total, own.sum(axis=0))


def test_a_secret_is_written_once_for_its_user_alone(tmp_path):
    first = find_secret(tmp_path, {})
    assert len(first) == 64 and find_secret(tmp_path, {}) == first
    assert find_secret(tmp_path, {"TRNET_SECRET": "ours"}) == "ours"
    assert [path.name for path in tmp_path.iterdir()] == [".secret"]
    assert (tmp_path / ".secret").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content, mode", [("", 0o600), ("known to all", 0o644)])
def test_a_secret_of_others_is_refused(content, mode, tmp_path):
    path = tmp_path / ".secret"
    path.write_text(content)
    path.chmod(mode)
    with pytest.raises(
        UserError, match=r"\.secret: expected a secret that only this user can read"
    ):
        find_secret(tmp_path, {})


def test_a_folder_without_hard_links_is_named(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("os.link", refused)
    with pytest.raises(UserError, match=r"Operation not supported; set TRNET_SECRET$"):
        find_secret(tmp_path, {})
    assert list(tmp_path.iterdir()) == []
