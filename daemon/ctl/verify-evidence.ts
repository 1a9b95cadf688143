// Owns: `ukeyctl verify FILE`: one document's evidence, from an evidence file or a QR text, with public keys alone.
// Invariants: no service and no network; what was not checked (no document, no trusted authority) is said in the answer.
import type { X509Certificate } from 'node:crypto';
import { type CheckedToken, checkToken, fingerprintOf, holding, readCertificate, readTrust, validityWarning } from '#ctl/certificates.ts';
import type { Given } from '#ctl/command.ts';
import { readChecked } from '#ctl/document-check.ts';
import { usage } from '#ctl/exit-codes.ts';
import { readInput } from '#ctl/input.ts';
import { facts, type Screen } from '#ctl/screen.ts';
import type { Seal } from '#ipc-schema/batch.ts';
import type { Leaf } from '#ipc-schema/entry.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import { decodeEvidence, evidenceFromQr } from '#ipc-schema/evidence.ts';
import { decodeEvidenceFile, evidenceFileMaxBytes } from '#ipc-schema/evidence-file.ts';
import { verifyEvidence } from '#ipc-schema/verify.ts';

/** Where what is verified came from; a QR code holds neither document nor certificates. */
interface Exhibit {
  readonly evidence: Uint8Array;
  readonly body: Uint8Array | null;
  readonly certificate: Uint8Array;
  readonly authorityCertificate: Uint8Array | null;
}

const unsure = 'compare the fingerprint with the published one, or name the authority with --authority';

export async function runVerifyEvidence(source: string, given: Given, screen: Screen): Promise<void> {
  const trust = await readTrust(given.text('authority'));
  const own = given.text('certificate');
  const exhibit = await readExhibit(source, own === undefined ? null : await readCertificate(own, '--certificate'));
  await holding(() => {
    const token = checkToken(exhibit.certificate, exhibit.authorityCertificate, trust);
    const { leaf, seal } = verifyEvidence(
      decodeEvidence(exhibit.evidence),
      token.tokenKey,
      exhibit.body ?? undefined,
      Buffer.from(token.tokenId, 'hex'),
    );
    if (exhibit.body !== null) checkDocument(leaf, exhibit.body, token.tokenId);
    answer(screen, token, leaf, seal, exhibit.body !== null);
  });
}

async function readExhibit(source: string, certificate: X509Certificate | null): Promise<Exhibit> {
  const text = isQrText(source) ? source : await readInput(source, '<file>', evidenceFileMaxBytes);
  if (typeof text !== 'string' && text.toString('latin1').trimStart().startsWith('{')) {
    const file = await holding(() => decodeEvidenceFile(text));
    return {
      evidence: Buffer.from(file.evidence, 'base64'),
      body: Buffer.from(file.document, 'utf8'),
      certificate: certificate?.raw ?? Buffer.from(file.certificate, 'base64'),
      authorityCertificate: Buffer.from(file.authorityCertificate, 'base64'),
    };
  }
  const qr = text.toString('utf8').trim();
  if (!isQrText(qr)) throw usage('that is neither an evidence file nor the text of a QR code', { field: '<file>' });
  if (certificate === null) {
    throw usage("a QR code holds no certificate: the token's is needed", {
      field: '--certificate',
      action: "Name the token's certificate with --certificate.",
    });
  }
  return {
    evidence: await holding(() => evidenceFromQr(qr)),
    body: null,
    certificate: certificate.raw,
    authorityCertificate: null,
  };
}

function isQrText(text: string): boolean {
  return text.startsWith('UKEY1:') || /^https?:\/\/[^#]*#/.test(text);
}

function checkDocument(leaf: Leaf, body: Uint8Array, tokenId: string): void {
  const reading = readChecked(leaf, body, tokenId);
  const fault = reading.kind === 'unreadable' ? reading.why : reading.faults[0];
  if (fault !== undefined) throw new UkeyError('invalid-request', `the document disagrees with its leaf: ${fault}`);
}

function answer(screen: Screen, token: CheckedToken, leaf: Leaf, seal: Seal, hasDocument: boolean): void {
  const { authority, trusted, tokenId, certificate } = token;
  const warning = validityWarning(certificate, seal.sealedAtMs);
  const authorityText = authority === null ? 'not checked' : `${fingerprintOf(authority)}${trusted ? ', as trusted' : ''}`;
  const value = {
    holds: true,
    kind: leaf.kind,
    number: leaf.number,
    sequence: leaf.sequence,
    issuedAt: new Date(leaf.issuedAtMs).toISOString(),
    issuerTaxId: leaf.issuerTaxId,
    currency: leaf.currency,
    total: leaf.total,
    taxTotal: leaf.taxTotal,
    tokenId,
    batchIndex: seal.batchIndex,
    sealedAt: new Date(seal.sealedAtMs).toISOString(),
    document: hasDocument ? 'verified' : 'absent',
    authority: authority === null ? null : fingerprintOf(authority),
    trusted,
    warnings: [...(trusted ? [] : [`the authority is not proven: ${unsure}`]), ...(warning === null ? [] : [warning])],
  };
  const text = facts([
    ['Verdict', 'holds'],
    ['Kind', value.kind],
    ['Number', value.number],
    ['Sequence', String(value.sequence)],
    ['Issued', value.issuedAt],
    ['Issuer', value.issuerTaxId],
    ['Total', value.total === null ? null : `${value.total} ${value.currency ?? ''}`],
    ['Tax', value.taxTotal === null ? null : `${value.taxTotal} ${value.currency ?? ''}`],
    ['Token id', tokenId],
    ['Sealed', `${value.sealedAt}, batch ${value.batchIndex}`],
    ['Document', hasDocument ? 'is the one that was sealed' : 'not given: compare the paper with the figures above'],
    ['Authority', authorityText],
    ...value.warnings.map((one): [string, string] => ['Note', one]),
  ]);
  screen.answer(value, text);
}
