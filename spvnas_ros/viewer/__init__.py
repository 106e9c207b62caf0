"""Shows recordings in the browser, in class colours; only `window.py` and `panels.py` import viser. The command `spvnas
view` calls it.
"""
