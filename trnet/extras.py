"""The packages of trnet's extras: one line names the one that is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from trnet.errors import MissingStack

# By the name that an import error gives. setup.py lists the same packages, as the extras "cpu",
# "experiments", "onnx" and "tensorboard".
PACKAGES = {
    "PIL": "pillow",
    "gluoncv": "gluoncv",
    "joblib": "joblib",
    "matplotlib": "matplotlib",
    "mlxtend": "mlxtend",
    "mxnet": "mxnet",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "pydantic": "pydantic",
    "ruamel": "ruamel.yaml",
    "ruamel.yaml": "ruamel.yaml",
    "scipy": "scipy",
    "tabulate": "tabulate",
    "tensorboardX": "tensorboardX",
    "tqdm": "tqdm",
    "typing_extensions": "typing_extensions",
}


@contextmanager
def named_if_missing(user: str) -> Iterator[None]:
    """Explain an import that fails because an extra is not installed.

    Parameters
    ----------
    user : str
        What needs the packages, for the message: ``"trnet train"``.

    Raises
    ------
    MissingStack
        One line with the package and the command that installs it. All other errors pass, those of
        packages that are not in an extra included.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in PACKAGES:
            raise
        # Beside mxnet-cu112, which has the same folder, the extra "cpu" would overwrite MXNet.
        if error.name in ("onnx", "onnxruntime"):
            extras = "onnx"
        elif error.name == "tensorboardX":
            extras = "tensorboard"
        else:
            extras = "experiments" if find_spec("mxnet") else "cpu,experiments"
        raise MissingStack(
            f"{user} needs the package {PACKAGES[error.name]} (pip install 'trnet[{extras}]')"
        ) from error
