"""ament's copyright linter, where it is installed: it knows the licence that package.xml and setup.py name."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from places import REPOSITORY

pytestmark = [pytest.mark.linter, pytest.mark.copyright]


def test_the_licence_file_is_the_one_that_the_package_names() -> None:
    """Of the repository, not of each file: headers of thirteen lines are not this project's way."""
    pytest.importorskip("ament_copyright", reason="ament_copyright is not installed (it comes with ROS, not from PyPI)")
    from ament_copyright.licenses import apache2
    from ament_copyright.parser import parse_file

    found = parse_file(str(REPOSITORY / "LICENSE"))
    licence = ElementTree.parse(REPOSITORY / "package.xml").getroot().find("license")
    assert licence is not None
    assert (licence.text, licence.get("file")) == (apache2.spdx, "LICENSE")
    assert found.license_identifier == "apache2"
