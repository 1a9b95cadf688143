// Owns: what remains of originals that credit notes take back from, for those in use. Amounts of credit notes on their way are reserved.
// Invariants: a book exists from before it is loaded until the last request that holds it is answered, and is loaded once for all of them, so that
// no credit note can be committed between the reading of the earlier ones and the reservation of the next; a reservation is given back only when
// its batch is known not to be written. A book that nobody holds is forgotten: by then the index knows all of it.
import { type Money, money, zero } from '#ipc-schema/money.ts';

/** What the original came to, and what was credited before. */
export interface CreditHistory {
  readonly total: string;
  readonly credited: readonly string[];
}

interface Book {
  /** null until it is loaded. */
  total: Money | null;
  credited: Money;
  holders: number;
  readonly loaded: Promise<void>;
}

export class CreditBook {
  readonly #books = new Map<number, Book>();

  get size(): number {
    return this.#books.size;
  }

  /** Holds the book open; whoever holds first loads it. Rejects with what `load` rejects; then nothing is held. */
  async hold(sequence: number, load: () => Promise<CreditHistory>): Promise<void> {
    const book = this.#books.get(sequence) ?? this.#begin(sequence, load);
    book.holders += 1;
    try {
      await book.loaded;
    } catch (error) {
      this.letGo(sequence);
      throw error;
    }
  }

  letGo(sequence: number): void {
    const book = this.#books.get(sequence);
    if (book === undefined) return;
    book.holders -= 1;
    if (book.holders === 0) this.#books.delete(sequence);
  }

  remaining(sequence: number): string {
    const { total, credited } = this.#of(sequence);
    return total.minus(credited).toFixed();
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

  #begin(sequence: number, load: () => Promise<CreditHistory>): Book {
    const book: Book = {
      total: null,
      credited: zero,
      holders: 0,
      loaded: load().then((history) => {
        book.total = money(history.total);
        book.credited = history.credited.reduce((sum, amount) => sum.plus(money(amount)), book.credited);
      }),
    };
    this.#books.set(sequence, book);
    return book;
  }

  #of(sequence: number): Book & { readonly total: Money } {
    const book = this.#books.get(sequence);
    if (book === undefined || book.total === null) throw new Error(`credit book ${sequence} is not open`);
    return book as Book & { readonly total: Money };
  }
}
