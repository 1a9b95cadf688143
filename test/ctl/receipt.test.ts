import { describe, expect, it } from 'vitest';
import { columnsOf, cut, leftRight, wrap } from '#ctl/columns.ts';
import { barText, openProgress } from '#ctl/progress.ts';
import { qrCode } from '#ctl/qr-code.ts';
import { receiptColumns, receiptText } from '#ctl/receipt.ts';
import type { InvoiceDocument } from '#ipc-schema/invoice.ts';
import { builtDocument } from '#test/support/batch-builder.ts';
import { refusal } from '#test/support/refusal.ts';
import { modulesOf, readQr } from './qr-reader.ts';

const invoice = builtDocument('ab'.repeat(16), 3, Date.parse('2030-01-02T03:04:05.678Z'));
const creditNote: InvoiceDocument = {
  ...invoice,
  kind: 'credit-note',
  number: 'C-00000001',
  soldAt: '2030-01-01T12:00:00+08:00',
  buyer: { name: 'Müller & Söhne GmbH', taxId: 'DE999999999', address: ['Hauptstraße 1', '10115 Berlin'], country: 'Germany' },
  lines: [
    { description: 'Čaj, 紅茶 ☕', quantity: '1', unitPrice: '4', taxCode: 'zero', amount: '4.00', tax: '0.00' },
    {
      description: 'A description that is far too long for one line of paper',
      quantity: '1.250',
      unitPrice: '0.845',
      discount: '0.05',
      taxCode: 'standard',
      amount: '1.01',
      tax: '0.17',
    },
    { description: `${'x'.repeat(50)}`, quantity: '1', unitPrice: '1', taxCode: 'zero', amount: '1.00', tax: '0.00' },
  ],
  taxes: [
    { code: 'standard', rate: '20', net: '0.84', tax: '0.17' },
    { code: 'zero', rate: '0', net: '5.00', tax: '0.00' },
  ],
  total: '6.01',
  taxTotal: '0.17',
  payments: [{ method: 'cash', amount: '6.01' }],
  corrects: { number: 'A-00000003', reason: 'returned' },
};

describe('a receipt', () => {
  it('of an invoice', () => {
    expect(receiptText(JSON.stringify(invoice))).toMatchInlineSnapshot(`
      "            Example Gifts Ltd
                    1 High Street
                        London
                     GB123456789

                       INVOICE
      Number                          A-00000003
      Issued                2030-01-02 03:04:05Z
      ------------------------------------------
      WHITE HANGING HEART T-LIGHT HOLDER 0
        6 x 2.55                           15.30
      ------------------------------------------
      TOTAL                            GBP 15.30
      standard 20% of 12.75                 2.55
      Tax included                          2.55
      ------------------------------------------
      Token     abababababababababababababababab
      Sequence                                 3
      "
    `);
  });

  it('of a credit note with all that a document can hold', () => {
    expect(receiptText(JSON.stringify(creditNote))).toMatchInlineSnapshot(`
      "            Example Gifts Ltd
                    1 High Street
                        London
                     GB123456789

                     CREDIT NOTE
      Number                          C-00000001
      Issued                2030-01-02 03:04:05Z
      Sold             2030-01-01 12:00:00+08:00
      Corrects                        A-00000003
      Reason                            returned
      Buyer                  Müller & Söhne GmbH
      Tax id                         DE999999999
      Address                      Hauptstraße 1
                                    10115 Berlin
      Country                            Germany
      ------------------------------------------
      Čaj, 紅茶 ☕                          4.00
      A description that is far too long for one
      line of paper
        1.250 x 0.845 - 0.05                1.01
      xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
      xxxxxxxx
        1 x 1                               1.00
      ------------------------------------------
      TOTAL                             GBP 6.01
      standard 20% of 0.84                  0.17
      zero 0% of 5.00                       0.00
      Tax included                          0.17
      cash                                  6.01
      ------------------------------------------
      Token     abababababababababababababababab
      Sequence                                 3
      "
    `);
  });

  it('has no line wider than its paper', () => {
    for (const document of [invoice, creditNote]) {
      for (const line of receiptText(JSON.stringify(document)).split('\n')) expect(columnsOf(line)).toBeLessThanOrEqual(receiptColumns);
    }
  });

  it('lets no control character of a document through', () => {
    const nasty = { ...invoice, issuer: { ...invoice.issuer, name: 'ACME\u009b2J\u202e' } };
    expect(receiptText(JSON.stringify(nasty))).not.toMatch(/[^\P{Cc}\n]|\u202e/u);
  });

  it('is made of documents only', () => {
    refusal(() => receiptText('{}'));
    refusal(() => receiptText('no JSON'));
  });

  it('prints the text of a QR code that the terminal is too narrow for', () => {
    const qr = `https://verify.example/e#${'A'.repeat(80)}`;
    const narrow = receiptText(JSON.stringify(invoice), { qr, widthColumns: 40 });
    expect(narrow).not.toContain('▀');
    expect(narrow.replaceAll('\n', '')).toContain(qr);
    expect(receiptText(JSON.stringify(invoice), { qr, widthColumns: 200 })).toContain('▀');
  });
});

