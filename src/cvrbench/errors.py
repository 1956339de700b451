"""Every error a user can cause or mend; the command line prints the sentence, not a traceback."""


class CvrbenchError(Exception):
    """A sentence for the user: what is wrong, where, what was expected, how to mend it."""


class ConfigError(CvrbenchError):
    """A key, group or value of the configuration is wrong; the command exits with 2."""


class DataError(CvrbenchError):
    """Raw or prepared data are missing, damaged, or contradict what their split promises."""


class RunError(CvrbenchError):
    """A run cannot start or go on: the device is absent, the loss is not finite, and the like."""


class StoreError(CvrbenchError):
    """A results folder cannot be read or written."""


class CellBusy(StoreError):
    """Another process, here or on a machine that shares the folder, is running this cell."""


class RunInterrupted(CvrbenchError):
    """The user stopped a run; its folder holds what is needed to go on."""
