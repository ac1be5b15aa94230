"""Models behind an API, through Inspect AI's model layer (``pip install 'vestige[api]'``).

- ``settings``: names, limits and prices; no library is loaded;
- ``ledger``: every attempt and every answer, appended and flushed as it happens;
- ``model``: requests -> replies, several at once.
"""
