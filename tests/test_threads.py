"""Commands compute with all cores that they may use; a library leaves that to its user."""

import pytest

SCRIPT = """
    import os
    os.environ.pop("OMP_NUM_THREADS", None)
    os.environ.update({given!r})
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    from trnet import cli
    module = cli.COMMANDS[{command!r}]
    module.run = lambda options: print(os.environ.get("OMP_NUM_THREADS"))
    cli.main([{command!r}, "anything"])
"""


@pytest.mark.parametrize(
    "command, given, threads",
    [
        ("evaluate", {}, "1"),
        ("train", {}, "1"),
        ("evaluate", {"OMP_NUM_THREADS": "3"}, "3"),
        ("tabulate", {}, "None"),
    ],
)
def test_a_command_computes_with_all_cores_unless_told_otherwise(
    command, given, threads, run_python
):
    script = SCRIPT.format(command=command, given=given)
    assert run_python(script) == f"{threads}\n"


def test_cores_are_shared_between_processes(run_python):
    script = """
        import os
        from unittest import mock
        from trnet import threads
        for cores, share in ((8, 3), (2, 4)):
            os.environ.pop("OMP_NUM_THREADS", None)
            with mock.patch("joblib.cpu_count", return_value=cores):
                threads.use_cores(share)
            print(threads.in_use())
    """
    assert run_python(script) == "2\n1\n"


def test_processes_that_start_share_cores_and_the_environment_stays(run_python):
    script = """
        import os
        from trnet import threads
        os.environ.pop("OMP_NUM_THREADS", None)
        for share in (1, 2):
            with threads.cores_shared(share):
                print(int(threads.in_use()) == max(1, threads.cores() // share))
            print(os.environ.get("OMP_NUM_THREADS"))
    """
    assert run_python(script) == "True\nNone\n" * 2


@pytest.mark.parametrize(
    "given, looks",
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_threads_fall_asleep_early_unless_told_otherwise(given, looks, run_python):
    script = f"""
        import os
        os.environ.pop("GOMP_SPINCOUNT", None)
        os.environ.update({given!r})
        from trnet import threads
        threads.use_cores()
        print(os.environ.get("GOMP_SPINCOUNT"))
    """
    assert run_python(script) == f"{looks}\n"


def test_a_library_leaves_the_threads_to_its_user(run_python):
    script = """
        import os
        os.environ.pop("OMP_NUM_THREADS", None)
        from trnet import TRL, threads
        print(threads.in_use())
    """
    assert run_python(script) == "MXNet's default\n"
