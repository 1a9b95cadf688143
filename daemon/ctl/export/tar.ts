// Owns: the form `tar` of an export (POSIX.1-1988 ustar): which files a record becomes, their headers, and the way back.
// origin.json, certificates/*.pem; of each batch seals/<batch>.json, then of each document documents/<sequence>-<number>.json (the body, exact) and
// evidence/<sequence>.json (an evidence file), of any other entry others/<sequence>-<kind>.bin and evidence/<sequence>.cbor; last manifest.json.
// Invariants: one spelling: what is read is written again and compared, so that nothing stands in an archive that was not verified; names are relative,
// of a small alphabet, and shorter than the header's 100 bytes.
import type { Spelled, Spelling } from '#ctl/export/spelling.ts';
import type { InputPieces } from '#ctl/input.ts';
import { malformed } from '#ipc-schema/cbor.ts';
import { decodeLeaf, isFiscal } from '#ipc-schema/entry.ts';
import { decodeEvidence } from '#ipc-schema/evidence.ts';
import { decodeEvidenceFile, encodeEvidenceFile } from '#ipc-schema/evidence-file.ts';
import {
  bodyOfExport,
  decodeExportRecord,
  type ExportEntry,
  type ExportOrigin,
  type ExportRecord,
  encodeExportRecord,
  exportBody,
  exportLineMaxBytes,
} from '#ipc-schema/export.ts';
import { certificateFor, readCertificate } from '#ipc-schema/signers.ts';

const blockBytes = 512;
/** POSIX: the end of an archive is two blocks of zeros. */
const endOfArchive = Buffer.alloc(2 * blockBytes);

export const tar: Spelling = { name: 'tar', encode, read };

interface Member {
  readonly name: string;
  readonly content: Uint8Array;
}

function encode(record: ExportRecord, origin: ExportOrigin): Uint8Array {
  const bytes = membersOf(record, origin).flatMap(({ name, content }) => [header(name, content.length), content, padding(content.length)]);
  return Buffer.concat(record.kind === 'end' ? [...bytes, endOfArchive] : bytes);
}

function membersOf(record: ExportRecord, origin: ExportOrigin): Member[] {
  switch (record.kind) {
    case 'origin':
      return [{ name: originName, content: text(`${encodeExportRecord(record)}\n`) }, ...certificatesOf(origin)];
    case 'seal':
      return [{ name: `seals/${padded(record.seal.batch)}.json`, content: text(`${encodeExportRecord(record)}\n`) }];
    case 'entry':
      return entryMembers(record.entry, origin);
    case 'end':
      return [{ name: manifestName, content: text(`${encodeExportRecord(record)}\n`) }];
  }
}

const originName = 'origin.json';
const manifestName = 'manifest.json';
const text = (content: string): Buffer => Buffer.from(content, 'utf8');
const padded = (figure: number): string => String(figure).padStart(10, '0');

/** As PEM, for other tools; a reader of ours takes those of the origin. */
function certificatesOf(origin: ExportOrigin): Member[] {
  const pem = (name: string, der: Uint8Array): Member => ({
    name: `certificates/${name}.pem`,
    content: text(readCertificate(der).toString()),
  });
  return [
    pem('authority', Buffer.from(origin.authorityCertificate, 'base64')),
    ...origin.certificates.map((der, at) => pem(at === 0 ? 'token' : `token-${at + 1}`, Buffer.from(der, 'base64'))),
  ];
}

/** The one that proves this evidence. */
function certificateOf(evidence: string, { certificates: [first = '', ...later] }: ExportOrigin): string {
  if (later.length === 0) return first;
  const { sealBytes } = decodeEvidence(Buffer.from(evidence, 'base64'));
  const ders = [first, ...later].map((text) => Buffer.from(text, 'base64'));
  const found = certificateFor(sealBytes, ders);
  if (found === null) throw malformed('evidence', 'is sealed by a key without a certificate');
  return Buffer.from(found).toString('base64');
}

function entryMembers(entry: ExportEntry, origin: ExportOrigin): Member[] {
  const { sequence, number, kind, evidence, document } = entry;
  const body = bodyOfExport(entry);
  const name = padded(sequence);
  if (!isFiscal(kind) || document === undefined) {
    return [
      { name: `others/${name}-${kind}.bin`, content: body },
      { name: `evidence/${name}.cbor`, content: Buffer.from(evidence, 'base64') },
    ];
  }
  const { authorityCertificate } = origin;
  const file = encodeEvidenceFile({ document, evidence, certificate: certificateOf(evidence, origin), authorityCertificate });
  return [
    { name: `documents/${name}-${(number ?? '').replaceAll('/', '_')}.json`, content: body },
    { name: `evidence/${name}.json`, content: text(file) },
  ];
}

