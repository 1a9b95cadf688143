// Owns: turning a verified batch into the records of an export: its seal, and the entries of the range and kinds that were asked for.
// Pure. Evidence is built here, from the whole batch; whether it holds is export-check.ts's.
import { encodeEvidence } from '#ipc-schema/evidence.ts';
import { type ExportOrigin, type ExportRecord, exportBody } from '#ipc-schema/export.ts';
import { buildTree, inclusionPath, leafHash } from '#ipc-schema/merkle.ts';
import type { VerifiedBatch, VerifiedEntry } from '#ipc-schema/verify.ts';

export function isChosen({ kinds, fromSequence, toSequence }: ExportOrigin, { parsed }: VerifiedEntry): boolean {
  const { kind, sequence } = parsed;
  return sequence >= fromSequence && sequence <= toSequence && (kinds === null || kinds.includes(kind));
}

export function* recordsOf(batch: VerifiedBatch, origin: ExportOrigin): Generator<ExportRecord> {
  const { seal, sealBytes, entries } = batch;
  const chosen = [...entries.entries()].filter(([, entry]) => isChosen(origin, entry));
  yield { kind: 'seal', seal: { batch: seal.batchIndex, seal: base64(sealBytes), entries: chosen.length } };
  if (chosen.length === 0) return;
  const tree = buildTree(entries.map(({ leaf }) => leafHash(leaf)));
  for (const [index, { leaf, parsed, body }] of chosen) {
    const { sequence, number, kind, issuedAtMs, currency, total, taxTotal } = parsed;
    const evidence = encodeEvidence({ leaf, index, count: entries.length, path: inclusionPath(tree, index), sealBytes });
    const facts = { sequence, number, kind, issuedAt: new Date(issuedAtMs).toISOString(), currency, total, taxTotal };
    yield { kind: 'entry', entry: { ...facts, ...exportBody(kind, body), evidence: base64(evidence) } };
  }
}

function base64(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('base64');
}
