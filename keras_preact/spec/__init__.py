"""Words for nets: the fields of an architecture, the record of one unit, the orders of steps.

Nothing here makes a layer, so everything else may import it.
"""
