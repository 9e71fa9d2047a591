"""How templates are loaded: their indentation is for people and does not travel."""

import re

from django.template import Origin
from django.template.loaders import filesystem

INDENTATION = re.compile(r"^[ \t]+", re.MULTILINE)


class Loader(filesystem.Loader):
    """Templates without the white space lines begin with: in HTML it shows nowhere, and a long page has much of it.

    It is done once, when a template is loaded. Lines keep their numbers. What stands in <pre> and <textarea> comes from
    variables, which nobody touches (tests/panel/test_templates.py).
    """

    def get_contents(self, origin: Origin) -> str:
        return INDENTATION.sub("", super().get_contents(origin))
