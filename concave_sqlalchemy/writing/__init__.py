"""What a resource writes: verbs on one row, and the transaction around a request's.

::

    Writing ─→ perform (BEGIN … COMMIT, relay) ─→ Verbs (hooks around one row) ─→ Rows (SQL of one row)
"""
