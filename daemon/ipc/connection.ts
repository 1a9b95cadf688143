// Owns: one open connection: frames in, at most so many at a time; answers and events out, joined into one write per turn of
// the loop; and its end.
// Invariants: nothing a peer does grows without a bound (limits.ts); every request gets exactly one answer while the
// connection lives; a frame that belongs to no request is answered with id null and ends the connection, in that order.
// Reading stops (back-pressure, no loss) while too many requests are open or too little output is taken.
// Must not: know what a method means; that is the host's.

import { during } from '#ground/asking.ts';
import { type Introduction, noLonger } from '#ipc/caller.ts';
import type { Limits } from '#ipc/limits.ts';
import type { Wire, WireSink } from '#ipc/listen.ts';
import {
  decodeFrame,
  type EventNotice,
  encodeAnswer,
  encodeEvent,
  encodeRefusal,
  type Request,
  type RequestId,
} from '#ipc-schema/envelope.ts';
import { asUkeyError, type ErrorCode, UkeyError, unreachable } from '#ipc-schema/errors.ts';
import { FrameCutter } from '#ipc-schema/frame-cutter.ts';
import { jsonLimits } from '#ipc-schema/json.ts';

/** What a connection needs of the room. */
export interface ConnectionHost {
  readonly limits: Limits;
  nowMs(): number;
  /** A value at once, or a promise of one; a refusal is thrown. */
  dispatch(connection: Connection, request: Request, frameBytes: number): unknown;
  /** Something has arrived: calls `turn` at once (true), or when it is this connection's. */
  comes(connection: Connection): boolean;
  /** Calls `turn` when it is this connection's. */
  awaitTurn(connection: Connection): void;
  /** A request that `dispatch` had promised to answer has ended. */
  settled(connection: Connection, frameBytes: number): void;
  /** An error that is not ours to tell a stranger; answers what may be told. */
  disclose(thrown: unknown, method: string): UkeyError;
  /** An answer is on its way; `code` null: no refusal. Called while the request is still the one that is worked on. */
  answered(connection: Connection, asked: Asked, code: ErrorCode | null): void;
  closed(connection: Connection, why: string | null): void;
}

/** A request and since when it is known. */
export interface Asked {
  readonly id: RequestId;
  readonly method: string;
  readonly sinceMs: number;
}

export class Connection implements WireSink {
  /** Counts the connections since the start. */
  readonly number: number;
  readonly introduction: Introduction;
  /** Names of the events that are sent; null before events.subscribe. */
  subscription: ReadonlySet<string> | null = null;

  readonly #host: ConnectionHost;
  readonly #wire: Wire;
  readonly #cutter = new FrameCutter();
  readonly #openedMs: number;
  readonly #flushSoon = (): void => this.#flush();
  #out: string[] = [];
  #outChars = 0;
  #inFlight = 0;
  #inFlightBytes = 0;
  #requests = 0;
  #strangerRequests = 0;
  #lostEvents = 0;
  #waitsForTurn = false;
  #paused = false;
  #peerEnded = false;
  #gone = false;
  #why: string | null = null;
  /** Since when: the last word was said; a frame has begun and not ended; output has not been taken. */
  #closingMs: number | null = null;
  #frameMs: number | null = null;
  #outputMs: number | null = null;
  #sentChars = 0;
  #takenChars = 0;

  constructor(number: number, wire: Wire, introduction: Introduction, host: ConnectionHost) {
    this.number = number;
    this.#wire = wire;
    this.introduction = introduction;
    this.#host = host;
    this.#openedMs = host.nowMs();
  }

  /** Who shares a turn. A stranger has its own: a few small requests, and then it is somebody or gone. */
  get group(): string {
    return this.introduction.group ?? `stranger ${this.number}`;
  }

  get isStranger(): boolean {
    return this.introduction.caller === null;
  }

  get isClosing(): boolean {
    return this.#closingMs !== null;
  }

  // --- input ---

