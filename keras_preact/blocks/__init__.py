"""Parts of a net, one module per part: its facts, the function that builds it, and its check.

In the order of building: a stage is made of units, a unit of a branch and a shortcut, a branch of
operations, and all of them of layers from the layer factory.
"""
