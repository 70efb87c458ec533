#!/usr/bin/env python
"""Train an experiment, or go on where an earlier session stopped.

python scripts/train.py configs/mnist/vgg_trl_8.yaml --seed 1

Over several machines, on MXNet's parameter server, all processes run the same command, with --runs
on a folder that the machines share:

mpirun -n 4 python scripts/train.py configs/mnist/vgg_trl_8.yaml --kvstore dist_sync

Of mpirun's or srun's ranks 0 is the scheduler, the next DMLC_NUM_SERVER (1 where it is not set) are
servers, the rest are workers. DMLC_PS_ROOT_URI is the host of rank 0, found by itself on one host
and by srun; DMLC_PS_ROOT_PORT (9091) is a port there that is free, as the next one is. Kubeflow,
SageMaker and dmlc-tracker set these, and DMLC_ROLE and DMLC_NUM_WORKER, for every process.

A batch is shared by all workers and their --devices. When a process is lost the others end, too;
the same command goes on behind the last whole epoch.
"""

import os

from trnet import command, config
from trnet.training import distributed


def main() -> None:
    """Parse the arguments, train, and say where the result is."""
    arguments = command.parser(__doc__)
    arguments.add_argument("config", help="a YAML file in configs/")
    arguments.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key"
    )
    arguments.add_argument("--seed", help="the same as --set seed=SEED")
    command.add_runs(arguments)
    command.add_devices(arguments)
    arguments.add_argument(
        "--kvstore", choices=distributed.KVSTORES, help="train over several machines"
    )
    options = arguments.parse_args()
    # Before anything imports MXNet, which in a server or the scheduler does not come back.
    with distributed.join(distributed.find_place(options.kvstore, os.environ)) as workers:
        overrides = [*options.set, *([f"seed={options.seed}"] if options.seed is not None else [])]
        chosen = config.load(options.config, overrides)
        baseline = config.load_baseline(options.config, chosen)

        from trnet import experiment
        from trnet.training.devices import parse_devices

        contexts = parse_devices(options.devices)
        result = experiment.train(chosen, baseline, options.runs, contexts, workers=workers)
    if workers.writes:
        print(f"Top-1          {100 * result['top1']:.2f} %")
        print(f"Top-5          {100 * result['top5']:.2f} %")
        print(f"Space savings  {100 * result['space_savings']:.2f} %")
        print(f"Result         {experiment.run_folder(options.runs, chosen) / 'result.json'}")


if __name__ == "__main__":
    command.run(main)
