"""Connections that end: a server that sends too slowly is cut off, whatever it sends and whoever reads.

watchdog = Watchdog(chunk=65536, lowest_rate=1000, end=time.monotonic() + 3600)
with watchdog, watched_session(watchdog) as session:
    response = session.get(url, stream=True)  # ends, with an error or with what looks like the end of the body,
    ...                                       # when no 65536 bytes more were `gained` in 65.5 s
watchdog.expired                              # whether that was the reason
"""

import contextlib
import socket
import threading
import time


class Watchdog:
    """Cuts a transfer's connections when too little comes, from wherever the thread that reads is waiting for bytes.

    The time-outs of sockets bound the silence between two bytes only, and headers are read deep inside http.client. So
    a second thread waits, while `with watchdog:` lasts, and shuts the sockets down once time is up. The time that is
    left carries over from one request to the next, and is full again after each `chunk` bytes.

    chunk: bytes, over which the rate is averaged. lowest_rate: bytes a second. end: of all time, by time.monotonic().
    """

    def __init__(self, chunk, lowest_rate, end):
        self.chunk, self.full, self.end = chunk, chunk / lowest_rate, end
        self.left, self.came, self.expired = self.full, 0, False
        self.sockets, self.lock = [], threading.Lock()

    def __enter__(self):
        self.due = min(time.monotonic() + self.left, self.end)
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._wait, daemon=True)
        self.thread.start()

    def __exit__(self, *error):
        self.over.set()
        self.thread.join()
        self.left = self.due - time.monotonic()
        for copy in self.sockets:
            copy.close()
        self.sockets.clear()

    def _wait(self):
        while not self.over.wait(min(max(0.0, self.due - time.monotonic()), 3600)):
            if time.monotonic() >= self.due:
                with self.lock:
                    self.expired = True
                    for copy in self.sockets:
                        _shut_down(copy)
                return

    def watch(self, connected):
        """See to a socket, too. A copy of it: TLS replaces the object, and shutting down concerns the connection."""
        copy = connected.dup()
        with self.lock:
            self.sockets.append(copy)
            if self.expired:
                _shut_down(copy)

    def gained(self, count):
        """`count` more bytes of the file have come."""
        self.came += count
        if self.came >= self.chunk:
            self.came, self.due = 0, min(time.monotonic() + self.full, self.end)


def _shut_down(connected):
    with contextlib.suppress(OSError):  # closed by the other side
        connected.shutdown(socket.SHUT_RDWR)


def watched_session(watchdog):
    """A session of `requests` whose connections are watched, and which leaves redirects to us.

    (It would read the body of a redirect whole, however long, and stumble over a malformed address.)
    """
    import requests  # here, so that importing this module costs nothing

    def watched(pool_class):
        class Connection(pool_class.ConnectionCls):
            def _new_conn(self):
                connected = super()._new_conn()
                watchdog.watch(connected)
                return connected

        return type(pool_class.__name__, (pool_class,), {"ConnectionCls": Connection})

    def watch_pools(manager):
        manager.pool_classes_by_scheme = {
            scheme: watched(pool_class) for scheme, pool_class in manager.pool_classes_by_scheme.items()
        }

    class Adapter(requests.adapters.HTTPAdapter):
        def init_poolmanager(self, *args, **kwargs):
            super().init_poolmanager(*args, **kwargs)
            watch_pools(self.poolmanager)

        def proxy_manager_for(self, proxy, **kwargs):
            known = proxy in self.proxy_manager
            manager = super().proxy_manager_for(proxy, **kwargs)
            if not known:
                watch_pools(manager)
            return manager

    session = requests.Session()
    session.get_redirect_target = lambda response: None
    for scheme in ("http://", "https://"):
        session.mount(scheme, Adapter())
    return session
