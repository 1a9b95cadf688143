// Owns: reading a ledger from an opened token: the checkpoint and what came after it, the charter and templates in force, the index brought up to date.
// Invariants: nothing is written to the token; charter and templates are believed only under the authority's key that the token's identity names.
// Errors: halted when the log does not fold.
import { X509Certificate } from 'node:crypto';
import type { Holder, Mount } from '#holder/holder.ts';
import { type Charter, openCharter } from '#ipc-schema/charter.ts';
import { asUkeyError, UkeyError } from '#ipc-schema/errors.ts';
import { openTemplate, type Template } from '#ipc-schema/template.ts';
import type { OpenLedger } from './ledger.ts';
import { readBatch, readBatches } from './stored.ts';
import { decodeTip, emptyTip, type Tip, withBatchEnd, withEntry } from './tip.ts';

const chunkBytes = 1024 * 1024;

export async function readLedger(holder: Holder, mount: Mount): Promise<OpenLedger> {
  try {
    const tip = await foldTip(holder, mount);
    const authorityKey = new X509Certificate(mount.authorityCertificate).publicKey;
    const charter = tip.charter === null ? null : await readCharter(holder, tip.charter.batch, tip.charter.serial, authorityKey);
    const templates: Template[] = [];
    for (const place of tip.templates) templates.push(await readTemplate(holder, place, authorityKey));
    return { mount, tip, charter, templates };
  } catch (error) {
    const known = asUkeyError(error, 'halted');
    if (known.code !== 'invalid-request') throw known;
    throw new UkeyError('halted', `the ledger does not read: ${known.message}`, { cause: error });
  }
}

async function foldTip(holder: Holder, mount: Mount): Promise<Tip> {
  let tip = mount.checkpoint === null ? emptyTip : decodeTip(mount.checkpoint);
  if (tip.nextBatch !== mount.checkpointBatch)
    throw new UkeyError('halted', `the checkpoint is of batch ${tip.nextBatch}, its place is ${mount.checkpointBatch}`);
  for await (const batch of readBatches(holder, mount.checkpointBatch, mount.nextBatch - 1, chunkBytes)) {
    for (const [place, entry] of batch.entries.entries()) {
      const leaf = batch.leaves[place];
      if (leaf === undefined) throw new UkeyError('halted', `batch ${batch.batchIndex} has no leaf ${place}`);
      tip = withEntry(tip, leaf, entry);
    }
    tip = withBatchEnd(tip);
  }
  if (tip.nextSequence !== mount.nextSequence)
    throw new UkeyError('halted', `the fold ends at sequence ${tip.nextSequence}, the seals at ${mount.nextSequence}`);
  return tip;
}

type Key = Parameters<typeof openCharter>[1];

async function readCharter(holder: Holder, batchIndex: number, serial: number, authorityKey: Key): Promise<Charter> {
  const batch = await readBatch(holder, batchIndex);
  for (const [place, leaf] of batch.leaves.entries()) {
    if (leaf.kind !== 'charter') continue;
    const charter = openCharter((batch.entries[place] as { body: Uint8Array }).body, authorityKey);
    if (charter.serial === serial) return charter;
  }
  throw new UkeyError('halted', `charter ${serial} is not in batch ${batchIndex}`);
}

async function readTemplate(holder: Holder, place: Tip['templates'][number], authorityKey: Key): Promise<Template> {
  const batch = await readBatch(holder, place.batch);
  for (const [at, leaf] of batch.leaves.entries()) {
    if (leaf.kind !== 'template') continue;
    const template = openTemplate((batch.entries[at] as { body: Uint8Array }).body, authorityKey);
    if (template.id === place.id && template.version === place.version) return template;
  }
  throw new UkeyError('halted', `template ${place.id} is not in batch ${place.batch}`);
}
