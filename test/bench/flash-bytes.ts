// Owns: B4, what an invoice takes on the FLASH and what is written for it (wear), for each byte of its body, beside SQLCipher.
import { type Bench, type Context, notMeasured, type Row, row } from './benchmark.ts';
import { fill } from './builder.ts';
import { wholly } from './load.ts';
import { sqlCipher } from './sqlcipher.ts';

const id = 'B4';
const aims = [
  { perBatch: 1, aim: 1 },
  { perBatch: 64, aim: 0.45 },
] as const;

async function run(context: Context): Promise<Row[]> {
  const { sizes, load, folder, requests } = context;
  const world = await context.world('wear');
  await load.do({ kind: 'open', pool: 'wear', path: world.files.socket, count: 1, till: world.till });
  const order = {
    kind: 'run',
    pool: 'wear',
    tills: 1,
    count: requests.typical.length,

    prefix: 'b4d-',
    keep: true,
  } as const;
  const { documents } = wholly(await load.send(order));
  await load.do({ kind: 'shut', pool: 'wear' });
  await world.stop();
  const peer = await sqlCipher(folder, documents);
  const rows: Row[] = [];
  for (const { perBatch, aim } of aims) {
    const entries = sizes.wearBatches * perBatch;
    const built = await fill(world, requests.typical, { entries, perBatch, prefix: `b4-${perBatch}-` });
    const used = built.usedBytes / built.bodyBytes;
    const at = `${(built.entries / built.batches).toFixed(0)} per batch`;
    const peerBytes = peer.kind === 'absent' ? null : await peer.run(entries);
    const peerBody = documents.reduce((sum, body, index) => sum + Buffer.byteLength(body) * turns(entries, documents.length, index), 0);
    rows.push(
      row(id, `${at}: on the FLASH`, used, 'bytes/byte', {
        aim: `<= ${aim}`,
        met: (value) => value <= aim,
        note: 'per byte of the body, one copy',
      }),
      row(id, `${at}: written`, built.writtenBytes / built.bodyBytes, 'bytes/byte', {
        aim: `<= ${aim}`,
        met: (value) => value <= aim,
        note: 'wear',
      }),
      peerBytes === null
        ? notMeasured(id, `${at}: beside SQLCipher`, 'bytes/byte', peer.kind === 'absent' ? peer.why : '')
        : row(id, `${at}: beside SQLCipher`, used, 'bytes/byte', {
            beside: { name: 'SQLCipher, file and WAL', value: (peerBytes.fileBytes + peerBytes.walBytes) / peerBody },
            aim: '< 1 x',
            met: (_, ratio) => ratio < 1,
            note: `it writes ${(peerBytes.writtenBytes / peerBody).toFixed(1)} bytes per byte`,
          }),
    );
  }
  await world.start();
  return rows;
}

/** How often a body of a list that is gone through in turns is used. */
function turns(count: number, length: number, index: number): number {
  return Math.floor(count / length) + (index < count % length ? 1 : 0);
}

export const flashBytes: Bench = { id, title: 'bytes on the FLASH', run };
