"""The gradients of all examples from one forward and one backward pass, without ever holding B x P.

The files, in the order in which they build on one another:

- ``functorch``: the private parts of torch, all of them;
- ``stack``: the gradients of one leaf for all examples, and what can be summed of them;
- ``linear``, ``einsum``, ``convolution``, ``embedding``, ``normalization``: one kind of use each, its
  stack and the rules (``uses``) by which a call of torch is one; ``attention``: calls that hide others;
- ``combining``: leaves that are used more than once, or through a view or another function of them;
- ``held``: the parameters as the loss holds them; ``watching``: the forward pass, in which uses are noted;
- ``one_pass``: the pass as a whole. ``example_gradients``, beside this folder, is what others build on.

A new kind of use takes a rule that returns a ``Use`` with its ``Stack``, and its line in the table of
``tests/test_gradients_onepass.py``.
"""
