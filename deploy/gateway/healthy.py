"""Docker's health check of the gateway: succeeds if it is ready, with or without TLS.

Does not work with GATEWAY_TLS_CLIENT_CA: it presents no certificate.
"""

import os
import ssl
import urllib.request

TIMEOUT_S = 5

if __name__ == "__main__":
    port = os.environ.get("GATEWAY_HTTP_PORT", "8080")
    scheme = "https" if os.environ.get("GATEWAY_TLS_CERT") else "http"
    # The certificate names the service, but this connects to its own container.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    url = f"{scheme}://127.0.0.1:{port}/readyz"
    with urllib.request.urlopen(url, timeout=TIMEOUT_S, context=context):  # noqa: S310 (as above)
        pass
