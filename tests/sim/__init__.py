"""SIM: the real bot in one thread, over the exchange's core, in virtual time.  One seed, one run.

Replaced are five seams and nothing else: time, the line to the venue, the disk, ids and dice, and
signals.  The loop, execution, risk, store, client and REST are the bot's own.  What must hold is
held by `checks`, which imports nothing from perps_bot.
"""
