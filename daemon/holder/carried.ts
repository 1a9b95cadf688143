// Owns: the bytes that the store keeps through every release, as the front gives them: CBOR [1, [batch, signed] | null, [[batch, signed], ...]]:
// the charter in force and the templates in force, each with the batch that brought it.
// Invariants: the store vouches for these bytes; the documents in them are signed by the authority and believed only under its key.
import { decodeCbor, encodeCbor, FieldReader } from '#ipc-schema/cbor.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import type { Carried, CarriedDocument } from './holder.ts';

export function encodeCarried({ charter, templates }: Carried): Uint8Array {
  const pair = ({ batch, signed }: CarriedDocument): [number, Uint8Array] => [batch, signed];
  return encodeCbor([1, charter === null ? null : pair(charter), templates.map(pair)]);
}

/** Throws `halted`. */
export function decodeCarried(bytes: Uint8Array): Carried {
  try {
    const fields = new FieldReader('carried', decodeCbor(bytes, 'carried'));
    fields.version(1);
    const charter = fields.any('charter');
    const templates = fields.list('templates').map(documentOf);
    fields.end();
    return { charter: charter === null ? null : documentOf(charter), templates };
  } catch (cause) {
    throw new UkeyError('halted', 'what the store carries cannot be read', { cause });
  }
}

function documentOf(value: unknown): CarriedDocument {
  const fields = new FieldReader('carried document', value);
  const document = { batch: fields.count('batch'), signed: fields.bytes('signed') };
  fields.end();
  return document;
}
