import { X509Certificate } from 'node:crypto';
import { beforeAll, describe, expect, it } from 'vitest';
import { encodeAdminEvent, renewedCertificateIn } from '#ipc-schema/admin.ts';
import { encodeCbor } from '#ipc-schema/cbor.ts';
import { sha256 } from '#ipc-schema/merkle.ts';
import { openRenewalRequest, type RenewalRequest, renewalPayload } from '#ipc-schema/renewal.ts';
import { certificateFor, checkRenewal } from '#ipc-schema/signers.ts';
import { BuiltToken } from '#test/support/batch-builder.ts';
import { BuiltLedger } from '#test/support/built-ledger.ts';
import { refusal } from '#test/support/refusal.ts';

const renewedAtMs = Date.parse('2039-11-01T00:00:00Z');
let ledger: BuiltLedger;
let renewed: Uint8Array;
beforeAll(async () => {
  ledger = await BuiltLedger.begin();
  renewed = await ledger.renewed(renewedAtMs);
});

describe('a request for a renewal', () => {
  const request = (token: BuiltToken, change: Partial<RenewalRequest> = {}): Uint8Array =>
    renewalPayload({ spki: token.spki, tokenId: token.tokenIdBytes, certificateHash: sha256(ledger.certificate), ...change });

  it.each(['ES256', 'PS256', 'RS256'] as const)('is read as it was made, with %s', (algorithm) => {
    const token = new BuiltToken(algorithm === 'PS256' ? 'RS256' : algorithm);
    const opened = openRenewalRequest(token.sign(request(token)));
    expect(Buffer.from(opened.spki)).toEqual(Buffer.from(token.spki));
    expect(Buffer.from(opened.tokenId)).toEqual(Buffer.from(token.tokenIdBytes));
    expect(Buffer.from(opened.certificateHash)).toEqual(Buffer.from(sha256(ledger.certificate)));
  });

  it('is refused when another key signed it, for something else, or in another form', () => {
    const { token } = ledger;
    const stranger = new BuiltToken();
    refusal(() => openRenewalRequest(stranger.sign(request(token))));
    refusal(() => openRenewalRequest(token.sign(request(stranger))));
    refusal(() => openRenewalRequest(token.enrolment('CODE')));
    refusal(() => openRenewalRequest(ledger.batches[0]?.sealBytes ?? new Uint8Array()));
    refusal(() => openRenewalRequest(token.sign(request(token, { tokenId: new Uint8Array(15) }))));
    refusal(() => openRenewalRequest(token.sign(request(token, { certificateHash: new Uint8Array(31) }))));
    refusal(() => openRenewalRequest(token.sign(encodeCbor([1, 'renew', token.spki, token.tokenIdBytes, sha256(renewed), 0]))));
    const signed = Buffer.from(token.sign(request(token)));
    for (let at = 0; at < signed.length; at += 1) {
      const changed = Buffer.from(signed);
      changed[at] = (changed[at] ?? 0) ^ 1;
      refusal(() => openRenewalRequest(changed));
    }
  });
});

describe('a renewed certificate', () => {
  const authorityKey = () => new X509Certificate(ledger.origin.authorityCertificate).publicKey;

  it('takes the place of the one before it, and not the other way round', () => {
    const { tokenIdBytes } = ledger.token;
    checkRenewal(renewed, ledger.certificate, tokenIdBytes, authorityKey());
    checkRenewal(renewed, ledger.certificate, tokenIdBytes, null);
    refusal(() => checkRenewal(ledger.certificate, renewed, tokenIdBytes, authorityKey()));
    refusal(() => checkRenewal(renewed, renewed, tokenIdBytes, authorityKey()));
    refusal(() => checkRenewal(renewed, ledger.certificate, new Uint8Array(16), authorityKey()));
    refusal(() => checkRenewal(renewed, ledger.certificate, tokenIdBytes, ledger.token.publicKey));
  });

  it('begins when the first one did, so that it covers every seal of its key', () => {
    const [first, second] = [new X509Certificate(ledger.certificate), new X509Certificate(renewed)];
    expect(second.validFrom).toBe(first.validFrom);
    expect(second.publicKey.equals(first.publicKey)).toBe(true);
    expect(second.serialNumber).not.toBe(first.serialNumber);
  });

  it('is the one that is found for a seal of its key', () => {
    const [batch] = ledger.batches;
    expect(certificateFor(batch?.sealBytes ?? new Uint8Array(), [ledger.certificate, renewed])).toBe(renewed);
  });

  it('stands in its entry, and in no other one', () => {
    const body = encodeAdminEvent({ event: 'certificate-renewed', certificate: Buffer.from(renewed).toString('base64') });
    expect(Buffer.from(renewedCertificateIn(body) ?? [])).toEqual(Buffer.from(renewed));
    expect(renewedCertificateIn(encodeAdminEvent({ event: 'handover' }))).toBeNull();
    expect(renewedCertificateIn(Buffer.from('{'))).toBeNull();
  });
});
