"""
The rivals, one module each (the Node ones are in ../node), each as its users would write it well.

All of them get the same: bare ASGI on uvicorn with uvloop and httptools, moonwake's own
check of cookie and record, each cookie verified once and remembered, the driver moonwake
uses. Those that write batches get moonwake's own fold and statements too, so what differs
is only how an event comes to them and how it is ticked off.
"""
