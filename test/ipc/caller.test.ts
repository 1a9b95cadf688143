import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Introduction, type Terminal } from '#ipc/caller.ts';
import { defaultLimits } from '#ipc/limits.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import { clientMac, macEquals, serviceMac } from '#ipc-schema/handshake.ts';
import { callTest, codeOf, openWorld, RawPeer, refusalOf, secret, terminals, type World } from '#test/ipc/world.ts';

const nonce = 'ab'.repeat(32);

describe('an introduction at the till door', () => {
  const looked: string[] = [];
  let random = 0;
  const known: Terminal = { id: 'till-1', role: 'till', secret };
  const introduction = (found: Terminal | null = known): Introduction =>
    new Introduction({
      door: 'till',
      findTerminal: (id) => {
        looked.push(id);
        return id === found?.id ? found : null;
      },
      randomBytes: (lengthBytes) => new Uint8Array(lengthBytes).fill(++random),
    });
  const proofFor = (challenge: string, terminal = 'till-1', key: Uint8Array = secret) => ({
    terminal,
    nonce,
    mac: clientMac(key, { challenge, nonce, terminal }),
  });
  const refused = (run: () => unknown): string => {
    try {
      run();
    } catch (thrown) {
      return thrown instanceof UkeyError ? thrown.code : 'foreign';
    }
    return 'accepted';
  };

  it('makes a caller of a stranger that knows the secret, and proves the service', () => {
    const one = introduction();
    expect(one.caller).toBeNull();
    const challenge = one.hello('pos/1');
    const { role, mac } = one.authenticate(proofFor(challenge));
    expect(role).toBe('till');
    expect(macEquals(serviceMac(secret, { challenge, nonce, terminal: 'till-1' }), mac)).toBe(true);
    expect(one.need()).toEqual({ door: 'till', terminal: 'till-1', roles: ['till'], token: null, label: 'till-1', client: 'pos/1' });
  });

  it('makes a fresh challenge for every hello', () => {
    const one = introduction();
    expect(one.hello('a')).not.toBe(one.hello('a'));
  });

  it('refuses a proof without hello, for an earlier challenge, or a second one for the same', () => {
    expect(refused(() => introduction().authenticate(proofFor('')))).toBe('unauthenticated');
    const replaced = introduction();
    const old = replaced.hello('a');
    replaced.hello('a');
    expect(refused(() => replaced.authenticate(proofFor(old)))).toBe('unauthenticated');
    const spent = introduction();
    const challenge = spent.hello('a');
    expect(refused(() => spent.authenticate(proofFor(challenge, 'till-1', Buffer.alloc(32))))).toBe('unauthenticated');
    expect(refused(() => spent.authenticate(proofFor(challenge)))).toBe('unauthenticated');
  });

  it('tells nobody whether a terminal exists: unknown, disabled and wrong secret look alike', () => {
    const texts = [introduction(null), introduction({ ...known, disabled: true }), introduction()].map((one, at) => {
      const challenge = one.hello('a');
      try {
        one.authenticate(at === 2 ? proofFor(challenge, 'till-1', Buffer.alloc(32)) : proofFor(challenge));
      } catch (thrown) {
        return thrown instanceof UkeyError ? `${thrown.code} ${thrown.message} ${one.failures}` : 'foreign';
      }
      return 'accepted';
    });
    expect(new Set(texts).size).toBe(1);
    expect(texts[0]).toContain('unauthenticated');
  });

  it('does not accept the service’s own proof sent back', () => {
    const one = introduction();
    const challenge = one.hello('a');
    expect(
      refused(() => one.authenticate({ terminal: 'till-1', nonce, mac: serviceMac(secret, { challenge, nonce, terminal: 'till-1' }) })),
    ).toBe('unauthenticated');
  });

  it('is decided once', () => {
    const one = introduction();
    one.authenticate(proofFor(one.hello('a')));
    expect(refused(() => one.authenticate(proofFor(one.hello('a'))))).toBe('invalid-request');
    expect(one.need().terminal).toBe('till-1');
  });
});

