// Owns: `ukeyctl sandbox`: a throw-away world for those who develop tills, and the words that move its scenery.
// Invariants: stdout carries one JSON line, when a till can issue, with the members of WorldFacts and no other; all else goes to stderr;
// it runs until SIGTERM, SIGINT or `sandbox stop`, and then ends everything that it started.
import type { Command, Given } from '#ctl/command.ts';
import { usage } from '#ctl/exit-codes.ts';
import { facts, plain, type Screen } from '#ctl/screen.ts';
import { stopSignal } from '#ctl/stop-signal.ts';
import { askWorld, controls, isControl } from '#ctl/world/control.ts';
import { layoutOf, readMemory } from '#ctl/world/layout.ts';
import { inWorld } from '#ctl/world/running.ts';
import type { WorldOptions, WorldStatus } from '#ctl/world/world.ts';

const actions = [...controls, 'verify'].join(', ');

export const sandbox: Command = {
  kind: 'command',
  name: 'sandbox',
  summary: 'a throw-away world to develop against: token, service, ticket server, one till',
  arguments: [
    { name: '[action]', description: `left out: start it; of a running one: ${actions}` },
    { name: '[state]', description: 'of link: down or up; of token: unplug or plug' },
  ],
  options: [
    { flags: '--dir <folder>', description: 'all of its state; a second start goes on with the same ledger' },
    {
      flags: '--module <library>',
      description: 'PKCS#11 library (default: SoftHSM2 where it is installed, else the embedded soft token; none: the soft token)',
    },
    { flags: '--store <path>', description: 'FLASH: image or block device (default: an image under --dir)' },
  ],
  examples: [
    'sandbox --dir /tmp/shop',
    'sandbox --dir /tmp/shop --module none',
    'sandbox --dir /tmp/shop link down',
    'sandbox --dir /tmp/shop token unplug',
    'sandbox --dir /tmp/shop verify',
    'sandbox --dir /tmp/shop status --json',
    'sandbox --dir /tmp/shop stop',
  ],
  async run(given, screen) {
    const words = [given.argument(0), given.argument(1)].filter((word) => word !== undefined).join(' ');
    if (words === '') return await start(given, screen);
    if (given.text('module') !== undefined || given.text('store') !== undefined)
      throw usage('--module and --store belong to the start alone');
    if (words === 'verify') return await verify(given.needText('dir'), screen);
    if (!isControl(words)) throw usage(`the action is none of ${actions}`, { field: 'action' });
    const dir = given.needText('dir');
    const status = await askWorld(layoutOf(dir).controlSocket, dir, words);
    screen.answer(status, words === 'stop' ? 'Stopped.' : statusText(status));
  },
};

async function start(given: Given, screen: Screen): Promise<void> {
  const stop = stopSignal();
  const options: WorldOptions = {
    dir: given.needText('dir'),
    module: given.text('module'),
    store: given.text('store'),
    note: (text) => screen.note(text),
  };
  await inWorld(options, stop, async (world) => {
    const line = world.facts();
    screen.answer(line, JSON.stringify(line));
    await stop.given;
  });
}

async function verify(dir: string, screen: Screen): Promise<void> {
  const layout = layoutOf(dir);
  const memory = readMemory(layout);
  if (memory === null) throw usage(`there is no sandbox in ${layout.dir}`, { field: '--dir' });
  const { serverUrl } = await askWorld(layout.controlSocket, dir, 'status');
  const { verdictText, verifyWorld } = await import('#ctl/world/verify-world.ts');
  const verdict = await verifyWorld(layout, memory, serverUrl);
  screen.answer(verdict, verdictText(verdict), verdict.holds ? 'done' : 'unverified');
}

function statusText(status: WorldStatus): string {
  return facts([
    ['Standing', `${status.standing}: ${plain(status.reason)}`],
    ['Line', status.line === 'down' && status.standing === 'issuing-online' ? 'down; the service notices at its next probe' : status.line],
    ['Token', status.plugged ? 'plugged in' : 'unplugged'],
    ['Pending', status.pending === null ? null : String(status.pending)],
    ['Service', `process ${status.daemonPid}, ${status.socket}`],
    ['Server', `process ${status.serverPid}, ${status.serverUrl}`],
  ]);
}
