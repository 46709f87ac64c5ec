"""The base of every settings model: frozen, strict about names, documented by attribute docstrings."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A frozen group of settings. Unknown names and infinite numbers are errors; attribute docstrings describe."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=(), allow_inf_nan=False
    )
