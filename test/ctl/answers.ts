// Owns: answers that a service gives in these tests, whole and of the contract's form.
import type { Issued } from '#ipc-schema/issued.ts';
import type { BacklogStatus, ServiceStatus, TokenStatus } from '#ipc-schema/status.ts';
import { builtDocument } from '#test/support/batch-builder.ts';

export const backlogAnswer: BacklogStatus = {
  pending: 2,
  oldest: '2030-01-02T03:04:05Z',
  amount: '30.60',
  link: 'down',
  lastAttempt: '2030-01-02T03:05:00Z',
  lastError: 'no answer in time',
  parked: [],
  nextProbe: '2030-01-02T03:05:15Z',
};

export const budget = { hoursLeft: 71.5, countLeft: 998, amountLeft: '99969.40', single: '5000', usedPercent: 0 };

export const tokenAnswer: TokenStatus = {
  module: 'embedded soft token',
  label: 'shop-7',
  serial: '00000001',
  model: 'soft',
  tokenId: 'ab'.repeat(16),
  certificateExpires: '2033-01-02T03:04:05Z',
  triesLeft: 3,
  pinState: 'ok',
  storedPin: 'none',
  signatures: 5,
  meanSignMs: 0.25,
  signFailures: 0,
  restarts: 0,
  lastFailure: null,
  lastFailureAt: null,
  selfTestAt: null,
};

export const statusAnswer: ServiceStatus = {
  standing: 'issuing-offline',
  reason: 'the ticket server does not answer',
  action: '',
  token: tokenAnswer,
  usb: null,
  store: {
    path: '/var/lib/ukeyd/flash.img',
    sizeBytes: 268_435_456,
    usedBytes: 1_048_576,
    usedPercent: 0,
    capacityBytes: 1_000_000,
    freeBytes: 1_000_000,
    bytesWritten: 0,
    forecast: { kind: 'unknown' },
    batches: 5,
    entries: 7,
    tornBytes: 0,
    mirror: 'off',
    mirrorState: null,
  },
  templates: [{ id: 'retail', version: 1, currency: 'GBP' }],
  issuer: { taxId: 'GB123456789', name: 'Example Gifts Ltd' },
  mode: 'hybrid',
  budget,
  backlog: backlogAnswer,
  alarm: null,
  clock: { now: '2030-01-02T03:05:10Z', trusted: true, floor: null },
  version: '0.1.0',
};

export const issuedDocument = builtDocument('ab'.repeat(16), 3, Date.parse('2030-01-02T03:04:05.678Z'));

export const issuedAnswer: Issued = {
  number: issuedDocument.number,
  sequence: 3,
  issuedAt: issuedDocument.issuedAt,
  currency: 'GBP',
  total: issuedDocument.total,
  taxTotal: issuedDocument.taxTotal,
  document: JSON.stringify(issuedDocument),
  evidence: 'gwEC',
  qr: 'https://verify.example/e#GMZTGMZTGMZTGMZT',
  delivery: 'pending',
  repeated: false,
  budget,
};
