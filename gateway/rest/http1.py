"""HTTP/1.1 as uvicorn speaks it, but for two things.

A request to upgrade (`Upgrade: h2c`, which Java's HttpClient and `curl --http2` send with each
request in plain text) is answered as if it had not asked, which RFC 9110, section 7.8, lets a
server do; uvicorn's parser would stop at its head and lose the body. And what is no HTTP gets the
error envelope, as every other error.
"""

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.rest.problems import problem


class Http1(HttpToolsProtocol):
    """One connection."""

    def data_received(self, data: bytes) -> None:
        """Bytes came: parts of requests, or several."""
        while data:
            data = self._fed(data)

    def on_headers_complete(self) -> None:
        """The head of a request is there; one that asks for an upgrade will be parsed again."""
        if not self.parser.should_upgrade():
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """A request is there, or the head of one that asks for an upgrade."""
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Says that this is no HTTP, and hangs up."""
        body = bytes(problem(400, "the request is not valid HTTP/1.1", "invalid_request").body)
        head = (
            "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _fed(self, data: bytes) -> bytes:
        """Gives bytes to the parser; returns those that are to be given to it next."""
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.logger.warning("Invalid HTTP request received.")
            self.send_400_response("")
        except httptools.HttpParserUpgrade as stopped:
            method = self.parser.get_method()
            if method != b"CONNECT":  # which no proxy is here to answer
                head = self._head(method)
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
                return head + data[stopped.args[0] :]
            self.send_400_response("")
        return b""

    def _head(self, method: bytes) -> bytes:
        """The head of the request that was parsed, without its wish for an upgrade."""
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (method, self.url, version)]
        lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])
