// Owns: what crosses the line when a key's certificate is renewed: POST /v1/renew, COSE_Sign1 by the key over CBOR [1, "renew", spki, tokenId, certificateHash];
// the answer is the new certificate (DER), which signers.ts judges. The ledger carries it in an admin entry (admin.ts).
// Invariants: a request names the certificate that it renews, so that repeating it, by whomever, gets the same certificate. Pure, and without the
// schemas: every holder loads it.
import { encodeCbor } from './cbor.ts';
import { hashBytes } from './merkle.ts';
import { beginRequest, provePossession } from './possession.ts';

export const renewalPath = '/v1/renew';

const tokenIdBytes = 16;

export interface RenewalRequest {
  readonly spki: Uint8Array;
  /** The ledger. */
  readonly tokenId: Uint8Array;
  /** SHA-256 of the certificate (DER) that is to be renewed. */
  readonly certificateHash: Uint8Array;
}

export function renewalPayload({ spki, tokenId, certificateHash }: RenewalRequest): Uint8Array {
  return encodeCbor([1, 'renew', spki, tokenId, certificateHash]);
}

/** Throws invalid-request unless the sender holds the private key of the public key inside. */
export function openRenewalRequest(bytes: Uint8Array): RenewalRequest {
  const { sign1, fields } = beginRequest(bytes, 'renew');
  const request = {
    spki: fields.bytes('spki'),
    tokenId: fields.bytes('tokenId', tokenIdBytes),
    certificateHash: fields.bytes('certificateHash', hashBytes),
  };
  fields.end();
  provePossession(sign1, request.spki, 'renew');
  return request;
}
