"""Networks: their description (`spec`), their computation (`unet`) and their cost (`cost`).

`offline` trains them, `zoo` keeps and imports their weights, and `engine` runs the trained ones.
"""