describe('a QR code', () => {
  it('holds the URL as bytes and the evidence alphanumerically', () => {
    const code = qrCode('https://verify.example/e#GMZTGMZTGMZTGMZT');
    expect(readQr(modulesOf(code?.rows(false) ?? []))).toEqual([
      { mode: 'byte', text: 'https://verify.example/e#' },
      { mode: 'alphanumeric', text: 'GMZTGMZTGMZTGMZT' },
    ]);
  });

  it('without a URL is alphanumeric as a whole', () => {
    expect(readQr(modulesOf(qrCode('UKEY1:GMZTG')?.rows(false) ?? []))).toEqual([{ mode: 'alphanumeric', text: 'UKEY1:GMZTG' }]);
  });

  it('is drawn the same with colours, black on white', () => {
    const code = qrCode('UKEY1:GMZTG');
    expect(code?.rows(true)).toEqual(code?.rows(false).map((row) => `\u001b[30;107m${row}\u001b[0m`));
  });

  it('takes the longest evidence, and is none when the text is too long', () => {
    expect(qrCode(`https://verify.example/e#${'A'.repeat(4_000)}`)?.widthColumns).toBe(181);
    expect(qrCode(`UKEY1:${'A'.repeat(5_000)}`)).toBeNull();
  });
});

describe('columns', () => {
  it('count wide characters twice and combining marks not at all', () => {
    expect(['abc', 'é', 'e\u0301', '紅茶', '☕', ''].map(columnsOf)).toEqual([3, 1, 1, 4, 2, 0]);
  });

  it('break at spaces, and inside words that are too long', () => {
    expect(wrap('one two three', 7)).toEqual(['one two', 'three']);
    expect(wrap('abcdefghij', 4)).toEqual(['abcd', 'efgh', 'ij']);
    expect(cut('紅茶紅茶', 3)).toEqual(['紅', '茶', '紅', '茶']);
    expect(wrap('', 5)).toEqual(['']);
  });

  it('put a figure at the right end, or on its own line', () => {
    expect(leftRight('tea', '1.00', 10)).toEqual(['tea   1.00']);
    expect(leftRight('a long name', '1.00', 11)).toEqual(['a long name', '       1.00']);
  });
});

describe('progress', () => {
  it('shows how far it is', () => {
    expect(barText('Verifying', 15, 30, 2_400)).toBe('Verifying  [###############...............] 50%  15/30  2 s');
    expect(barText('Verifying', 15, null, 0)).toBe('Verifying  15  0 s');
    expect(barText('Verifying', 31, 30, 0)).toContain('100%');
  });

  it('is silent where there is no terminal, draws seldom on one, and wipes itself', () => {
    const written: string[] = [];
    const stream = (isTTY: boolean) =>
      ({ isTTY, columns: 80, write: (text: string) => written.push(text) }) as unknown as NodeJS.WriteStream;
    const silent = openProgress('x', 10, stream(false));
    silent.show(1);
    silent.end();
    expect(written).toEqual([]);
    const shown = openProgress('x', 1_000_000, stream(true));
    for (let at = 0; at < 10_000; at++) shown.show(at);
    expect(written.length).toBeGreaterThan(0);
    expect(written.length).toBeLessThan(20);
    shown.end();
    expect(written.at(-1)).toBe('\r\u001b[K');
  });
});
