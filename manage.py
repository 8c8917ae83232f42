#!/usr/bin/env python
"""The command line: `python manage.py help` lists what there is."""

import argparse
import sys
from pathlib import Path

from django.core.management import execute_from_command_line

from lensagents.settings.env import SettingError, choose_settings, preset


def preset_from_arguments(arguments: list[str]) -> None:
    """Options that are settings: they must stand before settings are read."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--data-dir", type=lambda path: str(Path(path).absolute()))
    parser.add_argument("--host")
    parser.add_argument("--port")
    found, _ = parser.parse_known_args(arguments)
    for name, value in vars(found).items():
        if value is not None:
            preset(name.upper(), value)


if __name__ == "__main__":
    choose_settings("lensagents.settings.embedded")
    preset_from_arguments(sys.argv[1:])
    try:
        execute_from_command_line(sys.argv)
    except SettingError as error:
        sys.exit(f"Cannot start: {error}")
