"""Shared fixtures of the messages' tests."""

from __future__ import annotations

import importlib

import pytest

from message_builds import build


@pytest.fixture(scope="session")
def messages() -> str:
    """Both packages, importable; what the build step said."""
    done = build()
    if done.returncode == 3:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    importlib.invalidate_caches()
    return done.stdout
