// Owns: what SPEC.md must say word for word: the examples, read from the vectors, and the rows of its tables, read from the tables of the code.
import { errorTable } from '#ipc-schema/errors.ts';
import { type Method, methods } from '#ipc-schema/methods.ts';
import { readVectors } from '#test/support/vectors.ts';

interface SealVector {
  bytes: string;
  tokenKey: string;
  payload: string;
  protected: string;
  signature: string;
  toBeSigned: string;
  seal: { root: string };
}

function found<T>(items: readonly T[], at: number): T {
  const item = items[at];
  if (item === undefined) throw new Error(`the vectors have no item ${at}`);
  return item;
}

/** Name of a code block in SPEC.md to its content without line breaks. Entry 3, the first of the three in batch 2. */
export function specExamples(): Record<string, string> {
  const leaves = readVectors<{ bytes: string; leafHash: string; leaf: { sequence: number } }>('leaf.json').valid;
  const [leaf, ...others] = leaves.filter(({ leaf: { sequence } }) => sequence >= 3 && sequence <= 5);
  const seal = found(readVectors<SealVector>('seal.json').valid, 1);
  const evidence = found(readVectors<{ bytes: string; body: string }>('evidence.json').valid, 2);
  const qr = found(readVectors<{ text: string }>('qr.json').valid, 1);
  const handshake = readVectors<{ mac: string }, unknown, { secret: string; challenge: string; nonce: string }>('handshake.json');
  // Evidence is [leaf, index, count, path, seal]: the path of two hashes stands in front of the seal's head (59 and one length byte or two).
  const hashes = /82((?:5820[0-9a-f]{64}){2})58/.exec(evidence.bytes.slice((leaf?.bytes.length ?? 0) + 4))?.[1] ?? '';
  return {
    'handshake.secret': handshake.secret,
    'handshake.challenge': handshake.challenge,
    'handshake.nonce': handshake.nonce,
    'handshake.client': found(handshake.valid, 0).mac,
    'handshake.server': found(handshake.valid, 1).mac,
    document: Buffer.from(evidence.body, 'hex').toString('utf8'),
    leaf: leaf?.bytes ?? '',
    leafHash: leaf?.leafHash ?? '',
    'leafHash.1': found(others, 0).leafHash,
    'leafHash.2': found(others, 1).leafHash,
    'path.0': hashes.slice(4, 68),
    'path.1': hashes.slice(72, 136),
    root: seal.seal.root,
    tokenKey: seal.tokenKey,
    'seal.payload': seal.payload,
    'seal.protected': seal.protected,
    'seal.toBeSigned': seal.toBeSigned,
    'seal.signature': seal.signature,
    seal: seal.bytes,
    evidence: evidence.bytes,
    qr: qr.text,
  };
}

export function errorRows(): string[] {
  return [
    '| code | number | whose fault | retry | what a person does |',
    '|---|---|---|---|---|',
    ...Object.entries(errorTable).map(
      ([code, { rpcCode, fault, retry, action }]) => `| \`${code}\` | ${rpcCode} | ${fault} | \`${retry}\` | ${action} |`,
    ),
  ];
}

export function methodRows(): string[] {
  return [
    '| method | roles | what it does |',
    '|---|---|---|',
    ...Object.entries(methods as Record<string, Method>).map(
      ([name, { roles, summary }]) => `| \`${name}\` | ${roles.join(', ')} | ${summary} |`,
    ),
  ];
}
