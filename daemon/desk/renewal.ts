// Owns: the errand token.renewCertificate: the certificate of the token's key is renewed now, because a person asks.
import type { Result } from '#ipc-schema/methods.ts';
import type { Custody } from '#ledger/custody.ts';
import type { CertificateRenewal } from '#upload/certificate-renewal.ts';

export async function renewCertificate(custody: Custody, renewal: CertificateRenewal): Promise<Result<'token.renewCertificate'>> {
  const { ledger, before, after } = await renewal.renew();
  return {
    standing: custody.standing().standing,
    tokenId: Buffer.from(ledger.mount.tokenId).toString('hex'),
    previousExpires: new Date(before.untilMs).toISOString(),
    expires: new Date(after.untilMs).toISOString(),
  };
}
