#!/usr/bin/env python3
"""Verifies one piece of ukeyd evidence from the token's public key alone.

    verify_evidence.py KEY EVIDENCE [BODY]

KEY       the token's public key or certificate (PEM or DER); the certificate where another key went on with the ledger.
EVIDENCE  a file with the evidence: raw bytes, base64, the text of a QR code, or an evidence file (JSON, with the document).
BODY      the document, exact bytes, when it is at hand.

Prints what the evidence says as one JSON object and ends with status 0 when everything holds;
prints the reason to standard error and ends with status 1 when it does not, 2 when it is called wrongly.

Written from SPEC.md alone and shares nothing with the service: Python's standard library, and the `openssl`
command for the one signature check. It decodes only what the format allows and refuses every other spelling.
"""

import base64
import hashlib
import json
import re
import subprocess
import sys
import tempfile

KINDS = {1: "invoice", 2: "credit-note", 3: "void", 4: "report", 5: "file", 6: "charter", 7: "template", 8: "acknowledgement", 9: "admin"}
FISCAL = ("invoice", "credit-note")
ALGORITHMS = {-7: "ES256", -37: "PS256", -257: "RS256"}
AMOUNT = re.compile(r"(?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,6})?\Z")
INSTANT_MAX_MS = 253402300799999
SAFE_MAX = 2**53 - 1


class Refused(Exception):
    """The evidence does not hold; the text says why."""


def need(condition, why):
    if not condition:
        raise Refused(why)


# --- CBOR, deterministic (RFC 8949 section 4.2.1): shortest heads, definite lengths, no tags, no floats ---


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        need(count <= len(self.data) - self.at, "CBOR is cut short")
        self.at += count
        return self.data[self.at - count : self.at]

    def argument(self, low):
        if low < 24:
            return low
        need(low <= 27, "CBOR has a length without an end")
        width = 1 << (low - 24)
        value = int.from_bytes(self.take(width), "big")
        need(value >= (24 if width == 1 else 1 << (4 * width)), "CBOR has a head longer than needed")
        need(value <= SAFE_MAX, "CBOR has a number beyond 2^53")
        return value

    def item(self, depth=0):
        need(depth <= 8, "CBOR is too deep")
        head = self.take(1)[0]
        major, low = head >> 5, head & 31
        if major == 7:
            need(head == 0xF6, "CBOR has a tag, a float or a simple value")
            return None
        need(major != 6, "CBOR has a tag, a float or a simple value")
        value = self.argument(low)
        if major == 0:
            return value
        if major == 1:
            return -1 - value
        if major == 2:
            return self.take(value)
        if major == 3:
            try:
                return self.take(value).decode("utf-8", "strict")
            except UnicodeDecodeError:
                raise Refused("CBOR has text that is not UTF-8") from None
        need(value <= len(self.data) - self.at, "CBOR is cut short")
        if major == 4:
            return [self.item(depth + 1) for _ in range(value)]
        pairs, before = {}, None
        for _ in range(value):
            start = self.at
            key = self.item(depth + 1)
            spelled = self.data[start : self.at]
            need(type(key) in (int, str) and (before is None or before < spelled), "CBOR has a map out of order")
            pairs[key], before = self.item(depth + 1), spelled
        return pairs


def decode(data):
    reader = Reader(data)
    value = reader.item()
    need(reader.at == len(data), "CBOR has bytes left over")
    return value


def fields(value, count, what):
    need(type(value) is list and len(value) == count, f"{what} has not {count} fields")
    return value


def is_count(value, least=0, most=SAFE_MAX):
    return type(value) is int and least <= value <= most


def is_bytes(value, length=None):
    return type(value) is bytes and (length is None or len(value) == length)


# --- The parts ---


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def read_leaf(data):
    need(len(data) <= 512, "leaf is too long")
    version, kind, sequence, number, issued, tax_id, currency, total, tax_total, body_hash = fields(decode(data), 10, "leaf")
    need(type(version) is int and version == 1 and type(kind) is int and kind in KINDS, "leaf has an unknown version or kind")
    need(is_count(sequence, 1) and is_count(issued, 0, INSTANT_MAX_MS), "leaf has no sequence or instant")
    need(type(tax_id) is str and is_bytes(body_hash, 32), "leaf has no issuer or body hash")
    fiscal = KINDS[kind] in FISCAL
    for text in (number, currency, total, tax_total):
        need(type(text) is str if fiscal else text is None, "leaf has a number or amounts that do not fit its kind")
    for amount in (total, tax_total):
        need(amount is None or AMOUNT.match(amount), "leaf has an amount that is not a decimal")
    return {
        "kind": KINDS[kind],
        "sequence": sequence,
        "number": number,
        "issuedAtMs": issued,
        "issuerTaxId": tax_id,
        "currency": currency,
        "total": total,
        "taxTotal": tax_total,
        "bodyHash": body_hash.hex(),
    }


