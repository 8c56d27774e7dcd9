"""What in a flow would not survive a restart, found by reading it when it is registered.

    source      functions' syntax trees, and whose code they are
    names       what an expression stands for, whatever it is called here
    hazards     the table: what doesn't give a replay what it gave the first time
    scopes      cancel scopes behind any wrapper
    fields      what fills the fields of data classes
    state       what functions change that outlives them
    calls       follows what a function calls
    reader      goes through a flow, and says it

It warns, and never refuses: what it can't know it is silent about, for a false alarm costs more
than a mistake that a replay finds as well. Nothing of the author's is run.
"""

from dispatch.survival.reader import warnings_of

__all__ = ["warnings_of"]
