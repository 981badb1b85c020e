"""A TCP proxy before a real server that holds answers back, for tests. Only the standard library."""

import socket
import threading

_CHUNK = 65536


class FaultProxy:
    """Passes connections on to `target` ("host:port"); a context manager; `address` is its own.

    From the moment a client has sent the bytes `hold_after` nothing comes back on that connection
    until release(): the server has got the call and does its work, its answer is on its way. Later
    connections are held in the same way.
    """

    def __init__(self, target, hold_after):
        host, port = target.rsplit(":", 1)
        self._target = (host, int(port))
        self._hold_after = hold_after
        self._released = threading.Event()
        self._sockets = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        # Set once an answer is held.
        self.holding = threading.Event()

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.release()
        for each in [self._listener, *self._sockets]:
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it is closed already
            each.close()

    def release(self):
        """Lets everything through that was held, and all that follows."""
        self._released.set()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
            except OSError:
                return  # the proxy ends, or the server did
            self._sockets += [client, server]
            hold = threading.Event()
            threading.Thread(target=self._forward, args=(client, server, hold), daemon=True).start()
            threading.Thread(target=self._back, args=(server, client, hold), daemon=True).start()

    def _forward(self, client, server, hold):
        seen = b""
        try:
            while data := client.recv(_CHUNK):
                seen = seen[-len(self._hold_after):] + data
                if self._hold_after in seen and not self._released.is_set():
                    # Before the server can answer.
                    hold.set()
                    self.holding.set()
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # an end has gone

    def _back(self, server, client, hold):
        try:
            while data := server.recv(_CHUNK):
                if hold.is_set():
                    self._released.wait()
                client.sendall(data)
            client.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # an end has gone
