"""Pages as Jinja2 templates, each beside the module that has its facts."""

from pathlib import Path
from typing import Any


def render(template: Path, **facts: Any) -> str:
    """What the template at a path makes of facts; jinja2.UndefinedError where it uses a name that
    no fact has."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(template.parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template.name).render(facts)