def root_from_path(leaf_hash, index, count, path):
    """RFC 9162 section 2.1.3.2."""
    need(index < count, "index is beyond the count")
    node, last, root = index, count - 1, leaf_hash
    for sibling in path:
        need(last != 0, "path is too long")
        if node & 1 or node == last:
            root = sha256(b"\x01", sibling, root)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            root = sha256(b"\x01", root, sibling)
        node, last = node >> 1, last >> 1
    need(last == 0, "path is too short")
    return root


def head(major, length):
    """A CBOR head, for the structure that is signed."""
    if length < 24:
        return bytes([major << 5 | length])
    for low, width in ((24, 1), (25, 2), (26, 4)):
        if length < 1 << (8 * width):
            return bytes([major << 5 | low]) + length.to_bytes(width, "big")
    raise Refused("too long to be signed")


def byte_string(data):
    return head(2, len(data)) + data


def der_integer(data):
    data = data.lstrip(b"\0") or b"\0"
    data = b"\0" + data if data[0] & 0x80 else data
    return bytes([2, len(data)]) + data


def der_signature(raw):
    """ES256 in COSE is r || s; openssl wants SEQUENCE { r, s }."""
    inner = der_integer(raw[:32]) + der_integer(raw[32:])
    return bytes([0x30, len(inner)]) + inner


def openssl(arguments, data=None):
    return subprocess.run(["openssl", *arguments], input=data, capture_output=True, check=False)


def read_key(data):
    """SubjectPublicKeyInfo in DER, from a key or a certificate, PEM or DER."""
    for form in ("pem", "der"):
        certificate = openssl(["x509", "-inform", form, "-noout", "-pubkey"], data)
        if certificate.returncode == 0:
            data = certificate.stdout
            break
    for form in ("pem", "der"):
        key = openssl(["pkey", "-pubin", "-inform", form, "-outform", "der"], data)
        if key.returncode == 0 and key.stdout:
            return key.stdout
    raise SystemExit("the key file holds neither a public key nor a certificate")


def ledger_of(data):
    """The ledger that a certificate names in its subject; None for a bare key, or where it names none."""
    for form in ("pem", "der"):
        subject = openssl(["x509", "-inform", form, "-noout", "-subject", "-nameopt", "RFC2253"], data)
        if subject.returncode == 0:
            named = re.search(rb"CN=ukey token ([0-9a-f]{32})\s*\Z", subject.stdout)
            return bytes.fromhex(named.group(1).decode()) if named else None
    return None


def signature_holds(algorithm, spki, message, signature):
    options = []
    description = openssl(["pkey", "-pubin", "-inform", "der", "-noout", "-text"], spki).stdout.decode("ascii", "replace")
    bits = re.search(r"\((\d+) bit\)", description)
    if algorithm == "ES256":
        if len(signature) != 64 or "prime256v1" not in description:
            return False
        signature = der_signature(signature)
    elif "Modulus" not in description or bits is None or int(bits.group(1)) < 2048:
        return False
    elif algorithm == "PS256":
        options = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:32"]
    with tempfile.TemporaryDirectory() as folder:
        pem = openssl(["pkey", "-pubin", "-inform", "der"], spki).stdout
        for name, content in (("key", pem), ("signature", signature)):
            with open(f"{folder}/{name}", "wb") as file:
                file.write(content)
        result = openssl(["dgst", "-sha256", "-verify", f"{folder}/key", "-signature", f"{folder}/signature", *options], message)
    return result.returncode == 0


