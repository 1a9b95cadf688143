// Owns: the targets of what stands on a FLASH and in a KEY: superblock, run header, frame header, with their checksums made right again after the
// change (a checksum keeps accidents out, not people), and what the store carries sealed: identity, checkpoints, carried documents, the anchor.
import { crc32 } from 'node:zlib';
import { readAnchor } from '#holder/anchor.ts';
import { decodeCarried, encodeCarried } from '#holder/carried.ts';
import { decodeCheckpoint, encodeCheckpoint } from '#holder/chain.ts';
import { decodeIdentity, encodeIdentity } from '#holder/identity.ts';
import { encodeCbor } from '#ipc-schema/cbor.ts';
import { decodeTip, encodeTip, type Tip } from '#ledger/tip.ts';
import {
  copyStrideBytes,
  decodeFrameHeader,
  decodeRunHeader,
  encodeFrameHeader,
  encodeRunHeader,
  frameHeaderBytes,
  logStartBytes,
  runHeaderBytes,
  sha256,
} from '#store/format.ts';
import { decodeSuperblock, encodeSuperblock, superblockBytes } from '#store/superblock.ts';
import { FakeToken } from '#test/support/fake-token.ts';
import { signedCharter, signedTemplate, tokenCertificate } from '#test/vectors/world.ts';
import { Changed, type FuzzTarget, oneMeaning, oneSpelling, same } from './target.ts';
import { workedExample } from './vector-files.ts';

const { device, storeId } = workedExample();
const macBytes = 32;
const checksumBytes = 32;

/** The input, and the input with a checksum that fits, are both tried. */
function withRightSum(mend: (bytes: Buffer) => Buffer, judge: (bytes: Buffer) => boolean): FuzzTarget['judge'] {
  return (input) => {
    const isTaken = judge(Buffer.from(input));
    return judge(mend(Buffer.from(input))) || isTaken ? 'decoded' : 'refused';
  };
}

function endingWithSha256(lengthBytes: number): (bytes: Buffer) => Buffer {
  return (bytes) => {
    if (bytes.length !== lengthBytes) return bytes;
    const sumAt = lengthBytes - checksumBytes;
    return Buffer.concat([bytes.subarray(0, sumAt), sha256(bytes.subarray(0, sumAt))]);
  };
}

const macKey = Buffer.alloc(32, 7);

function judgeSuperblock(bytes: Buffer): boolean {
  const state = decodeSuperblock(bytes);
  if (state.kind !== 'valid') return false;
  const again = encodeSuperblock(state.superblock, macKey);
  if (again === null) throw new Changed('a superblock that was decoded cannot be written');
  const bodyBytes = superblockBytes - macBytes - checksumBytes;
  same('a superblock', again.subarray(0, bodyBytes), bytes.subarray(0, bodyBytes));
  return true;
}

function judgeRun(bytes: Buffer): boolean {
  const run = decodeRunHeader(bytes, storeId, 0, logStartBytes);
  if (run === null) return false;
  same('a run header', encodeRunHeader(run.header, run.sealed), bytes.subarray(0, runHeaderBytes));
  return true;
}

const framePosition = logStartBytes + runHeaderBytes;

function judgeFrame(bytes: Buffer): boolean {
  const frame = decodeFrameHeader(bytes, storeId, framePosition);
  if (frame === null) return false;
  same('a frame header', encodeFrameHeader(frame), bytes.subarray(0, frameHeaderBytes));
  return true;
}

function withRightCrc(bytes: Buffer): Buffer {
  if (bytes.length >= frameHeaderBytes) bytes.writeUInt32BE(crc32(bytes.subarray(0, 76), crc32(storeId)), 76);
  return bytes;
}

/** What the KEY gives back is what the KEY was given, by whom ever. */
function judgeAnchor(input: Uint8Array): ReturnType<FuzzTarget['judge']> {
  const token = new FakeToken();
  token.writeObject('anchor-0', input);
  return oneMeaning(
    () => readAnchor(token),
    (anchor) => (anchor === null ? input : encodeCbor([1, anchor.storeId, anchor.mountEpoch, anchor.batchIndex, anchor.sealHash])),
    ['halted'],
  )(input);
}

const tip: Tip = {
  nextBatch: 9,
  nextSequence: 40,
  lastIssuedAtMs: 1_772_443_800_000,
  serverTimeMs: 1_772_443_700_000,
  documents: 30,
  pending: { count: 3, amount: '45.90', oldestMs: 1_772_443_600_000 },
  ackedBatch: 7,
  certificateBatch: 7,
  lastWeightyBatch: 8,
  counters: new Map([
    ['invoice A', 30],
    ['credit-note C', 2],
  ]),
  charter: { serial: 1, batch: 1, series: [{ prefix: 'A', digits: 6 }] },
  templates: [{ id: 'retail', version: 1, batch: 1 }],
};

const chain = { nextBatch: 9, nextSequence: 40, headSealHash: Buffer.alloc(32, 9) };
const anchor = encodeCbor([1, storeId, 3, 8, Buffer.alloc(32, 5)]);

export const storeTargets: readonly FuzzTarget[] = [
  {
    name: 'superblock',
    form: 'bytes',
    seeds: [0, 1].map((copy) => device.subarray(copy * copyStrideBytes, copy * copyStrideBytes + superblockBytes)),
    judge: withRightSum(endingWithSha256(superblockBytes), judgeSuperblock),
  },
  {
    name: 'run-header',
    form: 'bytes',
    seeds: [device.subarray(logStartBytes, logStartBytes + runHeaderBytes)],
    judge: withRightSum(endingWithSha256(runHeaderBytes), judgeRun),
  },
  {
    name: 'frame-header',
    form: 'bytes',
    seeds: [device.subarray(framePosition, framePosition + frameHeaderBytes)],
    judge: withRightSum(withRightCrc, judgeFrame),
  },
  {
    name: 'identity',
    form: 'cbor',
    seeds: [
      encodeIdentity({ certificate: tokenCertificate, authorityCertificate: tokenCertificate, successions: [signedCharter] }),
      encodeCbor([1, tokenCertificate, tokenCertificate]),
    ],
    judge: oneMeaning(decodeIdentity, encodeIdentity, ['halted']),
  },
  {
    name: 'carried',
    form: 'cbor',
    seeds: [
      encodeCarried({ charter: { batch: 1, signed: signedCharter }, templates: [{ batch: 2, signed: signedTemplate }], certificate: null }),
      encodeCarried({ charter: null, templates: [], certificate: { batch: 3, signed: signedCharter } }),
      encodeCarried({ charter: null, templates: [], certificate: null }),
    ],
    judge: oneSpelling(decodeCarried, encodeCarried, ['halted']),
  },
  {
    name: 'checkpoint',
    form: 'cbor',
    seeds: [encodeCheckpoint(chain, encodeTip(tip))],
    judge: oneSpelling(decodeCheckpoint, ({ chain, front }) => encodeCheckpoint(chain, front), ['halted']),
  },
  {
    name: 'tip',
    form: 'cbor',
    seeds: [encodeTip(tip), encodeTip({ ...tip, charter: null, templates: [], counters: new Map(), certificateBatch: null })],
    judge: oneSpelling(decodeTip, encodeTip),
  },
  { name: 'anchor', form: 'cbor', seeds: [anchor], judge: judgeAnchor },
];
