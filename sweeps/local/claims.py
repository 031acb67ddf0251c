"""Which agent holds which trial: a table beside Optuna's, which agents change by compare-and-set."""

import time
from dataclasses import dataclass

from sqlalchemy import Column, Engine, Integer, MetaData, Row, String, Table, select
from sqlalchemy.exc import IntegrityError

from sweeps.local.owners import is_alive_here, owner_name

SECONDS_TO_BE_MISSED = 60.0  # an agent on another machine is dead if its beat has not changed for so long
NOBODY = ""
CLAIMS = Table(
    "vision_sweeps_claims",
    MetaData(),
    Column("trial_id", Integer, primary_key=True, autoincrement=False),
    Column("owner", String(200), nullable=False),
    Column("beat", Integer, nullable=False),
)


class TrialLost(RuntimeError):
    """The trial is held by another agent, which has taken it over."""


@dataclass
class Beat:
    """The last beat seen of an agent on another machine, and when it was seen, by this machine's clock."""

    number: int
    seen: float


class Claims:
    """The claims on trials, as one agent reads and changes them.

    Args:
        engine: of the database, which has the table CLAIMS.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.owner = owner_name()
        self.beats: dict[int, Beat] = {}  # of agents on other machines, by trial id

    def all(self) -> dict[int, Row]:
        """Return the claims of all agents, by the ids of the trials."""
        with self.engine.begin() as connection:
            return {row.trial_id: row for row in connection.execute(select(CLAIMS))}

    def of(self, trial: int) -> Row | None:
        """Return the claim on a trial, by its id; None if it never had one."""
        with self.engine.begin() as connection:
            return connection.execute(select(CLAIMS).where(CLAIMS.c.trial_id == trial)).one_or_none()

    def take(self, trial: int, seen: Row | None) -> bool:
        """Claim a trial if its claim is still as it was `seen`; of several agents that try, one succeeds.

        Args:
            trial: its id.
            seen: its row in the table; None if it had none.
        """
        try:
            with self.engine.begin() as connection:
                if seen is None:
                    connection.execute(CLAIMS.insert().values(trial_id=trial, owner=self.owner, beat=0))
                    return True
                same = (CLAIMS.c.trial_id == trial, CLAIMS.c.owner == seen.owner, CLAIMS.c.beat == seen.beat)
                taken = connection.execute(CLAIMS.update().where(*same).values(owner=self.owner, beat=seen.beat + 1))
                return taken.rowcount == 1
        except IntegrityError:
            return False

    def is_idle(self, claim: Row | None) -> bool:
        """Return whether nobody holds a trial: it was never claimed, it was released, or its agent has died."""
        return claim is None or claim.owner == NOBODY or self.is_dead(claim)

    def is_dead(self, claim: Row) -> bool:
        """Return whether the agent that holds a claim has ended without releasing it."""
        alive = is_alive_here(claim.owner)
        if alive is not None:
            return not alive
        beat = self.beats.get(claim.trial_id)
        if beat is None or beat.number != claim.beat:
            self.beats[claim.trial_id] = Beat(claim.beat, time.monotonic())
            return False
        return time.monotonic() - beat.seen > SECONDS_TO_BE_MISSED

    def beat(self) -> set[int]:
        """Show agents on other machines that this one lives; return the ids of the trials that it still holds."""
        own = CLAIMS.c.owner == self.owner
        with self.engine.begin() as connection:
            connection.execute(CLAIMS.update().where(own).values(beat=CLAIMS.c.beat + 1))
            return set(connection.execute(select(CLAIMS.c.trial_id).where(own)).scalars())

    def owned(self) -> set[int]:
        """Return the ids of the trials that an agent holds, or held when it died."""
        with self.engine.begin() as connection:
            return set(connection.execute(select(CLAIMS.c.trial_id).where(CLAIMS.c.owner != NOBODY)).scalars())

    def hold(self, trial: int) -> None:
        """Make sure that this agent still holds a trial, by its id, and goes on to hold it while something is stored.

        Raises:
            TrialLost: it does not: this agent was out of touch for too long.
        """
        own = (CLAIMS.c.trial_id == trial, CLAIMS.c.owner == self.owner)
        with self.engine.begin() as connection:
            if connection.execute(CLAIMS.update().where(*own).values(beat=CLAIMS.c.beat + 1)).rowcount == 0:
                raise TrialLost(trial)

    def release(self, trial: int) -> None:
        """Give up the claim on a trial, by its id, so that any agent may take it."""
        own = (CLAIMS.c.trial_id == trial, CLAIMS.c.owner == self.owner)
        with self.engine.begin() as connection:
            connection.execute(CLAIMS.update().where(*own).values(owner=NOBODY))

    def clear(self, trials: list[int], others: list[int]) -> None:
        """Let any agent take trials, whoever holds them, and remove the claims on others, as if there had been none."""
        with self.engine.begin() as connection:
            connection.execute(CLAIMS.update().where(CLAIMS.c.trial_id.in_(trials)).values(owner=NOBODY))
            connection.execute(CLAIMS.delete().where(CLAIMS.c.trial_id.in_(others)))
