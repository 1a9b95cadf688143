// Shows: a holder process that says what makes no sense is ended and started again; the front goes on and answers with codes.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { startHolder } from '#holder/parent.ts';
import { codeOf, pinBytes, StateWatch } from '#test/support/holder-rig.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'ukeyd-lying-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const alive = { kind: 'alive' };

test.each([
  ['a message of no kind', [{}]],
  ['no message at all', [null]],
  ['a kind that the front alone may send', [{ kind: 'configure', config: {} }]],
  ['a refusal without an error', [alive, { kind: 'refused', id: 1 }]],
  ['a refusal whose causes are no list', [alive, { kind: 'refused', id: 1, error: { code: 'internal', message: 'x', causes: 7 } }]],
  ['a state without one', [{ kind: 'state' }]],
  ['a state that is none', [{ kind: 'state', state: { kind: 'open' } }]],
])('%s', async (_, said) => {
  writeFileSync(join(folder, 'say.json'), JSON.stringify(said));
  const downs: string[] = [];
  const watch = new StateWatch();
  const holder = startHolder({
    config: { module: null, softTokenPath: join(folder, 'key.json'), flashPath: join(folder, 'flash.img'), presencePaths: [] },
    events: {
      onState: (state) => {
        // As the rooms above do: they look into it.
        if (state.kind === 'open') expect(state.mount.tokenId).toBeDefined();
        watch.onState(state);
      },
    },
    onChatter: (line) => void downs.push(line),
    entry: new URL('./lying-child.ts', import.meta.url),
    deadlines: { silence: 500 },
  });
  try {
    const first = holder.pid();
    await expect.poll(() => holder.pid() !== undefined && holder.pid() !== first, { timeout: 10_000 }).toBe(true);
    expect(['token-failed', 'no-token']).toContain(await codeOf(holder.login(pinBytes(), false)));
  } finally {
    await holder.close();
  }
});
