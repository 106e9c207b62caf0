"""Networks: what they are (`spec`), what they compute (`unet`) and what they cost (`cost`).

`offline` trains them, `zoo` keeps and imports their weights, and `engine` runs the trained ones.
"""
