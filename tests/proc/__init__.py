"""PROC: the real process against the real exchange, killed, interrupted and starved.

The bot is `perps-bot --profile prod` as its owner starts it.  The exchange is a process of its own
that survives every death of the bot and writes down every byte.  Nothing in the bot is replaced:
what strikes is a signal, a limit of the kernel, or the exchange.  What must hold is judged from the
exchange's books, the wire and the bot's files, by code that shares nothing with the bot.
"""
