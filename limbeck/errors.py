"""What can go wrong, by name. Each message says what was found, what was wanted, where, and what to do."""

STOPPED = 75
"""Exit status of work that was asked to stop, saved and can go on: a scheduler may requeue it."""


class LimbeckError(Exception):
    """The parent of every error that a user can cause or mend."""


class RecipeError(LimbeckError):
    """A recipe, an option or a name that cannot be understood."""


class DataError(LimbeckError):
    """Text that cannot be read or used as it stands."""


class ModelError(LimbeckError):
    """A model or tokenizer that cannot be loaded, or does not fit."""


class CacheMismatch(LimbeckError):
    """A cache recorded for another teacher, tokenizer, text or setting."""


class Damaged(LimbeckError):
    """A file whose bytes are not the bytes that were committed."""


class NonFinite(LimbeckError):
    """A NaN or an infinity in a loss or a gradient; no weight was changed by it."""


class Interrupted(LimbeckError):
    """The work was asked to stop and did, at a place from which it continues."""
