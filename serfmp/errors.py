"""The one tree of errors of the project.

Three branches, by who did wrong:

* `RemoteError`: a peer or a client broke a protocol. It is counted and the input is dropped; it never stops a process.
* `UserError`: the operator asked for something impossible. Its text says what was wrong, with which value, and what to
  do; the command line prints it without a traceback.
* `InternalError`: one of our own rules was broken. It ends the process that found it, and the supervisor restarts it.
"""


class SerfmpError(Exception):
    """Base of every error that the project raises on purpose."""


class RemoteError(SerfmpError):
    """A peer or a client broke the protocol."""


class UserError(SerfmpError):
    """The operator, or a caller of the library, gave an input that cannot be used."""


class InternalError(SerfmpError):
    """The project broke one of its own rules."""
