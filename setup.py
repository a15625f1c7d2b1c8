"""Installs `mingpt` alone, to be used from anywhere: `pip install .`, or `pip install -e .` to go on editing it.

The studies need no installation. Each of their scripts puts its own checkout first on the path, so that it runs the
code beside it, whatever is installed; and names as general as `projects` and `data` would get in other packages' way.
"""

from setuptools import find_packages, setup

setup(
    name="mingpt-studies",
    version="0.1.0",
    description="A small GPT to read, and studies of transformers that run on a laptop",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["mingpt", "mingpt.*"]),
    # torch 2.6: before it, weights_only=True could run code from a file. The other bounds are the releases of its time.
    install_requires=["torch>=2.6", "numpy>=1.26", "matplotlib>=3.8", "tqdm>=4.66", "requests>=2.31"],
    extras_require={
        "test": ["pytest", "pytest-xdist", "ruff==0.17.6", "hypothesis", "regex", "scipy"]
        + ["transformers", "tiktoken", "tokenizers"]
    },
)
