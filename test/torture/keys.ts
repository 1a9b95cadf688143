// Owns: `keys`: whether a cipher key ever meets a nonce twice, over crashes and images that are put back. The door is the device: every run
// header (salt, nonce 0) and frame (salt of its run, ordinal) that is written is read back out of the written bytes.
// Invariants: the same pair with the same bytes is a repair and no repeat; with other bytes it is one. The control draws one salt for ever
// and must repeat.
import { createHash, randomBytes } from 'node:crypto';
import { decodeFrameHeader, decodeRunHeader, logStartBytes, pageBytes, roundUp } from '#store/format.ts';
import { openLog } from '#store/log.ts';
import { checkpointBefore, dataKey, failureOf, newStore, payloadOf, segmentBytes, sizeFor, storeId } from '#test/store/rig.ts';
import { readMedium } from '#test/support/memory-device.ts';
import { seededRandom } from '#test/support/seed.ts';
import { Recording, sectorBytes } from './image.ts';
import { scaled, type TortureOptions, type TorturePart, type TortureResult } from './part.ts';

const segments = 5;
const crashesMax = 1000;
const restoredMin = 20;
const hashBytes = 12;

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
const digest = (bytes: Uint8Array): string =>
  createHash('sha256')
    .update(bytes)
    .digest('hex')
    .slice(0, hashBytes * 2);

/** Pairs of salt and nonce with what was sealed under them. */
class Ciphers {
  readonly #used = new Map<string, string>();
  /** Salt of a run, by its number and epoch, in the life that is watched. */
  readonly #salts = new Map<string, string>();
  repeated = 0;
  unknown = 0;

  get pairs(): number {
    return this.#used.size;
  }

  /** A life begins on this image: the runs that stand there are known. */
  begin(image: Buffer): void {
    this.#salts.clear();
    for (let at = logStartBytes; at + pageBytes <= image.length; at += pageBytes) this.#runAt(image.subarray(at, at + pageBytes), at);
  }

  #runAt(page: Uint8Array, position: number): boolean {
    const run = decodeRunHeader(page, storeId, Math.floor((position - logStartBytes) / segmentBytes), position);
    if (run === null) return false;
    const { runIndex, mountEpoch, salt } = run.header;
    this.#salts.set(`${runIndex}/${mountEpoch}`, hex(salt));
    this.#note(`${hex(salt)}/checkpoint`, page);
    return true;
  }

  #note(pair: string, bytes: Uint8Array): void {
    const sealed = digest(bytes);
    const before = this.#used.get(pair);
    if (before !== undefined && before !== sealed) this.repeated += 1;
    this.#used.set(pair, sealed);
  }

  written(positionBytes: number, bytes: Uint8Array): void {
    if (positionBytes < logStartBytes) return;
    for (let at = 0; at < bytes.length; at += sectorBytes) {
      const position = positionBytes + at;
      if (position % pageBytes === 0 && at + pageBytes <= bytes.length && this.#runAt(bytes.subarray(at, at + pageBytes), position))
        continue;
      const frame = decodeFrameHeader(bytes.subarray(at, at + sectorBytes), storeId, position);
      if (frame === null) continue;
      const salt = this.#salts.get(`${frame.runIndex}/${frame.mountEpoch}`);
      if (salt === undefined) this.unknown += 1;
      else this.#note(`${salt}/${frame.ordinal}`, bytes.subarray(at, roundUp(at + frame.sealedBytes, sectorBytes)));
    }
  }
}

interface Lives {
  readonly ciphers: Ciphers;
  readonly restored: number;
  readonly frames: number;
}

async function live(crashes: number, random: () => number, salts: (size: number) => Uint8Array): Promise<Lives> {
  const draw = (below: number): number => Math.floor(random() * below);
  const ciphers = new Ciphers();
  let image = Buffer.from(readMedium((await newStore(segments)).snapshot(), 0, sizeFor(segments)));
  const images: Buffer[] = [Buffer.from(image)];
  let restored = 0;
  let frames = 0;
  for (let crash = 0; crash < crashes; crash += 1) {
    if (crash % 10 === 9) {
      image = Buffer.from(images[draw(images.length)] ?? image);
      restored += 1;
    }
    const recording = new Recording<null>(() => null);
    const salt = draw(2 ** 30) | 1;
    recording.cut = { afterWrites: 4 + draw(14), keeps: (sector) => ((Math.imul(sector + 3, salt) >>> 11) & 1) === 1 };
    ciphers.begin(image);
    const mirror = Buffer.from(crash % 4 === 0 ? image : Buffer.alloc(0));
    const withMirror = mirror.length > 0 ? { mirror: { device: recording.device(mirror, 1), mode: 'sync' as const } } : {};
    const log = await openLog(recording.device(image, 0), dataKey, { ...withMirror, randomBytes: salts }).catch(() => null);
    for (let index = log?.mounted.nextIndex ?? 0; log !== null && !recording.isDead; index += 1) {
      const failed = await failureOf(
        log.append(payloadOf(index, 500 + draw(18_000), `${crash}`), checkpointBefore(index), { reserved: true }),
      );
      if (failed !== null) await failureOf(log.release(index - 1));
      else frames += 1;
      if (draw(4) === 0) await failureOf(log.carry(payloadOf(index, 900, 'carried')));
      if (failed?.code === 'store-full') index -= 1;
    }
    for (const { kind, write } of recording.events) if (kind === 'begin') ciphers.written(write.positionBytes, write.bytes);
    if (crash % 7 === 0) images.push(Buffer.from(image));
    if (images.length > restoredMin) images.splice(1 + draw(images.length - 1), 1);
  }
  return { ciphers, restored, frames };
}

async function run(options: TortureOptions): Promise<TortureResult> {
  const crashes = scaled(crashesMax, options, 40);
  const { ciphers, restored, frames } = await live(crashes, seededRandom(options.seed), (size) => randomBytes(size));
  const control = await live(40, seededRandom(options.seed + 1), (size) => new Uint8Array(size).fill(7));
  const violations: string[] = [];
  if (ciphers.repeated > 0) violations.push(`${ciphers.repeated} pairs were used again for other bytes (seed ${options.seed})`);
  if (ciphers.unknown > 0) violations.push(`void: ${ciphers.unknown} frames were written of runs whose salt was never seen`);
  if (control.ciphers.repeated === 0) violations.push('void: the control (one salt for ever) repeated nothing');
  return {
    line: `crashes=${crashes} restored=${restored} frames=${frames} pairs=${ciphers.pairs} repeated=${ciphers.repeated} control_repeated=${control.ciphers.repeated}`,
    violations,
  };
}

export const keys: TorturePart = { name: 'keys', run };
