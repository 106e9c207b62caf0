"""`make demo`: a drive through the real node, everything it publishes, a score and a picture. Outside of both rooms:
the node is shown by `ros/`, the drive and its truth come from `offline/`.
"""
