"""Finds networks for a budget among the subnets of a trained supernet. `spvnas search` calls `command.run`.

Reading order: search_config (recipes), budget and latency (what a network costs), scoring (how good it is), evolution
(which ones are tried), journal (what is kept of them), command.
"""
