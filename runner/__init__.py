"""`runner`: a declarative workflow runner for Kubernetes."""

# A plain string: importlib.metadata costs five times the start of Python. A test compares it with pyproject.toml.
__version__ = "0.1.0"
