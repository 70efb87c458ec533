"""The CUDA libraries that mxnet-cu112 links, from PyPI's NVIDIA packages.

Those packages keep them in folders that the system's loader does not search. A library that is
loaded already is not searched for; hence they are loaded before MXNet.
"""

from __future__ import annotations

import ctypes
import sys
from importlib import metadata

from trnet.errors import MissingStack

DRIVER = "libcuda.so.1"

# Each library after those that it links to. cuDNN opens its parts when it needs them: here, so that
# they are never those of another cuDNN 8 in LD_LIBRARY_PATH.
LIBRARIES = {
    "cuda-runtime": ("libcudart.so.11.0",),
    "cuda-nvrtc": ("libnvrtc.so.11.2",),
    "nvtx": ("libnvToolsExt.so.1",),
    "cublas": ("libcublasLt.so.11", "libcublas.so.11"),
    "cusparse": ("libcusparse.so.11",),
    "cufft": ("libcufft.so.10",),
    "curand": ("libcurand.so.10",),
    "cusolver": ("libcusolver.so.11",),
    "nccl": ("libnccl.so.2",),
    "cudnn": (
        "libcudnn.so.8",
        "libcudnn_ops_infer.so.8",
        "libcudnn_ops_train.so.8",
        "libcudnn_cnn_infer.so.8",
        "libcudnn_cnn_train.so.8",
        "libcudnn_adv_infer.so.8",
        "libcudnn_adv_train.so.8",
    ),
}


def preload() -> None:
    """Load, for mxnet-cu112, the libraries that the installed NVIDIA packages bring.

    What they do not bring is left to the system's loader.

    Raises
    ------
    MissingStack
        Where mxnet is installed as well.
    OSError
        For a library that does not load.
    """
    # Beside the libraries that an imported MXNet uses, second copies could take over its calls.
    if "mxnet" in sys.modules or _find("mxnet-cu112") is None:
        return
    if _find("mxnet") is not None:
        raise MissingStack(
            "mxnet and mxnet-cu112 are both installed and overwrite each other: pip uninstall mxnet"
            " mxnet-cu112, then pip install 'trnet[cu112]', or 'trnet[cpu]' without a GPU"
        )
    for name, files in LIBRARIES.items():
        package = _find(f"nvidia-{name}-cu11")
        if package is None:
            continue
        folder = package.locate_file(f"nvidia/{name.replace('-', '_')}/lib")
        for file in files:
            if (folder / file).is_file():
                ctypes.CDLL(str(folder / file), ctypes.RTLD_GLOBAL)


def explain(reason: str) -> str | None:
    """One line on a failure of the system's loader, where it is about CUDA."""
    library = reason.partition(":")[0].rpartition("/")[2]
    if library == DRIVER:
        return (
            f"no NVIDIA driver ({DRIVER}) on this machine; on one without a GPU install trnet[cpu]:"
            " pip uninstall mxnet-cu112, then pip install 'trnet[cpu]'"
        )
    if any(library in files for files in LIBRARIES.values()):
        return f"mxnet-cu112 needs NVIDIA's {library} (pip install 'trnet[cu112]'): {reason}"
    return None


def _find(package: str) -> metadata.Distribution | None:
    try:
        return metadata.distribution(package)
    except metadata.PackageNotFoundError:
        return None
