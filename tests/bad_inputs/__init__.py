"""A generator of bad inputs: `python -m tests.bad_inputs --limit 500 --seed 1`.

It gives every program odd values of every option and of every environment variable, and damages every file that a
program reads. Whatever it is given, a program works, or ends with exit code 2 and one line that says what is wrong. It
never ends in a traceback, hangs, takes vast memory, changes or deletes an input, writes anywhere but where it was told
to, or sends a terminal a character that it would obey.

    values.py      odd values, by kind
    damage.py      what is done to files of any kind; tables.py: to those whose content has fields
    world.py       runs, sweeps and images that a program works with while they are whole
    programs.py    the programs: commands that work, what they read, where they write
    cases.py       all inputs, made of these
    attempt.py     one input, tried in a process of its own, and judged
"""
