"""A throw-away PgBouncer in transaction mode, the pooler that LISTEN does not survive."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from .process import ServerProcess
from .programs import pgbouncer

CONFIGURATION = """
[databases]
* = host={host} port={port} user={user} password={password}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen_port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 20
max_client_conn = 200
ignore_startup_parameters = extra_float_digits,options
"""


class PgBouncer(ServerProcess):
    """A pool in front of the server of ``server_url``; every client becomes its user."""

    refuses_root = True

    def __init__(self, server_url: str) -> None:
        super().__init__()
        self.server = urlsplit(server_url)

    def url(self, database: str = "postgres") -> str:
        """Give the ``postgresql://`` URL of a database as it is seen through the pool."""
        return f"postgresql://{self.server.username}@127.0.0.1:{self.port}/{database}"

    def command(self) -> list[str | Path]:
        """See ServerProcess.command()."""
        configuration = self.folder / "pgbouncer.ini"
        configuration.write_text(
            CONFIGURATION.format(
                host=self.server.hostname,
                port=self.server.port,
                user=unquote(self.server.username or ""),
                password=unquote(self.server.password or "unused"),
                listen_port=self.port,
            )
        )
        return [pgbouncer(), configuration]
