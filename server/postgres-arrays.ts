// Owns: values as PostgreSQL reads them in a parameter: whole columns of many rows, written once as text. Pure.
// Invariants: every text can be sent: PostgreSQL's texts hold no NUL, so one is sent as U+FFFD; the exact text stands in the batch's bytes.

const numbersOnly = /^[\w.-]*$/;

export function textValue(text: string): string {
  return text.includes('\0') ? text.replaceAll('\0', '\uFFFD') : text;
}

/** PostgreSQL's manual, "Array Input and Output Syntax". */
export function textArray(values: readonly (string | null)[]): string {
  return `{${values.map((value) => (value === null ? 'NULL' : quoted(textValue(value)))).join(',')}}`;
}

export function countArray(values: readonly number[]): string {
  return `{${values.join(',')}}`;
}

export function bytesArray(values: readonly Uint8Array[]): string {
  return `{${values.map((value) => `"\\\\x${Buffer.from(value.buffer, value.byteOffset, value.length).toString('hex')}"`).join(',')}}`;
}

/** Quotes also keep an empty text and the word NULL what they are. */
function quoted(text: string): string {
  return numbersOnly.test(text) ? `"${text}"` : `"${text.replaceAll(/["\\]/g, '\\$&')}"`;
}
