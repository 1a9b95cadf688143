// Owns: the vectors of charters and templates, of the error table and of the handshake.
import { errorTable } from '#ipc-schema/errors.ts';
import { clientMac, serviceMac } from '#ipc-schema/handshake.ts';
import { bad } from './shape.ts';
import * as world from './world.ts';

const { hex, unhex } = world;

export function documentVectors(): Record<string, unknown> {
  const text = (value: unknown): Uint8Array =>
    new Uint8Array(Buffer.from(typeof value === 'string' ? value : JSON.stringify(value), 'utf8'));
  const authority = (name: string, field: string | null, value: unknown) => ({
    ...bad(name, world.signed('authority', text(value))),
    field,
  });
  const { charter, template } = world;
  const [first, second] = charter.series;
  const limits = (change: object): object => ({ ...charter, limits: { ...charter.limits, ...change } });
  return {
    'charter.json': {
      description: 'Charters: COSE_Sign1 by the authority; payload UTF-8 JSON. field: what the refusal names.',
      authorityKey: hex(world.spkiOf('authority')),
      valid: [
        { name: 'charter', bytes: hex(world.signedCharter), serial: 1 },
        {
          name: 'charter that locks an idle token',
          bytes: hex(world.signed('authority', text({ ...charter, lockAfterIdleMinutes: 30 }))),
          serial: 1,
        },
      ],
      invalid: [
        { ...bad('signed by another', world.signed('stranger', text(charter))), field: null },
        authority('not JSON', null, '{'),
        authority('a key twice', 'serial', JSON.stringify(charter).replace('"serial":1', '"serial":1,"serial":2')),
        authority('another format', 'format', { ...charter, format: 'ukey-charter/2' }),
        authority('an unknown member', 'extra', { ...charter, extra: 1 }),
        authority('a member missing', 'currency', { ...charter, currency: undefined }),
        authority('token id in upper case', 'tokenId', { ...charter, tokenId: charter.tokenId.toUpperCase() }),
        authority('a limit as a number', 'limits.amount', limits({ amount: 250_000 })),
        authority('a limit of zero', 'limits.single', limits({ single: '0.00' })),
        authority('count not whole', 'limits.count', limits({ count: 1.5 })),
        authority('no series', 'series', { ...charter, series: [] }),
        authority('a series that ends before it begins', 'series', { ...charter, series: [{ ...first, first: 10, last: 9 }] }),
        authority('a series that outgrows its digits', 'series', { ...charter, series: [{ ...first, last: 1_000_000 }] }),
        authority('two series that print the same number', 'series', { ...charter, series: [first, { ...second, prefix: 'A' }] }),
        authority('a prefix that runs into another', 'series', {
          ...charter,
          series: [first, { ...second, prefix: 'A1', digits: 5, last: 99_999 }],
        }),
        authority('locks at once', 'lockAfterIdleMinutes', { ...charter, lockAfterIdleMinutes: 0 }),
        authority('server without TLS', 'server.url', { ...charter, server: { ...charter.server, url: 'http://tickets.example' } }),
        authority('verification URL with a fragment', 'verifyUrl', { ...charter, verifyUrl: 'https://verify.example/#x' }),
        authority('verification URL that is a script', 'verifyUrl', { ...charter, verifyUrl: 'javascript:alert(1)' }),
        authority('ends before it begins', 'validUntil', { ...charter, validUntil: '2025-01-01T00:00:00Z' }),
        authority('an instant without an offset', 'validFrom', { ...charter, validFrom: '2026-01-01T00:00:00' }),
      ],
    },
    'template.json': {
      description: 'Templates: COSE_Sign1 by the authority; payload UTF-8 JSON. field: what the refusal names.',
      authorityKey: hex(world.spkiOf('authority')),
      valid: [{ name: 'template', bytes: hex(world.signedTemplate), id: 'retail' }],
      invalid: [
        { ...bad('signed by another', world.signed('stranger', text(template))), field: null },
        authority('a charter', 'format', charter),
        authority('a rate as a number', 'taxes[0].rate', { ...template, taxes: [{ code: 'S', rate: 20, label: 'VAT' }] }),
        authority('a rate below zero', 'taxes[0].rate', { ...template, taxes: [{ code: 'S', rate: '-1', label: 'VAT' }] }),
        authority('a tax code twice', 'taxes', { ...template, taxes: [template.taxes[0], template.taxes[0]] }),
        authority('a default tax that is not listed', 'defaultTax', { ...template, defaultTax: 'X' }),
        authority('rounding up', 'rounding', { ...template, rounding: 'up' }),
        authority('ends before it begins', 'validUntil', { ...template, validUntil: '2026-01-01T00:00:00Z' }),
      ],
    },
  };
}

export function errorVectors(): unknown {
  return {
    description: 'The closed table of error codes; invalid: what is no code of it.',
    valid: Object.entries(errorTable).map(([name, rule]) => ({ name, ...rule })),
    invalid: ['', 'Locked', 'locked ', 'toString', '__proto__', 'constructor'].map((name) => ({ name, code: 'internal' })),
  };
}

export function handshakeVectors(): unknown {
  const secret = hex(Uint8Array.from({ length: 32 }, (_, at) => at));
  const handshake = { challenge: 'a0'.repeat(32), nonce: 'b1'.repeat(32), terminal: 'till-1' };
  const bytes = unhex(secret);
  return {
    description:
      'The handshake: mac = hex HMAC-SHA-256(secret, "ukeyd/1 client\\n" + challenge + "\\n" + nonce + "\\n" + terminal); the answer says server.',
    secret,
    ...handshake,
    valid: [
      { name: 'client', mac: clientMac(bytes, handshake) },
      { name: 'server', mac: serviceMac(bytes, handshake) },
    ],
    invalid: [
      { name: "the client's mac as the service's", side: 'server', mac: clientMac(bytes, handshake), code: 'unauthenticated' },
      { name: 'upper case', side: 'client', mac: clientMac(bytes, handshake).toUpperCase(), code: 'unauthenticated' },
      { name: 'cut', side: 'client', mac: clientMac(bytes, handshake).slice(0, 62), code: 'unauthenticated' },
      {
        name: 'another challenge',
        side: 'client',
        mac: clientMac(bytes, { ...handshake, challenge: 'a1'.repeat(32) }),
        code: 'unauthenticated',
      },
      { name: 'another terminal', side: 'client', mac: clientMac(bytes, { ...handshake, terminal: 'till-2' }), code: 'unauthenticated' },
    ],
  };
}