  onBytes(chunk: Buffer): void {
    if (this.#closingMs !== null) return;
    this.#cutter.push(chunk);
    if (this.#waitsForTurn || this.#isBlocked()) this.#setPaused(true);
    else if (!this.#host.comes(this)) {
      this.#waitsForTurn = true;
      this.#setPaused(true);
    }
  }

  /** Handles some of what has arrived, then lets others have their turn. */
  turn(): void {
    this.#waitsForTurn = false;
    const { framesPerTurn, bytesPerTurn } = this.#host.limits;
    for (let frames = 0, bytes = 0; frames < framesPerTurn && bytes < bytesPerTurn && this.#canGoOn(); frames++) {
      const frameBytes = this.#handleFrame();
      if (frameBytes === null) break;
      bytes += frameBytes;
    }
    if (this.#closingMs !== null) return;
    if (this.#cutter.unfinishedBytes === 0) this.#frameMs = null;
    else this.#frameMs ??= this.#host.nowMs();
    this.#setPaused(this.#cutter.hasUnread);
    this.#goOn();
  }

  onDrain(): void {
    this.#goOn();
  }

  onEnd(): void {
    this.#peerEnded = true;
    this.#goOn();
  }

  onClosed(): void {
    this.#gone = true;
    this.#closingMs ??= this.#host.nowMs();
    this.#out = [];
    this.#host.closed(this, this.#why);
  }

  #canGoOn(): boolean {
    return this.#closingMs === null && !this.#isBlocked();
  }

  #isBlocked(): boolean {
    const { requestsPerConnection, requestBytesPerConnection, outputHighBytes } = this.#host.limits;
    if (this.#inFlight >= requestsPerConnection || this.#inFlightBytes >= requestBytesPerConnection) return true;
    return this.#pendingBytes() > outputHighBytes;
  }

  /** After each change: ask for a turn when there is something to do and nothing in the way; end when all is done. */
  #goOn(): void {
    if (this.#waitsForTurn || !this.#canGoOn()) return;
    if (this.#cutter.hasUnread) {
      this.#waitsForTurn = true;
      this.#host.awaitTurn(this);
    } else if (this.#peerEnded && this.#inFlight === 0) {
      this.finish();
    }
  }

  #setPaused(paused: boolean): void {
    if (this.#paused === paused) return;
    this.#paused = paused;
    if (paused) this.#wire.pause();
    else this.#wire.resume();
  }

  /** Bytes of the frame that was handled; null: there was none. */
  #handleFrame(): number | null {
    const maxBytes = this.isStranger ? this.#host.limits.strangerFrameBytes : this.#host.limits.frameBytes;
    let frame: Buffer | null;
    try {
      frame = this.#cutter.take(maxBytes);
    } catch (thrown) {
      this.#lastWord(asUkeyError(thrown));
      return null;
    }
    if (frame === null) return null;
    this.#frameMs = null; // whatever has begun behind it has just begun
    const message = decodeFrame(frame, { maxBytes, maxDepth: jsonLimits.maxDepth });
    switch (message.kind) {
      case 'request':
        this.#requests += 1;
        this.#during(message, () => this.#handleRequest(message, frame.length));
        return frame.length;
      case 'malformed':
        // What is wrong may quote the caller, who is told it; the log is not.
        if (message.id === null) this.#lastWord(message.error, 'a frame that is no request');
        else this.#push(encodeRefusal(message.id, message.error));
        return frame.length;
      case 'answer':
      case 'refusal':
      case 'event':
        this.#lastWord(new UkeyError('invalid-request', 'a client sends requests only', { field: 'data.method' }));
        return frame.length;
      default:
        return unreachable(message);
    }
  }

  #during({ id }: Request, act: () => void): void {
    during({ connection: this.number, id, place: this.#requests, group: this.group }, act);
  }

  #handleRequest(request: Request, frameBytes: number): void {
    const asked = { id: request.id, method: request.method, sinceMs: this.#host.nowMs() };
    try {
      if (this.isStranger && ++this.#strangerRequests > this.#host.limits.strangerRequests)
        throw new UkeyError('unauthenticated', 'too many requests before authenticate');
      const result = this.#host.dispatch(this, request, frameBytes);
      if (!(result instanceof Promise)) {
        this.#answer(asked, result);
        return;
      }
      this.#inFlight++;
      this.#inFlightBytes += frameBytes;
      result.then(
        (value) => this.#settle(frameBytes, () => this.#answer(asked, value)),
        (thrown: unknown) => this.#settle(frameBytes, () => this.#refuse(asked, thrown)),
      );
    } catch (thrown) {
      this.#refuse(asked, thrown);
      const spent =
        this.#strangerRequests > this.#host.limits.strangerRequests ||
        this.introduction.failures >= this.#host.limits.authenticationFailures;
      if (this.isStranger && spent) this.#finishBecause('too many failures before authenticate');
    }
  }

  #settle(frameBytes: number, reply: () => void): void {
    this.#inFlight--;
    this.#inFlightBytes -= frameBytes;
    this.#host.settled(this, frameBytes);
    reply();
    this.#goOn();
  }

  // --- output ---

  #answer(asked: Asked, result: unknown): void {
    let frame: string;
    try {
      frame = encodeAnswer(asked.id, result);
      const { answerBytes } = this.#host.limits;
      if (frame.length * 3 > answerBytes && Buffer.byteLength(frame) > answerBytes)
        throw new UkeyError('too-large', `the answer has more than ${answerBytes} bytes: ask for less`);
    } catch (thrown) {
      this.#refuse(asked, thrown);
      return;
    }
    this.#push(frame);
    this.#host.answered(this, asked, null);
  }

  #refuse(asked: Asked, thrown: unknown): void {
    const error = this.#host.disclose(thrown, asked.method);
    this.#push(encodeRefusal(asked.id, error));
    this.#host.answered(this, asked, error.code);
  }

  /** `frame` is the notice already encoded, once for all subscribers. */
  sendEvent(notice: EventNotice, frame: string): void {
    if (this.subscription === null || !this.subscription.has(notice.event)) return;
    const only = this.introduction.caller?.token ?? null;
    if (only !== null && notice['token'] !== only) return; // another issuer's business
    if (!this.introduction.holds()) {
      this.turnAway(noLonger());
      return;
    }
    if (this.#pendingBytes() > this.#host.limits.outputHighBytes) {
      this.#lostEvents++;
      return;
    }
    this.#push(this.#lostEvents === 0 ? frame : encodeEvent({ ...notice, lost: this.#lostEvents }));
    this.#lostEvents = 0;
  }

  #pendingBytes(): number {
    return this.#outChars + this.#wire.pendingBytes;
  }

