"""Make RecordIO files from one folder of images per class, or draw the data set glyphs.

On disks where seeking is slow, ImageNet is read faster from such files. A preparation that was
stopped resumes where it stopped. Files that are no images are skipped and listed. With `glyphs` as
the source, 1 000 characters are drawn from the fonts of Debian packages.
"""

from __future__ import annotations

import os
from argparse import Action, ArgumentParser, Namespace
from pathlib import Path

from trnet.errors import UserError

EXAMPLES = """
trnet prepare ILSVRC2012/train data/imagenet/train
trnet prepare ILSVRC2012/val data/imagenet/val --resize 480 --jobs 16
trnet prepare --check data/imagenet/train
trnet prepare glyphs data/glyphs
"""

_QUALITY = 95  # of JPEGs, by default
# JPEG's largest side and quality; a bound on threads that no machine of today meets.
_LARGEST = {"resize": 65_500, "quality": 100, "jobs": 1024}


def add_arguments(parser: ArgumentParser) -> None:
    """Add where images are read and records are written, and how."""
    source = parser.add_argument("source", type=Path, help="a folder of class folders, or glyphs")
    output = parser.add_argument(
        "output",
        type=Path,
        help="records without suffix, data/train for data/train.rec, .idx; of glyphs a folder",
    )
    parser.add_argument(
        "--resize", type=int, metavar="N", help="shrink larger images to a shorter side of N"
    )
    parser.add_argument(
        "--quality",
        type=int,
        metavar="Q",
        help=f"of JPEGs that are encoded here (default: {_QUALITY})",
    )

    class Check(Action):
        """Needs no source and no output."""

        def __call__(self, parser, namespace, value, option_string=None) -> None:
            source.required = output.required = False
            namespace.check = value

    parser.add_argument(
        "--check",
        type=Path,
        action=Check,
        metavar="OUTPUT",
        help="make nothing: read all records that were made there",
    )
    parser.add_argument("--jobs", type=int, metavar="N", help="threads (default: one per core)")


def run(options: Namespace) -> None:
    """Make the files, and print what was skipped."""
    for name, largest in _LARGEST.items():
        value = getattr(options, name)
        if value is not None and not 1 <= value <= largest:
            raise UserError(f"--{name}: expected an integer from 1 to {largest}, got {value}")
    from trnet.threads import cores

    jobs = options.jobs or cores()
    # MXNet, which tries images that are no JPEG, has as many threads as this says when it loads.
    os.environ.setdefault("MXNET_CPU_WORKER_NTHREADS", str(jobs))
    if options.check is not None:
        if options.source is not None:
            raise UserError(f"--check: expected no source and no output, got {options.source}")
        from trnet.data.prepare import check

        print(f"{check(options.check, jobs)} records are undamaged")
        return
    if options.source == Path("glyphs") and not options.source.is_dir():
        if options.resize is not None or options.quality is not None:
            raise UserError("--resize, --quality: expected none for glyphs, which are 28×28 pixels")
        from trnet.data.glyphs import draw

        print(draw(options.output))
        return
    if options.output.is_dir():
        raise UserError(
            f"{options.output}: expected the records' path without suffix, got a folder; use "
            f"{options.output / 'train'} for train.rec in it"
        )
    from trnet.data.prepare import prepare

    quality = options.quality or _QUALITY
    done = prepare(options.source, options.output, options.resize, quality, jobs)
    if not done.made:
        print(f"{options.output}.rec exists and is verified; nothing was written")
    for file, reason in done.skipped.items():
        print(f"skipped {file}: {reason}")
    if done.ignored:
        print(f"ignored {done.ignored} entries of class folders that are no images")
    print(f"{done.images} images, {done.classes} classes, {len(done.skipped)} skipped")
