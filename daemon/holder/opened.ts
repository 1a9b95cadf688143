// Owns: an opened ledger in the holder: its log, its sealer, and what is asked of them that needs no turn.
// Invariants: one sealer for one opening of the log; a failure of the log is told once through `onTrouble`, whoever met it.
import type { Clock } from '#ground/clock.ts';
import { keyIdOfSpki } from '#ipc-schema/cose.ts';
import { asUkeyError, type UkeyError } from '#ipc-schema/errors.ts';
import { renewalPayload } from '#ipc-schema/renewal.ts';
import type { Device } from '#store/device.ts';
import type { StoreLog } from '#store/store.ts';
import type { Token, TokenFacts } from '#token/token.ts';
import { AnchorWriter, type Seen } from './anchor.ts';
import type { Mount, PackedBatch, StoredBatch } from './holder.ts';
import type { MirrorMaking } from './mirroring.ts';
import { type Mounting, mountLedger } from './mounting.ts';
import type { HolderParts } from './parts.ts';
import { Sealer } from './sealer.ts';

export const readMaxBytes = 8 * 1024 * 1024;

export interface OpenedEvents {
  onTrouble(opened: Opened, error: UkeyError): void;
  onMirrorWhole(opened: Opened): void;
}

/** Reads and verifies the ledger of a token that is logged in. `seen`: how far it was durable when it was open last. Throws as mountLedger. */
export async function openLedger(
  parts: HolderParts,
  token: Token,
  device: Device,
  seen: Seen | null,
  { onTrouble, onMirrorWhole }: OpenedEvents,
): Promise<{ readonly opened: Opened; readonly facts: TokenFacts }> {
  const mounting = await mountLedger(token, device, parts.mirror ?? null, { seen, note: parts.note });
  const { mirrorFailure, facts } = mounting;
  if (mirrorFailure !== null) parts.note('the mirror is not used', new Error(mirrorFailure));
  const opened: Opened = new Opened(
    parts,
    token,
    mounting,
    (error) => onTrouble(opened, error),
    () => onMirrorWhole(opened),
  );
  return { opened, facts };
}

export class Opened {
  readonly log: StoreLog;
  readonly mount: Mount;
  readonly #mirrorFailure: string | null;
  /** The mirror is made beside the tills; `onMirrorWhole` is told, so that the log is opened again with it. */
  readonly #making: MirrorMaking | null;
  readonly sealer: Sealer;
  readonly #onTrouble: (error: UkeyError) => void;
  readonly #note: HolderParts['note'];
  readonly #clock: Clock;
  /** Null: the holder reads only. */
  readonly #anchor: AnchorWriter | null;

  constructor(
    { clock, readOnly, note, mirror }: Pick<HolderParts, 'clock' | 'readOnly' | 'note' | 'mirror'>,
    token: Token,
    mounting: Mounting,
    onTrouble: (error: UkeyError) => void,
    onMirrorWhole: () => void,
  ) {
    const { log, chain, mount, mirrorFailure } = mounting;
    this.log = log;
    this.mount = mount;
    this.#mirrorFailure = mirrorFailure;
    this.#making = mirrorFailure === null ? null : (mirror?.making?.() ?? null);
    void this.#making?.made.then(onMirrorWhole);
    this.#onTrouble = onTrouble;
    this.#note = note;
    this.#clock = clock;
    const { tokenId, algorithm, publicKey } = mount;
    const keyId = keyIdOfSpki(publicKey);
    this.sealer = new Sealer({ token, tokenId, keyId, algorithm, log, chain, clock, readOnly, onTrouble });
    this.#anchor = readOnly ? null : new AnchorWriter(token, this.end, note);
    this.anchor();
  }

  /** Why the mirror is not used now; null when it is, or when there is to be none. */
  get mirrorFailure(): string | null {
    return this.#making?.text() ?? this.#mirrorFailure;
  }

  /** How far the ledger is durable. */
  get end(): Seen {
    const { nextBatch, headSealHash } = this.sealer.durable;
    const { header, mounted } = this.log;
    const { storeId, tokenKeyId: keyId } = header;
    return { storeId, keyId, mountEpoch: mounted.mountEpoch, batchIndex: nextBatch - 1, sealHash: headSealHash };
  }

  /** For the state: whether the mirror is whole, and not used yet. */
  get waits(): { readonly mirrorWaits?: true } {
    return this.#making?.isWhole() === true ? { mirrorWaits: true } : {};
  }

  async readPacked(fromBatch: number, maxBytes: number): Promise<PackedBatch[]> {
    const frames = await this.log.readPacked(fromBatch, Math.min(maxBytes, readMaxBytes));
    return frames.map(({ index, packed }) => ({ batchIndex: index, packed }));
  }

  async mend(batches: readonly StoredBatch[]): Promise<readonly number[]> {
    const frames = batches.map(({ batchIndex, bytes }) => ({ index: batchIndex, payload: bytes }));
    return await this.write((log) => log.mend(frames));
  }

  requestRenewal(certificateHash: Uint8Array): Uint8Array {
    const { publicKey: spki, tokenId } = this.mount;
    return this.sealer.ask(renewalPayload({ spki, tokenId, certificateHash }));
  }

  /** Writes beside commits: a failure means what a failed append means. */
  async write<T>(act: (log: StoreLog) => Promise<T>): Promise<T> {
    try {
      return await act(this.log);
    } catch (thrown) {
      const error = asUkeyError(thrown);
      if (error.code === 'unknown-outcome') this.#onTrouble(error);
      throw error;
    }
  }

  /** Tells the KEY how far the ledger is durable. Blocks for one writing. */
  anchor(): void {
    const { batchIndex, sealHash } = this.end;
    this.#anchor?.write(batchIndex, sealHash, this.#clock.monotonicMs());
  }

  /** Now and then. */
  anchorIfDue(): void {
    if (this.#anchor?.isDue(this.sealer.durable.nextBatch - 1, this.#clock.monotonicMs()) === true) this.anchor();
  }

  /** What is on its way ends first, and may still be told. Answers how far the ledger is durable then. */
  async close(): Promise<Seen> {
    await this.log.close().catch((error: unknown) => this.#note('the log did not close', error));
    await this.sealer.settled();
    return this.end;
  }

  /** The mount, where it stands once nothing is under way. */
  async settled(): Promise<Mount> {
    await this.sealer.settled();
    return { ...this.mount, ...this.sealer.chain };
  }
}
