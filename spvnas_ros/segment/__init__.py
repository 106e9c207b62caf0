"""The one core that labels a recording: any source, into a folder, resumable, with or without a truth to score against.

`spvnas segment` calls `command.run`, which calls `run.segment`. Replay, viewer, doctor and evaluation use parts of it.
"""