def read_seal(data, spki, ledger=None):
    need(data[:1] == b"\xd2", "seal is not a tagged COSE_Sign1")
    protected, unprotected, payload, signature = fields(decode(data[1:]), 4, "seal")
    need(unprotected == {} and type(unprotected) is dict, "seal has an unprotected header")
    need(is_bytes(protected) and is_bytes(payload) and is_bytes(signature) and 1 <= len(signature) <= 1024, "seal is out of form")
    header = decode(protected)
    need(type(header) is dict and list(header) == [1, 4], "seal has an unknown protected header")
    algorithm, key_id = ALGORITHMS.get(header[1]) if type(header[1]) is int else None, header[4]
    need(algorithm is not None, "seal is signed with an unknown algorithm")
    version, token_id, batch_index, first, count, root, previous, sealed = fields(decode(payload), 8, "seal")
    need(type(version) is int and version == 1, "seal has an unknown version")
    need(is_bytes(token_id, 16) and is_bytes(root, 32) and is_bytes(previous, 32), "seal has fields out of form")
    need(is_count(batch_index, 1) and is_count(first, 1) and is_count(count, 1, 1024), "seal has counts out of range")
    need(first + count <= SAFE_MAX and is_count(sealed, 0, INSTANT_MAX_MS), "seal has counts out of range")
    expected = sha256(spki)[:16]
    need(key_id == expected and token_id == (ledger or expected), "seal is of another token")
    to_be_signed = head(4, 4) + head(3, 10) + b"Signature1" + byte_string(protected) + byte_string(b"") + byte_string(payload)
    need(signature_holds(algorithm, spki, to_be_signed, signature), "seal has a signature that does not hold")
    return {
        "tokenId": token_id.hex(),
        "batchIndex": batch_index,
        "firstSequence": first,
        "count": count,
        "root": root,
        "previousSealHash": previous.hex(),
        "sealedAtMs": sealed,
        "algorithm": algorithm,
    }


def verify(evidence, spki, body=None, ledger=None):
    """The leaf and the seal, as dicts. `ledger`: id of the ledger's first key, where another one went on with it. Raises Refused."""
    need(len(evidence) <= 4096, "evidence is too long")
    leaf_bytes, index, count, path, seal_bytes = fields(decode(evidence), 5, "evidence")
    need(is_bytes(leaf_bytes) and is_bytes(seal_bytes) and is_count(index) and is_count(count), "evidence is out of form")
    need(type(path) is list and len(path) <= 20 and all(is_bytes(step, 32) for step in path), "evidence has a path out of form")
    seal = read_seal(seal_bytes, spki, ledger)
    leaf = read_leaf(leaf_bytes)
    need(count == seal["count"] and leaf["sequence"] == seal["firstSequence"] + index, "evidence does not fit its seal")
    root = root_from_path(sha256(b"\x00", leaf_bytes), index, count, path)
    need(root == seal["root"], "path does not lead to the sealed root")
    need(body is None or sha256(body).hex() == leaf["bodyHash"], "evidence is of another document")
    return leaf, {**seal, "root": seal["root"].hex()}


def once(pairs):
    need(len({name for name, _ in pairs}) == len(pairs), "evidence file has a member twice")
    return dict(pairs)


def open_evidence_file(data):
    """Evidence and document of the JSON form. The certificates inside are not looked at: KEY is what is trusted."""
    try:
        file = json.loads(data.decode("utf-8"), object_pairs_hook=once)
        need(type(file) is dict and file.get("format") == "ukey-evidence/1", "evidence file has another format")
        return base64.b64decode(file["evidence"], validate=True), file["document"].encode("utf-8")
    except (ValueError, KeyError, AttributeError, TypeError):
        raise Refused("evidence file is out of form") from None


def evidence_bytes(data):
    """Raw evidence, or a text that holds it: a QR code's (base32 behind `UKEY1:` or `#`) or base64."""
    if data[:1] == b"\x85":
        return data
    try:
        text = data.decode("ascii").strip()
        for mark in ("UKEY1:", "#"):
            if text.startswith(mark) or (mark == "#" and mark in text):
                encoded = text.split(mark, 1)[1]
                raw = base64.b32decode(encoded + "=" * (-len(encoded) % 8))
                need(base64.b32encode(raw).decode().rstrip("=") == encoded, "base32 in another spelling")
                return raw
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise Refused("neither evidence nor a text that holds it") from None


def read_file(name):
    with open(name, "rb") as file:
        return file.read()


def main(arguments):
    if len(arguments) not in (2, 3) or arguments[0].startswith("-"):
        print(__doc__.strip(), file=sys.stderr)
        return 2
    try:
        files = [read_file(name) for name in arguments]
    except OSError as error:
        print(error, file=sys.stderr)
        return 2
    spki = read_key(files[0])
    try:
        body = files[2] if len(files) == 3 else None
        if files[1].lstrip()[:1] == b"{":
            evidence, document = open_evidence_file(files[1])
            need(body is None or body == document, "evidence file holds another document")
            body = document
        else:
            evidence = evidence_bytes(files[1])
        leaf, seal = verify(evidence, spki, body, ledger_of(files[0]))
    except Refused as refused:
        print(f"does not hold: {refused}", file=sys.stderr)
        return 1
    print(json.dumps({"holds": True, "leaf": leaf, "seal": seal}, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
