// Owns: the keys of an exported ledger by their certificates: which one made a seal.
// Invariants: each certificate is the authority's and names the ledger, the first one's key by its id; a key whose turn is over seals nothing more.
import type { KeyObject } from 'node:crypto';
import { type CheckedToken, checkToken, type Trust } from '#ctl/certificates.ts';
import { decodeSeal } from '#ipc-schema/batch.ts';
import { malformed } from '#ipc-schema/cbor.ts';
import { keyIdOf } from '#ipc-schema/cose.ts';
import type { ExportOrigin } from '#ipc-schema/export.ts';

export class LedgerKeys {
  readonly tokenId: Uint8Array;
  /** Of the first key. */
  readonly certificate: Uint8Array;
  /** The newest key's. */
  readonly token: CheckedToken;
  readonly #keys: readonly KeyObject[];
  #turn = 0;

  /** Throws invalid-request when a certificate does not hold. */
  constructor({ tokenId, certificates, authorityCertificate }: ExportOrigin, trust: Trust) {
    const authority = Buffer.from(authorityCertificate, 'base64');
    const ders = certificates.map((text) => Buffer.from(text, 'base64'));
    const tokens = ders.map((der) => checkToken(der, authority, trust));
    const [[first, token], certificate] = [[tokens[0], tokens.at(-1)], ders[0]];
    if (first === undefined || token === undefined || certificate === undefined) throw malformed('export', 'has no certificate');
    const id = Buffer.from(keyIdOf(first.tokenKey));
    if (id.toString('hex') !== tokenId || tokens.some((one) => one.tokenId !== tokenId))
      throw malformed('export', 'is of another token than its certificates');
    this.tokenId = id;
    this.certificate = certificate;
    this.token = token;
    this.#keys = tokens.map(({ tokenKey }) => tokenKey);
  }

  /** The key that a seal names, from the last one on. Throws invalid-request. Verifies nothing. */
  next(sealBytes: Uint8Array): KeyObject {
    const { keyId } = decodeSeal(sealBytes).sign1;
    const found = this.#keys.findIndex((key, at) => at >= this.#turn && Buffer.compare(keyIdOf(key), keyId) === 0);
    const key = this.#keys[found];
    if (key === undefined) throw malformed('seal', 'is by none of the keys whose turn it may be');
    this.#turn = found;
    return key;
  }
}
