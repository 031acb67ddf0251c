"""The parts of the agent that needs no server."""
