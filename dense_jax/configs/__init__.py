"""The published methods, found by name from any folder: `--config=ict`, `--config=ict:tiny`.

Each module has one function, `get_config(variant)`. The folder `configs/` of the repository is a link to this one.
"""
