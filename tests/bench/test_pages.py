"""Pages are what their templates say, line by line, and nothing is left out in silence."""

import pytest
from jinja2 import UndefinedError

from craft.bench.pages import render


@pytest.fixture
def template(tmp_path):
    def write(text):
        path = tmp_path / "page.md.jinja"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_lines_of_tags_leave_no_line_and_text_is_not_escaped(template):
    text = "# {{ title }}\n\n{% for row in rows %}\n  {% if row %}\n| {{ row }} |\n  {% endif %}\n"
    path = template(text + "{% endfor %}\n\nend\n")
    assert (
        render(path, title="a < b ± c", rows=["x & y", ""]) == "# a < b ± c\n\n| x & y |\n\nend\n"
    )


@pytest.mark.parametrize(
    "use", ["{{ missing }}", "{{ facts.missing }}", "{% if missing %}{% endif %}"]
)
def test_a_name_that_no_fact_has_is_an_error(use, template):
    with pytest.raises(UndefinedError, match="missing"):
        render(template(use), facts={})
