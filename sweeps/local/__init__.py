"""What sweeps/agent.py and sweeps/final.py are made of."""
