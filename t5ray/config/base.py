"""The base of every settings model: frozen, strict about names, documented by attribute docstrings."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from t5ray.redaction import hide_secrets


class Settings(BaseModel):
    """A frozen group of settings. Unknown names and infinite numbers are errors; attribute docstrings describe."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=(), allow_inf_nan=False
    )

    def public(self) -> Self:
        """Return the settings as they may be written down: no address in them holds a password or token.

        What was not given does not count as given in the copy either.
        """
        shown = {name: (value, _public(value)) for name, value in self}
        return self.model_copy(update={name: public for name, (value, public) in shown.items() if public != value})


def _public(value: Any) -> Any:
    if isinstance(value, Settings):
        return value.public()
    if isinstance(value, str):
        return hide_secrets(value)
    if isinstance(value, dict):
        return {key: _public(inner) for key, inner in value.items()}
    return type(value)(_public(inner) for inner in value) if type(value) in (list, tuple) else value
