# make reproduce: set up, train the embedded suite, leave its table and plot in results/mnist.
# make reproduce-glyphs: set up, draw the glyphs, train the published heads on them, with tables and
#                 plots in results/glyphs; 8 to 19 hours on two cores. It resumes. Fonts that are missing
#                 are named.
# make test:      set up, check the code, run the tests.
# make docs:      set up, build the guide and its API reference into site/.
# make benchmark: set up, with PyTorch in an environment of its own, and measure speed and memory
#                 into results/benchmark; two hours on a quiet machine.
# make gpu-check: set up MXNet for CUDA in an environment of its own, check the layers on a GPU against
#                 the CPU, measure them and train on it, into results/gpu; some 5 minutes.
# make audit:     set up bandit and pip-audit in an environment of their own, and look for insecure code
#                 and for packages with known vulnerabilities.
# make soak:      set up, try to lose runs in some thousand ways, into results/reliability.md; an hour.
# Python is looked for by name; PYTHON=/path/to/python3.10 chooses one.

CANDIDATES = $(or $(PYTHON),python3.11 python3.10 python3.9 python3 python)
IS_SUPPORTED = import sys; sys.exit(not (3, 9) <= sys.version_info < (3, 12))

define FIND_PYTHON
for python in $(CANDIDATES); do \
    $$python -c "$(IS_SUPPORTED)" 2> /dev/null && break; python=; \
done; \
if [ -z "$$python" ]; then \
    echo "trnet needs Python 3.9, 3.10 or 3.11, because MXNet 1.9.1 does; found" \
        "$$(for p in $(CANDIDATES); do $$p --version 2> /dev/null && break; done)." \
        "Set PYTHON=/path/to/python3.11." >&2; \
    exit 2; \
fi
endef

.PHONY: reproduce reproduce-glyphs test docs benchmark audit soak gpu-check gpu-driver clean

reproduce: .venv/installed
	.venv/bin/trnet reproduce configs/mnist --seeds 0,1,2

reproduce-glyphs: .venv/installed
	.venv/bin/trnet prepare glyphs data/glyphs
	for suite in scratch joint start frozen tcl tcl_vgg; do \
	    .venv/bin/trnet reproduce configs/glyphs/$$suite --seeds 0,1,2,3,4 || exit; \
	done
	.venv/bin/python benchmarks/spectra.py runs/glyphs/scratch/resnet/seed0 \
	    runs/glyphs/tcl/alexnet/seed0 runs/glyphs/tcl/paper_alexnet/seed0 runs/glyphs/tcl_vgg/vgg/seed0
	.venv/bin/trnet report

test: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest --numprocesses logical --dist loadfile

docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict

benchmark: .venv/installed .venv-peers/installed
	.venv/bin/python benchmarks/layers.py
	.venv/bin/python benchmarks/layers.py --growth --processes 1
	.venv/bin/python benchmarks/layers.py --memory
	.venv/bin/python benchmarks/operators.py
	.venv/bin/python benchmarks/plans.py
	.venv/bin/python benchmarks/peers.py --python .venv-peers/bin/python
	.venv/bin/python benchmarks/networks.py configs/imagenet --also alexnet 32
	.venv/bin/python benchmarks/readers.py
	.venv/bin/python benchmarks/threads.py
	.venv/bin/python benchmarks/folded.py
	.venv/bin/python benchmarks/loop.py configs/mnist/vgg.yaml configs/mnist/vgg_trl_8.yaml \
	    configs/mnist/vgg_trl_cp_30.yaml configs/mnist/vgg_trl_tt_10.yaml \
	    configs/fashion_mnist/factorization/tucker_12.yaml \
	    configs/fashion_mnist/factorization/cp_44.yaml \
	    configs/fashion_mnist/factorization/tt_21.yaml \
	    configs/fashion_mnist/rank/flat_trl_25.yaml configs/fashion_mnist/rank/pooled_trl_2.yaml
	.venv/bin/python benchmarks/report.py

gpu-check: .venv-gpu/installed
	.venv-gpu/bin/python benchmarks/gpu.py

audit: .venv/installed .venv-audit/installed
	.venv-audit/bin/bandit --quiet --configfile pyproject.toml --recursive trnet scripts benchmarks
	.venv-audit/bin/pip-audit --path "$$(.venv/bin/python -c 'import mxnet; print(mxnet.__path__[0])')/.."

soak: .venv/installed
	PYTHONPATH=tests .venv/bin/python -m soak

.venv-audit/installed:
	@$(FIND_PYTHON); $$python -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet --disable-pip-version-check bandit pip-audit
	@touch $@

.venv-peers/installed: benchmarks/requirements-peers.txt
	$(firstword $(wildcard .venv/bin/python3.1[01]) .venv/bin/python) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

.venv/installed: setup.py examples/requirements.txt
	@$(FIND_PYTHON); \
	echo "Setting up .venv with $$($$python --version)"; \
	$$python -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check \
	    --editable '.[cpu,experiments,onnx,tensorboard,test,docs]'
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
	    --requirement examples/requirements.txt
	@touch $@

.venv-gpu/installed: setup.py | gpu-driver
	@$(FIND_PYTHON); \
	echo "Setting up .venv-gpu with $$($$python --version)"; \
	$$python -m venv .venv-gpu
	.venv-gpu/bin/python -m pip install --quiet --disable-pip-version-check \
	    --editable '.[cu112,experiments,test]'
	@touch $@

# Before 4 GB are downloaded for a machine on which they are of no use.
gpu-driver:
	@$(FIND_PYTHON); $$python -m trnet.tensor.cuda

clean:
	rm -rf .venv .venv-audit .venv-gpu .venv-peers build dist site *.egg-info
