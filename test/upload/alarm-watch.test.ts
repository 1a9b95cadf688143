// Shows: what the server tells of copies of one token says nothing of another one that is plugged in after it.
import { createPublicKey, sign } from 'node:crypto';
import { afterEach, expect, test } from 'vitest';
import { silentLog } from '#ground/log.ts';
import { keyIdOf, makeSign1 } from '#ipc-schema/cose.ts';
import { alarmPayload } from '#ipc-schema/upstream.ts';
import type { CloneAlarm } from '#ledger/contradiction.ts';
import { LedgerRig } from '#test/support/ledger-rig.ts';
import { AlarmWatch, alarmPauseMs } from '#upload/alarm-watch.ts';

const rigs: LedgerRig[] = [];
afterEach(async () => {
  for (const rig of rigs.splice(0)) await rig.close();
});

async function openRig(): Promise<LedgerRig> {
  const rig = await LedgerRig.open();
  rigs.push(rig);
  return rig;
}

/** A server that has refused this seal, or none. */
function server({ ackKeys, token }: LedgerRig, sealBytes: Uint8Array | null): Parameters<AlarmWatch['look']>[2] {
  const key = ackKeys.privateKey;
  return {
    alarm: async (_tokenId, nonce) => {
      const alarm = sealBytes === null ? null : { sealBytes, raisedAtMs: 7_000 };
      const payload = alarmPayload({ nonce, tokenId: token.tokenIdBytes, serverTimeMs: 8_000, alarm });
      return makeSign1('ES256', keyIdOf(createPublicKey(key)), payload, (message) =>
        sign('sha256', message, { key, dsaEncoding: 'ieee-p1363' }),
      );
    },
  };
}

test('an alarm is of one token: another one has none, and is told of none that is settled', async () => {
  const [one, other] = [await openRig(), await openRig()];
  const told: (CloneAlarm | null)[] = [];
  const watch = new AlarmWatch({ clock: one.clock, log: silentLog, onAlarm: (alarm) => void told.push(alarm) });
  const { sealBytes } = one.token.batch(1, { batchIndex: 9 }, true);
  expect(await watch.look(one.ledger, one.charter, server(one, sealBytes))).toBeNull();
  const alarm = { batchIndex: 9, raisedAtMs: 7_000 };
  expect(watch.alarmOf(one.token.tokenIdBytes)).toEqual(alarm);
  expect(watch.alarmOf(other.token.tokenIdBytes)).toBeNull();
  watch.hurry();
  await watch.look(other.ledger, other.charter, server(other, null));
  expect(told).toEqual([alarm]);
  one.clock.pass(alarmPauseMs);
  await watch.look(one.ledger, one.charter, server(one, null));
  expect(watch.alarmOf(one.token.tokenIdBytes)).toBeNull();
});
