"""Train an experiment, or resume it.

A run that was stopped resumes where its last checkpoint is. A finished one reports its result. By
Ctrl-C, SIGTERM or SIGHUP, a training ends after its step, with a checkpoint.

Several machines train one network on MXNet's parameter server. All processes run the same command
with --kvstore dist_sync, and with --runs on a folder that the machines share. A batch is split over
all workers and their --devices.

Under mpirun or srun, rank 0 is the scheduler, the next DMLC_NUM_SERVER ranks (default: 1) are
servers, and the rest are workers. DMLC_PS_ROOT_URI is the host of rank 0; on one host, and under
srun, it is found automatically. DMLC_PS_ROOT_PORT (default: 9091) is a free port on that host; the
next port must be free, too. Kubeflow, SageMaker and dmlc-tracker set these variables, DMLC_ROLE and
DMLC_NUM_WORKER for every process.

When a process is lost, all others end, too. The same command resumes the training.
"""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from contextlib import nullcontext

from trnet.cli import arguments

EXAMPLES = """
trnet train configs/mnist/vgg_trl_8.yaml --seed 1
trnet train configs/mnist/vgg_trl_8.yaml --set train.epochs=20 --runs longer
trnet train configs/imagenet/resnet101_trl_200.yaml --devices gpu:0,1,2,3
mpirun -n 4 trnet train configs/mnist/vgg_trl_8.yaml --kvstore dist_sync
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Add a config, what overrides it, where it trains and on what."""
    parser.add_argument("config", help="a YAML file, such as configs/mnist/vgg.yaml")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of the config; may be repeated",
    )
    parser.add_argument("--seed", help="the same as --set seed=SEED")
    arguments.add_runs(parser)
    arguments.add_devices(parser)
    parser.add_argument(
        "--log",
        choices=("tensorboard",),
        help="log metrics for it, into the run folder",
    )
    # KVSTORES, without the import of NumPy.
    parser.add_argument("--kvstore", choices=("dist_sync",), help="train over several machines")


def run(options: Namespace) -> None:
    """Train, and print the scores and where the result is."""
    from trnet import config
    from trnet.training import distributed

    place = distributed.find_place(options.kvstore, os.environ)
    secret = None if place is None else distributed.find_secret(options.runs, os.environ)
    # Before anything imports MXNet, which reads the environment. Servers and the scheduler exit.
    with distributed.join(place, secret) as workers:
        overrides = [*options.set, *([f"seed={options.seed}"] if options.seed is not None else [])]
        chosen = config.load(options.config, overrides)
        baseline = config.load_baseline(options.config, chosen)

        from trnet import experiment
        from trnet.training.devices import parse_devices
        from trnet.training.stopping import GRACE, Stop, heard

        contexts, stop = parse_devices(options.devices), Stop()
        # Of several workers none can save its part of an epoch, so they end at once.
        with heard(stop, GRACE) if workers.count == 1 else nullcontext():
            result = experiment.train(
                chosen,
                baseline,
                options.runs,
                contexts,
                workers=workers,
                stop=stop,
                logs_to_tensorboard=options.log == "tensorboard",
            )
    if workers.writes:
        print(f"Top-1          {100 * result['top1']:.2f} %")
        print(f"Top-5          {100 * result['top5']:.2f} %")
        print(f"Space savings  {100 * result['space_savings']:.2f} %")
        print(f"Result         {experiment.run_folder(options.runs, chosen) / 'result.json'}")
