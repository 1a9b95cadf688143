// Owns: the way a test says "this is refused": the code, and the field that is named. Never the text.
import { expect } from 'vitest';
import { type ErrorCode, UkeyError } from '#ipc-schema/errors.ts';

/** Runs it, expects a UkeyError with this code, and gives it back. `context` stands in the failure's message. */
export function refusal(run: () => unknown, code: ErrorCode = 'invalid-request', context = ''): UkeyError {
  let thrown: unknown;
  try {
    run();
  } catch (error) {
    thrown = error;
  }
  expect(thrown, `${context} is accepted, or refused by something else`).toBeInstanceOf(UkeyError);
  const error = thrown as UkeyError;
  expect(error.code, context).toBe(code);
  return error;
}
