from setuptools import find_namespace_packages, setup

setup(
    name="mingpt-studies",
    version="0.1.0",
    description="A small GPT to read, and studies of transformers that run on a laptop",
    license="MIT",
    python_requires=">=3.10",
    packages=find_namespace_packages(include=["mingpt", "projects", "projects.*", "data", "data.*"]),
    package_dir={"": "."},  # the checkout itself, so that an editable install also finds its data
    install_requires=["torch>=2.6", "numpy", "matplotlib", "tqdm", "requests"],
    extras_require={"test": ["pytest", "pytest-xdist", "hypothesis", "regex", "scipy", "transformers", "tiktoken", "tokenizers"]},
)
