// Owns: what remains of originals that credit notes take back from, for those in use. Amounts of credit notes on their way are reserved.
// Invariants: an original is loaded (its total and what was credited before) before a draft that corrects it is pooled; a reservation is given
// back only when its batch is known not to be written; nothing with a reservation on its way is forgotten.
import { type Money, money } from '#ipc-schema/money.ts';

interface Book {
  readonly total: Money;
  credited: Money;
  users: number;
}

export class CreditBook {
  readonly #books = new Map<number, Book>();

  has(sequence: number): boolean {
    return this.#books.has(sequence);
  }

  /** What the original came to, and what was credited before. Keeps what is known already: it is newer. */
  load(sequence: number, total: string, credited: readonly string[]): void {
    if (this.#books.has(sequence)) return;
    const sum = credited.reduce((so, amount) => so.plus(money(amount)), money('0'));
    this.#books.set(sequence, { total: money(total), credited: sum, users: 0 });
  }

  /** A request holds the book open from before it is loaded until it is answered. */
  hold(sequence: number): void {
    this.#of(sequence).users += 1;
  }

  letGo(sequence: number): void {
    const book = this.#books.get(sequence);
    if (book === undefined) return;
    book.users -= 1;
    if (book.users === 0) this.#books.delete(sequence); // the index knows all of it once the caller is answered and the row is written
  }

  remaining(sequence: number): string {
    const book = this.#of(sequence);
    return book.total.minus(book.credited).toFixed();
  }

  /** false: more than remains. */
  reserve(sequence: number, amount: string): boolean {
    const book = this.#of(sequence);
    const after = book.credited.plus(money(amount));
    if (after.greaterThan(book.total)) return false;
    book.credited = after;
    return true;
  }

  giveBack(sequence: number, amount: string): void {
    const book = this.#books.get(sequence);
    if (book !== undefined) book.credited = book.credited.minus(money(amount));
  }

  clear(): void {
    this.#books.clear();
  }

  #of(sequence: number): Book {
    const book = this.#books.get(sequence);
    if (book === undefined) throw new Error(`credit book ${sequence} is not open`);
    return book;
  }
}