  /** All frames of one turn of the loop go out in one write, still in the same turn: next ticks run when no promise is left to settle. */
  #push(frame: string): void {
    if (this.#gone || this.#closingMs !== null) return;
    if (this.#out.length === 0) process.nextTick(this.#flushSoon);
    this.#out.push(frame);
    this.#outChars += frame.length;
    if (this.#pendingBytes() > this.#host.limits.outputMaxBytes) this.#destroyBecause('more output waited than may wait');
  }

  #flush(): void {
    if (this.#out.length === 0) return;
    const frames = this.#out.length === 1 ? (this.#out[0] ?? '') : this.#out.join('');
    this.#out = [];
    this.#outChars = 0;
    if (this.#gone) return;
    this.#wire.send(frames);
    this.#sentChars += frames.length;
    this.#goOn();
  }

  // --- end ---

  /** An error that belongs to no request, then the end. */
  #lastWord(error: UkeyError, why = error.message): void {
    this.#push(encodeRefusal(null, error));
    this.#finishBecause(why);
  }

  #finishBecause(why: string): void {
    this.#why ??= why;
    this.finish();
  }

  /** Sends what is written, then closes; what still arrives is read and dropped, so that the peer can finish writing and read the reason. */
  finish(): void {
    if (this.#closingMs !== null) return;
    this.#flushBeforeEnd();
    this.#closingMs = this.#host.nowMs();
    this.#wire.finish();
    this.#setPaused(false);
  }

  #flushBeforeEnd(): void {
    if (this.#out.length === 0 || this.#gone) return;
    this.#wire.send(this.#out.join(''));
    this.#out = [];
    this.#outChars = 0;
  }

  /** Refuses with a reason, then closes. */
  turnAway(error: UkeyError): void {
    if (this.#closingMs === null) this.#lastWord(error);
  }

  /** Makes room at once: the reason is in the peer's buffer before the socket is closed, but nobody waits for it to be read. */
  evict(error: UkeyError): void {
    this.turnAway(error);
    this.#wire.destroy();
  }

  #destroyBecause(why: string): void {
    this.#why ??= why;
    this.#closingMs ??= this.#host.nowMs();
    this.#wire.destroy();
  }

  /** No new requests are read; those in flight go on. */
  stopReading(): void {
    this.#waitsForTurn = true;
    this.#setPaused(true);
  }

  /** Slow is allowed, still is not: the clock starts anew whenever the kernel has taken a write (all that waited at its beginning) to its end. */
  #watchOutput(nowMs: number): void {
    const { pendingBytes } = this.#wire;
    const takenChars = this.#sentChars - pendingBytes;
    if (pendingBytes === 0) this.#outputMs = null;
    else if (takenChars !== this.#takenChars || this.#outputMs === null) this.#outputMs = nowMs;
    this.#takenChars = takenChars;
  }

  /** Called once per sweep: ends what has waited too long. */
  sweep(nowMs: number): void {
    const { limits } = this.#host;
    const waited = (sinceMs: number | null, maxMs: number): boolean => sinceMs !== null && nowMs - sinceMs > maxMs;
    this.#watchOutput(nowMs);
    if (waited(this.#closingMs, limits.lingerMs)) this.#wire.destroy();
    else if (waited(this.#outputMs, limits.outputWaitMs)) this.#destroyBecause('the reader does not read');
    else if (waited(this.#frameMs, limits.frameWaitMs))
      this.turnAway(new UkeyError('invalid-request', 'a frame has begun and does not end'));
    else if (!this.introduction.holds()) this.turnAway(noLonger());
    else if (this.isStranger && waited(this.#openedMs, limits.strangerWaitMs))
      this.turnAway(new UkeyError('unauthenticated', 'no authenticate in time'));
  }
}
