#!/usr/bin/env python
"""Django's command line. It runs on the panel's box only; a host has no Django."""

import os
import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "nspawnpanel.settings")
    execute_from_command_line(sys.argv)
