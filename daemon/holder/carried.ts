// Owns: the bytes that the store keeps through every release, as the front gives them: CBOR [1, [batch, signed] | null, [[batch, signed], ...]]:
// the charter in force and the templates in force, each with the batch that brought it; and [2, charter, templates, [batch, certificate]] where the
// certificate of the key in force was renewed.
// Invariants: the store vouches for these bytes; the documents in them are signed by the authority and believed only under its key. What needs no second
// form is written in the first, which a service that knows no renewal reads.
import { decodeCbor, encodeCbor, FieldReader } from '#ipc-schema/cbor.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import type { Carried, CarriedDocument } from './holder.ts';

export function encodeCarried({ charter, templates, certificate }: Carried): Uint8Array {
  const pair = ({ batch, signed }: CarriedDocument): [number, Uint8Array] => [batch, signed];
  const documents = [charter === null ? null : pair(charter), templates.map(pair)];
  return encodeCbor(certificate === null ? [1, ...documents] : [2, ...documents, pair(certificate)]);
}

/** Throws `halted`. */
export function decodeCarried(bytes: Uint8Array): Carried {
  try {
    const value = decodeCbor(bytes, 'carried');
    const fields = new FieldReader('carried', value);
    const hasCertificate = Array.isArray(value) && value[0] === 2;
    fields.version(hasCertificate ? 2 : 1);
    const charter = fields.any('charter');
    const templates = fields.list('templates').map(documentOf);
    const certificate = hasCertificate ? documentOf(fields.any('certificate')) : null;
    fields.end();
    return { charter: charter === null ? null : documentOf(charter), templates, certificate };
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
