"""The templates. Everything that is filled in is escaped, as rows, labels and names are text of users."""

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from t5ray.counting import counted
from t5ray.report import words


def render(template: str, **values: object) -> str:
    """Fill in a template of this package."""
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("t5ray.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": words.number, "setting": words.setting, "seconds": words.seconds}
    environment.filters |= {
        "signed": words.signed,
        "share": words.share,
        "counted": counted,
        "few_seeds": words.few_seeds,
    }
    return environment
