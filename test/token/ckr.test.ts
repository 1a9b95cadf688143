// The table of return values, against pkcs11js and against the rules that must hold in it.
import { describe, expect, test } from 'vitest';
import { isErrorCode } from '#ipc-schema/errors.ts';
import { CkrError, ckrTable, lookUpCkr, reactionOf } from '#token/ckr.ts';
import { CK } from '#token/cryptoki.ts';
import { packageConstants } from '#token/pkcs11.ts';

const rows = Object.entries(ckrTable);
/** In the standard, but not among pkcs11js's constants. */
const notInPackage = [
  'CKR_ACTION_PROHIBITED',
  'CKR_AEAD_DECRYPT_FAILED',
  'CKR_CURVE_NOT_SUPPORTED',
  'CKR_TOKEN_RESOURCE_EXCEEDED',
  'CKR_OPERATION_CANCEL_FAILED',
];

describe('the table of CKR codes', () => {
  test('has every CKR_ constant of pkcs11js, with its value, and those of the standard besides', () => {
    const theirs = Object.entries(packageConstants).filter(([name]) => name.startsWith('CKR_'));
    expect(theirs.length).toBeGreaterThan(85);
    const ours = new Map<string, number>(rows.map(([name, { value }]) => [name, value]));
    for (const [name, value] of theirs) expect([name, ours.get(name)]).toEqual([name, value]);
    expect(rows.map(([name]) => name).filter((name) => !(name in packageConstants))).toEqual(notInPackage);
  });

  test('has each value once', () => {
    expect(new Set(rows.map(([, { value }]) => value)).size).toBe(rows.length);
  });

  test('gives every number a reaction and a code of the error table', () => {
    for (const value of [...rows.map(([, row]) => row.value), 4, 0x7fffffff, 0x80000000, 0xce534351, 2 ** 40]) {
      const { reaction, code, name } = lookUpCkr(value);
      expect(isErrorCode(code)).toBe(true);
      expect(name).toMatch(/^CKR_/u);
      expect(reaction).toBeDefined();
    }
    expect(lookUpCkr(0x80000000)).toMatchObject({ reaction: 'retry-session', code: 'token-failed' });
  });

  test.each([
    'CKR_GENERAL_ERROR',
    'CKR_DEVICE_ERROR',
    'CKR_DEVICE_REMOVED',
    'CKR_SESSION_HANDLE_INVALID',
    'CKR_OBJECT_HANDLE_INVALID',
    'CKR_KEY_HANDLE_INVALID',
    'CKR_TOKEN_NOT_PRESENT',
    'CKR_CRYPTOKI_NOT_INITIALIZED',
    'CKR_OPERATION_ACTIVE',
    'CKR_FUNCTION_CANCELED',
  ] as const)('%s means that the session is lost', (name) => {
    expect(ckrTable[name].reaction).toBe('retry-session');
  });

  test('never repeats what concerns a PIN', () => {
    for (const [name, { reaction }] of rows) {
      if (/PIN_(INCORRECT|INVALID|LEN_RANGE|EXPIRED|LOCKED|TOO_WEAK)/u.test(name)) expect([name, reaction]).toEqual([name, 'pin']);
    }
    expect(ckrTable.CKR_PIN_LOCKED.code).toBe('pin-locked');
    expect(ckrTable.CKR_PIN_INCORRECT.code).toBe('pin-incorrect');
    expect(ckrTable.CKR_USER_NOT_LOGGED_IN).toMatchObject({ reaction: 'login-again', code: 'locked' });
  });

  test('an error knows its row, and keeps its cause', () => {
    const cause = new Error('below');
    const error = new CkrError('C_Sign', 0x32, cause);
    expect(error).toMatchObject({ code: 'no-token', ckr: 0x32, ckrName: 'CKR_DEVICE_REMOVED', reaction: 'retry-session', cause });
    expect(reactionOf(error)).toBe('retry-session');
    expect(reactionOf(cause)).toBeNull();
  });
});

describe('the constants that this room names', () => {
  test('are those of pkcs11js, but for three that it does not have', () => {
    const missing: string[] = [];
    for (const [name, value] of Object.entries(CK)) {
      if (name in packageConstants) expect([name, packageConstants[name]]).toEqual([name, value]);
      else missing.push(name);
    }
    expect(missing).toEqual(['CKS_RO_USER_FUNCTIONS', 'CKS_RW_USER_FUNCTIONS', 'CKZ_DATA_SPECIFIED']);
  });
});
