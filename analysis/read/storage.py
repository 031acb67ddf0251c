"""Databases that hold the trials of sweeps; an error in opening one is told in one line."""

import random
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, SQLAlchemyError

from data.errors import TO_MAKE_ROOM, UserError

NUM_TRIES_TO_OPEN = 10
HIDDEN = "***"  # in place of a password
CONNECT_ARGUMENTS: Mapping[str, dict[str, Any]] = {
    "sqlite": {"timeout": 60},
    "postgresql": {  # of a connection that is gone without a word, the system would wait 15 minutes for an answer
        "connect_timeout": 10,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 20_000,  # ms
    },
    "mysql": {"connect_timeout": 10},
}


def open_storage(url: str, *tables: sqlalchemy.Table) -> RDBStorage:
    """Open Optuna's storage in a database.

    Args:
        url: address of the database, in SQLAlchemy's form.
        tables: further tables, which are made if they are not there.

    Raises:
        UserError: there is no such kind of database, its driver is not installed, or it cannot be reached.
    """
    shown, address = masked(url), address_of(url)
    path = Path(address.database or ":memory:")
    if address.get_backend_name() == "sqlite" and path.exists() and not path.is_file():
        raise unusable(url, "it is no file")  # SQLite would write beside a device
    try:
        return make_tables(url, tables)
    except ImportError:
        raise UserError(
            f"--storage={shown}: its driver is not installed; for postgresql+psycopg: pip install 'psycopg[binary]'"
        ) from None
    except NoSuchModuleError:
        raise UserError(f"--storage={shown}: there is no such kind of database; postgresql+psycopg is one") from None
    except (SQLAlchemyError, StorageInternalError, RuntimeError) as error:
        raise unusable(url, reason_of(error)) from None


def unusable(url: str, reason: str) -> UserError:
    """Return the error for a database that cannot be used; one of a sweep's own folder is called by its file."""
    address = address_of(url)
    if address.get_backend_name() == "sqlite":
        path = str(address.database).removeprefix("file://")
        if "disk is full" in reason:
            return UserError(f"{path} cannot be written ({reason}): {TO_MAKE_ROOM}")
        return UserError(f"{path} cannot be reached ({reason}): restore it, or move it away and start the sweep anew")
    return UserError(f"--storage={masked(url)} cannot be reached: {reason}")


def address_of(url: str) -> sqlalchemy.URL:
    """Return the parts of a database's address.

    Raises:
        UserError: it is not an address; the message does not repeat it, since it may hold a password.
    """
    try:
        return sqlalchemy.make_url(url)
    except (ArgumentError, ValueError):
        raise UserError("--storage is no address: write postgresql+psycopg://USER@HOST:PORT/DATABASE") from None


def url_of_file(path: Path, **query: str) -> str:
    """Return the address of a SQLite database by its file, whose name may have any letters.

    Raises:
        UserError: it is no text.
    """
    database = path.absolute().as_uri() if query else str(path)
    try:
        return sqlalchemy.URL.create("sqlite", database=database, query=query).render_as_string()
    except UnicodeEncodeError:
        raise UserError(f"{path} has a name that is no UTF-8, where no database can be kept: rename it") from None


def masked(url: str) -> str:
    """Return a database's address with *** in place of its password, whether that is before the host or after a `?`.

    Raises:
        UserError: as `address_of`.
    """
    address = address_of(url)
    query = {key: HIDDEN if "passw" in key.lower() else value for key, value in address.query.items()}
    return address.set(query=query).render_as_string(hide_password=True).replace(quote_plus(HIDDEN), HIDDEN)


def this_command(program: str) -> str:
    """Return the command line of this process, a program in sweeps/, with its addresses without their passwords."""
    words = ["python", f"sweeps/{program}"]
    for word in sys.argv[1:]:
        option, sign, value = word.partition("=") if word.startswith("--") else ("", "", word)
        words.append(f"{option}{sign}{masked(value)}" if "://" in value else word)
    return shlex.join(words)


def make_tables(url: str, tables: tuple[sqlalchemy.Table, ...]) -> RDBStorage:
    """Connect to a database, and make the tables that are missing; several processes may do so at once."""
    options = {"connect_args": CONNECT_ARGUMENTS.get(address_of(url).get_backend_name(), {}), "pool_pre_ping": True}
    template = url.replace("{", "{{").replace("}", "}}")  # in which Optuna would fill in things
    for attempt in range(1, NUM_TRIES_TO_OPEN + 1):
        try:
            storage = RDBStorage(template, options)
            for table in tables:
                table.create(storage.engine, checkfirst=True)
        except (SQLAlchemyError, StorageInternalError) as error:
            another_makes_them = "already exists" in reason_of(error) or isinstance(error, IntegrityError)
            if not another_makes_them or attempt == NUM_TRIES_TO_OPEN:
                raise
            time.sleep(random.random() / 2)
        else:
            return storage
    raise AssertionError("the last attempt returns or raises")


def reason_of(error: Exception) -> str:
    """Return in one line why a database refused."""
    cause = error.__cause__ or error  # Optuna's own exceptions do not say why
    return str(getattr(cause, "orig", None) or cause).partition("\n")[0]
