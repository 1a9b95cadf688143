// Owns: an open ledger with its index: reading both from the log of an opened token, judging whether they may go on, and their end.
import type { Mount } from '#holder/holder.ts';
import { asUkeyError, type UkeyError } from '#ipc-schema/errors.ts';
import { type Contradictions, olderThanIndex } from './contradiction.ts';
import { handedOver, isHandedOver } from './handover.ts';
import { indexFileOf } from './index-witness.ts';
import { Ledger, type LedgerParts } from './ledger.ts';
import { LedgerIndex } from './ledger-index.ts';
import { openIndex, readLedger, tellOpened } from './mounting.ts';
import type { Stop } from './standing.ts';

export interface Opened {
  readonly ledger: Ledger;
  readonly index: LedgerIndex;
}

export interface OpeningParts extends Pick<LedgerParts, 'holder' | 'clock' | 'log' | 'limitFacts' | 'onCommitted'> {
  /** Folder of the indexes. */
  readonly stateDirectory: string;
  readonly contradictions: Contradictions;
  /** How far the index was brought. */
  onProgress(percent: number): void;
  /** Told before anybody may use the ledger, unless the index speaks against it. */
  onOpened(ledger: Ledger): Promise<void>;
  /** Told once, later: the index must be made anew. */
  onIndexBroken(opened: Opened, isSpoilt: boolean): void;
  /** Told once, later: the ledger must be mounted again. */
  onFailed(opened: Opened): void;
}

/** `found`: why it must not be used; null: nothing speaks against it. The caller shuts it. Throws as readLedger and openIndex, and what `onOpened` throws. */
export async function openAndJudge(parts: OpeningParts, mount: Mount): Promise<{ readonly opened: Opened; readonly found: Stop | null }> {
  const { holder, clock, log, stateDirectory, contradictions, limitFacts, onCommitted } = parts;
  const open = await readLedger(holder, mount);
  const { lookup, lost } = await openIndex(indexFileOf(stateDirectory, mount.tokenId), holder, mount, log, (done, total) =>
    parts.onProgress(Math.floor((100 * done) / total)),
  );
  const onBroken = (isSpoilt: boolean): void => parts.onIndexBroken(opened, isSpoilt);
  const has = { entries: open.tip.nextSequence - 1, batch: mount.nextBatch - 1 };
  const index = new LedgerIndex({ lookup, ...has, log, hasReleased: () => ledger.kept.oldestBatch > 1, onBroken });
  const ledger = new Ledger({ holder, index, clock, log, open, limitFacts, onCommitted, onFailed: () => parts.onFailed(opened) });
  const opened: Opened = { ledger, index };
  let found: Stop | null;
  try {
    if (lost !== null) return { opened, found: olderThanIndex(mount, lost, await isHandedOver(holder, ledger)) };
    await parts.onOpened(ledger);
    found = (await contradictions.against(ledger)) ?? ((await isHandedOver(holder, ledger)) ? handedOver : null);
  } catch (error) {
    await shut(opened, asUkeyError(error));
    throw error;
  }
  tellOpened(log, ledger, clock.wallMs());
  return { opened, found };
}

/** Who waits for the ledger gets `why`; the index writes what it has. */
export async function shut({ ledger, index }: Opened, why: UkeyError): Promise<void> {
  ledger.close(why);
  await index.close();
}
