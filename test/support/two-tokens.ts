// Owns: a second token for the place of a rig's first one: provisioned at the same server, put aside, and exchanged with the first while the service runs.
import { mkdirSync, renameSync } from 'node:fs';
import path from 'node:path';
import { expect } from 'vitest';
import { grant, type Rig, rigPin } from '#test/support/rig.ts';

export interface TwoTokens {
  readonly first: string;
  readonly spare: string;
  /** Pulls the one and plugs the other in. */
  swap(out: 'first' | 'spare', back: 'first' | 'spare'): Promise<void>;
}

/** The first is plugged in, and issues. The rig has `line` and `pinFile`. */
export async function twoTokens(rig: Rig): Promise<TwoTokens> {
  const token = path.join(rig.directory, 'token');
  const status = () => rig.admin.call('service.status', {});
  const standing = async () => (await status()).standing;
  const idOf = async () => (await status()).token?.tokenId ?? '';
  const swap: TwoTokens['swap'] = async (out, back) => {
    renameSync(token, `${token}-${out}`);
    await expect.poll(standing, { timeout: 5_000 }).toBe('no-token');
    renameSync(`${token}-${back}`, token);
  };
  const first = await idOf();
  mkdirSync(`${token}-spare`);
  await swap('first', 'spare');
  const ticket = await rig.server.createTicket({ ...grant, serverUrl: `https://127.0.0.1:${rig.line.port}` });
  await rig.admin.call('token.provision', { label: 'spare', pin: rigPin, soPin: '97531000', ticket });
  const spare = await idOf();
  await swap('spare', 'first');
  await expect.poll(standing, { timeout: 5_000 }).toBe('issuing-online');
  expect(await idOf()).toBe(first);
  return { first, spare, swap };
}
