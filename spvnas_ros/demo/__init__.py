"""Holds the program of `make demo`: a recording goes through the real node, and all topics, a score and pictures are
shown. `make demo` starts it as `python -m spvnas_ros.demo`; it joins the node of `ros/` with the simulator of
`offline/`.
"""
