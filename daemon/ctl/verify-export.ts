// Owns: `ukeyctl verify --server-export FILE`: a whole ledger as the ticket server has it. Two forms:
// JSON Lines: first {"tokenId", "certificate"} and, where known, "authorityCertificate" (base64 of DER); then, in order,
//   {"batchIndex", "bytes"} (base64 of batch.ts bytes).
// Pages of GET /v1/tokens/<id>/batches one after another (a CBOR sequence, RFC 8742, of uploads as in upstream.ts); the token's
//   certificate is named with --certificate (GET /v1/tokens/<id>/certificate).
// Invariants: read a piece at a time, so that the file may be larger than memory.
import { statSync } from 'node:fs';
import { checkToken, doubt, readCertificate, readTrust, type Trust } from '#ctl/certificates.ts';
import type { Given } from '#ctl/command.ts';
import { usage } from '#ctl/exit-codes.ts';
import { type InputPieces, openPieces, stdinName } from '#ctl/input.ts';
import { LedgerCheck } from '#ctl/ledger-check.ts';
import { chainBroken, ledgerText } from '#ctl/ledger-text.ts';
import { openProgress } from '#ctl/progress.ts';
import type { Screen } from '#ctl/screen.ts';
import { batchMaxBytes } from '#ipc-schema/batch.ts';
import { malformed } from '#ipc-schema/cbor.ts';
import { keyIdOf } from '#ipc-schema/cose.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import { decodeJson } from '#ipc-schema/json.ts';
import { base64Text, check, z } from '#ipc-schema/schema.ts';
import { decodeUpload, uploadMaxBytes } from '#ipc-schema/upstream.ts';

/** A batch as base64, and room for the rest. */
const lineMaxBytes = Math.ceil(batchMaxBytes / 3) * 4 + 16 * 1024;
const pageMaxBytes = uploadMaxBytes;

const originLine = z.strictObject({
  tokenId: z.string().regex(/^[0-9a-f]{32}$/),
  certificate: base64Text,
  authorityCertificate: base64Text.optional(),
});
const batchLine = z.strictObject({ batchIndex: z.int().min(1), bytes: base64Text });

export async function runVerifyExport(file: string, given: Given, screen: Screen): Promise<void> {
  const trust = await readTrust(given.text('authority'));
  const own = given.text('certificate');
  const certificate = own === undefined ? null : (await readCertificate(own, '--certificate')).raw;
  using progress = openProgress('Verifying', sizeOf(file));
  using pieces = openPieces(file, '--server-export');
  let ledger: LedgerCheck | null = null;
  try {
    const first = (await pieces.peek(1))[0];
    if (first === undefined) throw usage('the file is empty', { field: '--server-export' });
    const batches = first === 0x7b ? linesOf(pieces, trust) : pagesOf(pieces, trust, certificate);
    for await (const step of batches) {
      if (step instanceof LedgerCheck) ledger = step;
      else ledger?.add(step);
      progress.show(pieces.takenBytes);
    }
  } catch (thrown) {
    throw ledger === null ? doubt(thrown) : chainBroken(thrown, ledger);
  } finally {
    progress.end();
  }
  if (ledger === null) throw usage('the file holds no ledger', { field: '--server-export' });
  const report = ledger.result();
  screen.answer(report, ledgerText(report, [['From', 'a server export']]), report.holds ? 'done' : 'unverified');
}

/** First the check that is to take the batches, then the batches. */
type Steps = AsyncGenerator<LedgerCheck | Uint8Array>;

async function* linesOf(pieces: InputPieces, trust: Trust): Steps {
  let begun = false;
  for (let line = await pieces.line(lineMaxBytes); line !== null; line = await pieces.line(lineMaxBytes)) {
    if (line.length === 0) continue;
    const value = decodeJson(line, { maxBytes: lineMaxBytes, maxDepth: 2 });
    if (begun) {
      yield Buffer.from(check(batchLine, value).bytes, 'base64');
      continue;
    }
    const origin = check(originLine, value);
    const brought = origin.authorityCertificate === undefined ? null : Buffer.from(origin.authorityCertificate, 'base64');
    yield begin(Buffer.from(origin.certificate, 'base64'), brought, trust, origin.tokenId);
    begun = true;
  }
}

async function* pagesOf(pieces: InputPieces, trust: Trust, certificate: Uint8Array | null): Steps {
  if (certificate === null) {
    throw usage("pages hold no certificate: the token's is needed", {
      field: '--certificate',
      action: "Name the token's certificate with --certificate.",
    });
  }
  let tokenId: string | null = null;
  for (let bytes = await pageBytes(pieces); bytes > 0; bytes = await pageBytes(pieces)) {
    const upload = decodeUpload(await pieces.take(bytes));
    const named = Buffer.from(upload.tokenId).toString('hex');
    if (tokenId === null) yield begin(certificate, null, trust, named);
    else if (named !== tokenId) throw malformed('page', 'is of another token than the page before it');
    tokenId = named;
    yield* upload.batches;
  }
}

/** Length of the page that comes next, by the heads of its items; 0 at the end. What the bytes are is decodeUpload's to judge. */
async function pageBytes(pieces: InputPieces): Promise<number> {
  // [1, tokenId (16 bytes), [: three heads of one byte, the id, and a head of up to three.
  const fixedBytes = 3 + 16;
  const start = await pieces.peek(fixedBytes + 5);
  if (start.length === 0) return 0;
  const list = headAt(start, fixedBytes);
  let at = fixedBytes + list.headBytes;
  for (let left = list.argument; left > 0; left--) {
    const bytes = await pieces.peek(at + 5);
    const item = headAt(bytes, at);
    at += item.headBytes + item.argument;
    if (at > pageMaxBytes) throw malformed('page', 'is too long');
  }
  return at;
}

/** Head of a CBOR item (RFC 8949 §3) with an argument of up to 32 bits. */
function headAt(bytes: Uint8Array, at: number): { readonly headBytes: number; readonly argument: number } {
  const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  const short = (view[at] ?? 0) & 0x1f;
  const argumentBytes = short < 24 ? 0 : 1 << (short - 24);
  if (argumentBytes > 4 || at + 1 + argumentBytes > view.length) throw malformed('page', 'is cut off, or no page');
  return { headBytes: 1 + argumentBytes, argument: argumentBytes === 0 ? short : view.readUIntBE(at + 1, argumentBytes) };
}

function begin(certificate: Uint8Array, brought: Uint8Array | null, trust: Trust, tokenId: string): LedgerCheck {
  const token = checkToken(certificate, brought, trust);
  if (token.tokenId !== tokenId)
    throw new UkeyError('invalid-request', 'the certificate is of another token than the export says', { field: 'tokenId' });
  if (Buffer.from(keyIdOf(token.tokenKey)).toString('hex') !== tokenId) {
    throw usage("the certificate is of a key that went on with the ledger: the first one's is needed", {
      field: '--certificate',
      action: 'Take the certificate from GET /v1/tokens/<id>/certificate, and name the authority: it proves the others.',
    });
  }
  return new LedgerCheck({ certificate, authorityCertificate: token.authority?.raw ?? null });
}

function sizeOf(file: string): number | null {
  if (file === stdinName) return null;
  // A name that cannot be looked at is refused a moment later, when it is read.
  return statSync(file, { throwIfNoEntry: false })?.size ?? null;
}
