"""The settings of an installation behind HTTPS satisfy Django's own deployment checks."""

import os
import secrets
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_deployment_check_is_clean(tmp_path: Path) -> None:
    installed = {"BEHIND_HTTPS": "1", "SECRET_KEY": secrets.token_urlsafe(50), "NSPAWNPANEL_DATA": str(tmp_path)}
    argv = [sys.executable, "manage.py", "check", "--deploy", "--fail-level", "WARNING"]
    environment = {**os.environ, **installed, "DJANGO_SETTINGS_MODULE": "nspawnpanel.settings"}
    done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_model_lacks_its_migration(tmp_path: Path) -> None:
    argv = [sys.executable, "manage.py", "makemigrations", "--check", "--dry-run"]
    environment = {**os.environ, "NSPAWNPANEL_DATA": str(tmp_path), "DJANGO_SETTINGS_MODULE": "nspawnpanel.settings"}
    done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
