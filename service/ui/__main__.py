"""`python -m service.ui`: start the app on this machine, for the service at KARYON_URL."""

import sys
from pathlib import Path

from streamlit.web import cli

ARGUMENTS = (
    "--browser.gatherUsageStats=false",
    "--server.fileWatcherType=none",
    "--server.maxUploadSize=64",  # MiB, as the service's KARYON_MAX_BODY_BYTES by default
    "--client.toolbarMode=minimal",
    "--client.showSidebarNavigation=false",
    "--theme.base=light",
    "--theme.primaryColor=#1d4ed8",
    "--theme.textColor=#111827",
)
"""What the app needs of Streamlit; arguments of the command line follow and win."""


def main() -> None:
    """Run Streamlit on the app's script, with further arguments handed to it."""
    script = str(Path(__file__).with_name("app.py"))
    address = ["--server.address=127.0.0.1", "--server.headless=true"]
    sys.argv = ["streamlit", "run", script, *ARGUMENTS, *address, *sys.argv[1:]]
    cli.main()


if __name__ == "__main__":
    main()
