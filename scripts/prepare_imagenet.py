#!/usr/bin/env python
"""Make RecordIO files of a folder that holds one folder of images per class.

python scripts/prepare_imagenet.py /data/imagenet/train data/imagenet/train --jobs 16
"""

import os
from pathlib import Path

from trnet import command
from trnet.errors import UserError


def main() -> None:
    """Parse the arguments, make the files, and say what was skipped."""
    arguments = command.parser(__doc__)
    arguments.add_argument("source", type=Path, help="a folder of class folders")
    arguments.add_argument("output", type=Path, help="data/train for data/train.rec and .idx")
    arguments.add_argument(
        "--resize", type=int, metavar="N", help="shrink larger images to a shorter side of N"
    )
    arguments.add_argument(
        "--quality", type=int, default=95, metavar="Q", help="of JPEG made here (default: 95)"
    )
    arguments.add_argument("--jobs", type=int, help="threads (default: as many as cores)")
    options = arguments.parse_args()
    for name, most in {"resize": 65500, "quality": 100, "jobs": 1024}.items():
        value = getattr(options, name)
        if value is not None and not 1 <= value <= most:
            raise UserError(f"--{name}: got {value}; 1 to {most} would fit")
    if options.output.is_dir():
        raise UserError(
            f"{options.output}: is a folder; {options.output / 'train'}, for train.rec in it, "
            "would fit"
        )
    jobs = options.jobs or len(os.sched_getaffinity(0))
    # MXNet, which verifies, decodes in threads of its own: one, unless this is set when it loads.
    os.environ.setdefault("MXNET_CPU_WORKER_NTHREADS", str(jobs))

    from trnet.data.prepare import prepare

    done = prepare(options.source, options.output, options.resize, options.quality, jobs)
    if not done.made:
        print(f"{options.output}.rec was there, and is verified; nothing is made anew")
    for file, reason in done.skipped.items():
        print(f"skipped {file}: {reason}")
    print(f"{done.images} images, {done.classes} classes, {len(done.skipped)} skipped")


if __name__ == "__main__":
    command.run(main)