describe('the doors', () => {
  let world: World;
  beforeAll(async () => {
    world = await openWorld();
  });
  afterAll(() => world[Symbol.asyncDispose]());

  it('answer nothing but hello to a stranger at the till door, not even what methods there are', async () => {
    const peer = new RawPeer(world.till);
    for (const method of ['test.echo', 'test.admin', 'test.nothing', 'events.subscribe']) {
      peer.request(1, method);
      expect(codeOf(await peer.next())).toBe('unauthenticated');
    }
    peer.request(2, 'hello', { version: 1, client: 'raw' });
    expect(await peer.next()).toMatchObject({ kind: 'answer', result: { version: 1, server: 'ukeyd/test', standing: 'issuing-online' } });
    peer.end();
  });

  it('refuse another version of the contract', async () => {
    const peer = new RawPeer(world.till);
    peer.request(1, 'hello', { version: 2, client: 'raw' });
    expect(await peer.next()).toMatchObject({ kind: 'refusal', error: { code: 'invalid-request', field: 'version' } });
    peer.end();
  });

  it.each([
    ['a wrong secret', 'till-1', Buffer.alloc(32)],
    ['an unknown terminal', 'nobody', secret],
    ['a disabled terminal', 'gone', secret],
  ])('refuse %s', async (_, terminal, key) => {
    const peer = new RawPeer(world.till);
    expect(codeOf(await peer.authenticate(terminal, key))).toBe('unauthenticated');
    peer.request(1, 'test.echo');
    expect(codeOf(await peer.next())).toBe('unauthenticated');
    peer.end();
    expect(await refusalOf(world.client({ terminal, secret: key }))).toBe('unauthenticated');
  });

  it('close after the third failure', async () => {
    const peer = new RawPeer(world.till);
    for (let at = 0; at < defaultLimits.authenticationFailures; at++)
      expect(codeOf(await peer.authenticate('till-1', Buffer.alloc(32)))).toBe('unauthenticated');
    await peer.until(() => peer.closed);
  });

  it('close on a stranger that talks too much', async () => {
    const peer = new RawPeer(world.till);
    for (let id = 0; id <= defaultLimits.strangerRequests; id++) peer.request(id, 'hello', { version: 1, client: 'raw' });
    await peer.until(() => peer.closed);
    expect(peer.messages.filter((one) => one.kind === 'answer')).toHaveLength(defaultLimits.strangerRequests);
    expect(codeOf(peer.messages.at(-1) ?? (await peer.next()))).toBe('unauthenticated');
  });

  it('hold a till to its role, and know the administrator by the door', async () => {
    const till = await world.client();
    expect(await refusalOf(callTest(till, 'test.admin'))).toBe('forbidden');
    const admin = await world.client({ socketPath: world.admin, terminal: undefined, secret: undefined });
    expect(await callTest(admin, 'test.admin')).toBe('ok');
    expect(await callTest(admin, 'test.who')).toMatchObject({
      door: 'admin',
      terminal: null,
      label: 'admin',
      client: 'test/1',
      roles: ['admin', 'operator'],
    });
  });

  it('answer an administrator without hello', async () => {
    const peer = new RawPeer(world.admin);
    peer.request(1, 'test.admin');
    expect(await peer.next()).toEqual({ kind: 'answer', id: 1, result: 'ok' });
    peer.end();
  });

  it('let a terminal introduce itself at the admin door as well', async () => {
    const both = await world.client({ socketPath: world.admin });
    expect(both.role).toBe('till');
    const who = { door: 'admin', terminal: 'till-1', roles: ['till', 'admin', 'operator'] };
    // The trail names whose right the door's is: what it does as a terminal, it could have done without.
    expect(await callTest(both, 'test.who')).toMatchObject({ ...who, label: 'admin' });
  });

  it.each([
    ['removed', () => void terminals.delete('till-2')],
    ['enrolled anew', () => void terminals.set('till-2', { id: 'till-2', role: 'till', secret: Buffer.alloc(32, 7) })],
  ])('refuse the next request of a terminal that is %s while it is connected', async (_, change) => {
    await using slow = await openWorld({ limits: { sweepMs: 60_000 } });
    const client = await slow.client({ terminal: 'till-2' });
    expect(await callTest(client, 'test.echo')).toEqual({ value: null });
    change();
    expect(await refusalOf(callTest(client, 'test.echo'))).toBe('unauthenticated');
  });

  it('tell a terminal that was removed no event, and close its connections whether or not they ask', async () => {
    await using slow = await openWorld({ limits: { sweepMs: 60_000 } });
    const listener = new RawPeer(slow.till);
    await listener.authenticate('till-2');
    listener.request(1, 'events.subscribe', {});
    expect((await listener.next()).kind).toBe('answer');
    terminals.delete('till-2');
    slow.service.publish({ event: 'issued', at: '2026-11-30T12:00:00Z', number: 'A-1' });
    await listener.until(() => listener.closed);
    expect(listener.messages.map(codeOf)).toEqual(['unauthenticated']);

    await using quick = await openWorld({ limits: { sweepMs: 20 } });
    const silent = new RawPeer(quick.till);
    await silent.authenticate('till-2');
    terminals.delete('till-2');
    await silent.until(() => silent.closed);
    expect(silent.messages.map(codeOf)).toEqual(['unauthenticated']);
  });
});
