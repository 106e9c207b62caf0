"""Networks: their description (`spec`), their computation (`unet`) and their cost (`cost`). The same for detectors of
boxes: `detector_spec`, `box_spec`, `second`, `heads`, `box_targets` (what they learn), `detections` (what comes out).

`offline` trains them, `zoo` keeps and imports their weights, and `engine` runs the trained ones.
"""
