"""An exchange for tests: it speaks Coinbase's wire format and keeps its own books.

Nothing here imports the bot.  The exchange is the judge, so it shares no code with the judged.
"""
