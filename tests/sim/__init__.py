"""SIM: the real bot in one thread, over the exchange's core, in virtual time.  One seed, one run.

Replaced are five seams and nothing else: time, the line to the venue, the disk, ids and dice, and
signals; and, as it is faster, one habit of the bot under nine of ten seeds: how strictly an
answer is read that no fault has spoiled.
The loop, execution, risk, store, client and REST are the bot's own.  What must hold is held by
`checks`, which imports nothing from perps_bot.

`run.find(seeds, faults)` returns the first violation, or None: for tests that plant bugs.
`release.PARTS` are the parts of the full run, of this rig and of the others.
"""