// ---- Reading

async function* read(pieces: InputPieces): AsyncGenerator<Spelled> {
  let origin: ExportOrigin | null = null;
  for (let first = await takeMember(pieces); first !== null; first = await takeMember(pieces)) {
    const second = isBody(first.name) ? await takeMember(pieces) : null;
    const record = second === null ? decodeExportRecord(withoutLineEnd(first.content)) : entryOf(first, second);
    origin ??= record.kind === 'origin' ? record.origin : null;
    if (origin === null) throw malformed('archive', 'does not begin with an origin');
    const bytes = encode(record, origin);
    const taken = Buffer.concat(second === null ? [first.bytes] : [first.bytes, second.bytes]);
    // Certificates behind the origin, and the end of the archive, are known beforehand.
    const more = await pieces.take(Math.max(0, bytes.length - taken.length));
    if (!Buffer.concat([taken, more]).equals(bytes)) throw malformed(`file ${first.name}`, 'is not as an export writes it');
    yield { record, bytes };
  }
}

interface TakenMember extends Member {
  /** With header and padding. */
  readonly bytes: Uint8Array;
}

const isBody = (name: string): boolean => name.startsWith('documents/') || name.startsWith('others/');

/** null at the end of the file. What else the header says is compared by `read`. */
async function takeMember(pieces: InputPieces): Promise<TakenMember | null> {
  if ((await pieces.peek(1)).length === 0) return null;
  const head = await pieces.take(blockBytes);
  const name = head.toString('latin1', 0, nameBytes).replace(/\0.*$/s, '');
  const size = head.toString('latin1', sizeAt, sizeAt + 11);
  const contentBytes = /^[0-7]{11}$/.test(size) ? Number.parseInt(size, 8) : Number.NaN;
  if (!(contentBytes <= exportLineMaxBytes)) throw malformed('archive', 'has a header that is none of an export');
  const rest = await pieces.take(contentBytes + padding(contentBytes).length);
  return { name, content: rest.subarray(0, contentBytes), bytes: Buffer.concat([head, rest]) };
}

function withoutLineEnd(content: Uint8Array): Uint8Array {
  return content.at(-1) === 0x0a ? content.subarray(0, -1) : content;
}

/** The entry that two files are of; what they must say besides comes out when it is written again. */
function entryOf(bodyMember: Member, evidenceMember: Member): ExportRecord {
  const evidence = evidenceMember.name.endsWith('.json')
    ? decodeEvidenceFile(evidenceMember.content).evidence
    : Buffer.from(evidenceMember.content).toString('base64');
  const { kind, sequence, number, issuedAtMs, currency, total, taxTotal } = decodeLeaf(
    decodeEvidence(Buffer.from(evidence, 'base64')).leaf,
  );
  const issuedAt = new Date(issuedAtMs).toISOString();
  const body = exportBody(kind, bodyMember.content);
  return { kind: 'entry', entry: { sequence, number, kind, issuedAt, currency, total, taxTotal, ...body, evidence } };
}

// ---- Headers (POSIX.1-1988, ustar interchange format)

const nameBytes = 100;
const sizeAt = 124;
const checksumAt = 148;

function header(name: string, contentBytes: number): Buffer {
  const bytes = Buffer.alloc(blockBytes);
  const octal = (value: number, digits: number): string => `${value.toString(8).padStart(digits, '0')}\0`;
  bytes.write(name, 0, nameBytes - 1, 'latin1');
  bytes.write(octal(0o644, 7) + octal(0, 7) + octal(0, 7), nameBytes, 'latin1'); // mode, uid, gid
  bytes.write(octal(contentBytes, 11) + octal(0, 11), sizeAt, 'latin1'); // and a time of 0: the same export has the same bytes
  bytes.write('        0', checksumAt, 'latin1'); // the checksum counts as spaces; then the type: a file
  bytes.write('ustar\x0000', 257, 'latin1');
  const sum = bytes.reduce((before, byte) => before + byte, 0);
  bytes.write(`${sum.toString(8).padStart(6, '0')}\0 `, checksumAt, 'latin1');
  return bytes;
}

function padding(contentBytes: number): Buffer {
  return endOfArchive.subarray(0, (blockBytes - (contentBytes % blockBytes)) % blockBytes);
}
