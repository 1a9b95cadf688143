#!/usr/bin/env python3
"""Issues one invoice through ukeyd's local socket, with the standard library alone: till.py SOCKET TERMINAL SECRET_FILE [KEY]"""
import hashlib, hmac, json, os, socket, sys, uuid

if not 4 <= len(sys.argv) <= 5:
    sys.exit("usage: till.py SOCKET TERMINAL SECRET_FILE [KEY]")
path, terminal, secret_file = sys.argv[1:4]
key = sys.argv[4] if len(sys.argv) > 4 else str(uuid.uuid4())  # same key, same content: the same invoice, for ever
secret = bytes.fromhex(open(secret_file).read().strip())
line = socket.socket(socket.AF_UNIX)
line.connect(path)
answers = line.makefile("rb")

def call(number, method, **params):
    message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
    line.sendall(json.dumps({"type": "ukey", "data": message}).encode() + b"\f")
    frame = b"".join(iter(lambda: answers.read(1), b"\f"))  # simple, not fast: read up to the form feed
    data = json.loads(frame)["data"]
    return data["result"] if "result" in data else sys.exit(json.dumps(data["error"]))

def mac(side):
    return hmac.new(secret, f"ukeyd/1 {side}\n{challenge}\n{nonce}\n{terminal}".encode(), hashlib.sha256).hexdigest()

challenge, nonce = call(1, "hello", version=1, client="till.py/1")["challenge"], os.urandom(32).hex()
proof = call(2, "authenticate", terminal=terminal, nonce=nonce, mac=mac("client"))["mac"]
if not hmac.compare_digest(proof, mac("server")):
    sys.exit("whoever answers here does not know the secret: it is not the service")
lines = [{"description": "Tea, 250 g", "quantity": "2", "unitPrice": "3.75"}, {"description": "Milk", "quantity": "1", "unitPrice": "1.10"}]
print(json.dumps(call(3, "invoice.issue", key=key, template="retail", lines=lines, brief=True)))
