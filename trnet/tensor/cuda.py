"""The CUDA libraries that mxnet-cu112 links, from PyPI's NVIDIA packages, and the GPUs it runs on.

Those packages keep them in folders that the system's loader does not search. A library that is
loaded already is not searched for; hence they are loaded before MXNet.

``python -m trnet.tensor.cuda`` lists the GPUs, or says in one line why MXNet cannot use them. It
needs neither MXNet nor the libraries.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from importlib import metadata

from trnet.errors import MissingStack, UserError

DRIVER = "libcuda.so.1"

# Compute capabilities, without the minor number, that mxnet-cu112 1.9.1 has code for. cuobjdump
# lists sm_50, sm_60, sm_70, sm_80 and sm_86 in libmxnet.so; each runs on later minor numbers too.
# There is no PTX, which a driver could compile for other GPUs.
CAPABILITIES = (5, 6, 7, 8)

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR

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


@dataclass(frozen=True)
class GPU:
    """A GPU, as the driver describes it.

    Attributes
    ----------
    name : str
    capability : tuple of int
        Major and minor number of the compute capability.
    """

    name: str
    capability: tuple[int, int]


def gpus() -> list[GPU]:
    """The GPUs of this machine, in MXNet's order; none without a driver that works."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return []
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return []
    return [_describe(driver, index) for index in range(count.value)]


def _describe(driver: ctypes.CDLL, index: int) -> GPU:
    device, number, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(100)
    driver.cuDeviceGet(ctypes.byref(device), index)
    driver.cuDeviceGetName(name, len(name), device)
    capability = []
    for attribute in (_MAJOR, _MINOR):
        driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, device)
        capability.append(number.value)
    return GPU(name.value.decode(), tuple(capability))


def driver_version() -> str:
    """The version of NVIDIA's driver, or "unknown"."""
    version = ctypes.create_string_buffer(80)
    try:
        management = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return "unknown"
    if management.nvmlInit_v2() or management.nvmlSystemGetDriverVersion(version, len(version)):
        return "unknown"
    return version.value.decode()


def refusal(gpu: GPU) -> str | None:
    """One line on why mxnet-cu112 cannot compute on a GPU, or None where it can."""
    major, minor = gpu.capability
    if major in CAPABILITIES:
        return None
    return (
        f"expected a GPU of compute capability {CAPABILITIES[0]}.0 to {CAPABILITIES[-1]}.9, for"
        f" which mxnet-cu112 1.9.1 has code, got {gpu.name} with {major}.{minor}"
    )


def check(index: int) -> None:
    """Refuse a GPU that mxnet-cu112 has no code for; another build of MXNet is left to itself.

    Raises
    ------
    UserError
    """
    found = gpus() if _find("mxnet-cu112") is not None else []
    why = refusal(found[index]) if index < len(found) else None
    if why is not None:
        raise UserError(f"gpu({index}): {why}; use --devices cpu")


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


def main() -> None:
    """Print the GPUs, or end with exit code 2 and one line on what is missing."""
    try:
        ctypes.CDLL(DRIVER)
    except OSError:
        sys.exit(_complain(f"no NVIDIA driver ({DRIVER}) on this machine"))
    found = gpus()
    if not found:
        sys.exit(_complain("the NVIDIA driver finds no GPU"))
    reasons = [refusal(gpu) for gpu in found]
    if all(reasons):
        sys.exit(_complain(reasons[0]))
    for gpu in found:
        print(f"{gpu.name}, compute capability {gpu.capability[0]}.{gpu.capability[1]}")


def _complain(line: str) -> int:
    print(f"error: {line}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
