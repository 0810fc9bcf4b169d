"""The commands, a module for each kind; each opens the stack, calls one function of ``fanout``, shows the result."""
