"""CRASH: every moment at which the bot may die, and every disk that it may then wake up to.

    scenes   which twelve stretches of a bot's life are looked at?
    disk     what may a power cut leave of the files?
    points   die there, wake up, converge: does everything hold that must?
    errors   the N-th disk call fails, once or for good: what goes on, and what stops?
    judge    what must hold, beside what the checks of the simulation hold
    command  run many, and one again
"""
