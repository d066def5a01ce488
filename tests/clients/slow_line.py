"""A slow line to the server: what it says passes in small pieces, and the line can be cut.

The small model answers within milliseconds; what a page does meanwhile can only be seen if its words come slowly.
"""

import socket
import threading
import time


class SlowLine:
    """Listens on a port of its own and passes everything on to the server at `port`."""

    def __init__(self, port):
        self.port = port
        # Seconds after each piece of what the server says.
        self.pause = 0.0
        self.lines = set()
        self.is_cut = False
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            if self.is_cut:
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", self.port))
            self.lines |= {client, server}
            for source, sink, pauses in [(client, server, False), (server, client, True)]:
                threading.Thread(target=self.carry, args=(source, sink, pauses), daemon=True).start()

    def carry(self, source, sink, pauses):
        try:
            while data := source.recv(400 if pauses else 65536):
                sink.sendall(data)
                if pauses and self.pause:
                    time.sleep(self.pause)
        except OSError:
            pass
        for end in (source, sink):
            self.lines.discard(end)
            end.close()

    def cut(self):
        """Ends all connections, and takes no new ones until `mend`."""
        self.is_cut = True
        for line in list(self.lines):
            try:
                line.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def mend(self):
        self.is_cut = False
