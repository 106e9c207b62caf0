"""`spvnas view`: recordings in the browser, in class colours. Only `window.py` and `panels.py` know viser."""
