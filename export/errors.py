"""Why an export did not happen."""

from service.errors import KaryonError


class ExportRefusedError(KaryonError):
    """The model, or the file made of it, is not fit to be served; nothing was written."""
