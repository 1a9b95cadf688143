// Owns: what a vendor's module can do, told to people before they trust it with a ledger: slots, mechanisms, and, where asked, proof by real operations.
// Invariants: nothing that it makes stays on the token, and nothing else on it is touched (passing-objects.ts); one try with a PIN at most, and never one
// that the token warns of.
// Must not: know processes; print anything.
import { randomBytes } from 'node:crypto';
import { asUkeyError, UkeyError } from '#ipc-schema/errors.ts';
import { CK, type Cryptoki, type CryptokiTokenInfo, type Handle } from '#token/cryptoki.ts';
import { application, readDataObject, writeDataObject } from '#token/data-object.ts';
import { dataKeyBytes, type ModuleWrapMethod, mayWrap, moduleWrapMethods, wrapLabels, wrapProven } from '#token/key-wrap.ts';
import { decideLogin } from '#token/login.ts';
import { PassingObjects } from '#token/passing-objects.ts';
import { algorithmOf, signatureHolds } from '#token/public-key.ts';
import { findPrivate, findSealPublic, generateSealPair, rawSignature, type SealPublic, sealLabel } from '#token/seal-key.ts';
import { hasUserPin, isInitialized, pinStateOf } from '#token/slot.ts';
import type { PinState, SignatureAlgorithm } from '#token/token.ts';

const timedSignatures = 5;
const probeObject = 'probe';

/** `named`: the module lists what it needs. `untold`: modules list nothing of it. `proven`: it was done. */
export type Ability = { readonly kind: 'named' | 'untold' | 'proven' | 'absent' } | { readonly kind: 'failed'; readonly reason: string };

export interface TokenReport {
  readonly label: string;
  readonly serial: string;
  readonly model: string;
  readonly manufacturer: string;
  readonly initialized: boolean;
  readonly pinState: PinState;
  /** A seal key of ours is to be seen. */
  readonly provisioned: boolean;
  readonly mechanisms: number;
  readonly signing: { readonly algorithm: SignatureAlgorithm | null; readonly ability: Ability; readonly signMs: number | null };
  readonly generateMs: number | null;
  readonly wrapping: readonly { readonly method: ModuleWrapMethod; readonly ability: Ability }[];
  readonly dataObjects: Ability;
  /** Proving made keys on the token itself, because the module makes none for a session; they are destroyed again. */
  readonly isOnToken: boolean;
  /** Objects of probing that could not be destroyed. */
  readonly leftBehind: number;
  /** What it does not have; empty: nothing that was seen. */
  readonly missing: readonly string[];
  /** Nothing is missing that the service cannot do without. */
  readonly canCarry: boolean;
}

export interface ModuleReport {
  readonly module: string;
  readonly tokens: readonly TokenReport[];
  /** Slots whose token could not be asked. */
  readonly mute: readonly string[];
}

export interface ProbeRequest {
  /** Null: every token that is there; then no PIN is used. */
  readonly label: string | null;
  readonly pin: Uint8Array | null;
  readonly prove: boolean;
}

/** `stage` is told what comes next: where it was when the module hung. Throws what the module threw before there was anything to report. */
export function probeModule(cryptoki: Cryptoki, request: ProbeRequest, stage: (what: string) => void): ModuleReport {
  stage('C_Initialize');
  cryptoki.initialize();
  stage('C_GetSlotList');
  const tokens: TokenReport[] = [];
  const mute: string[] = [];
  for (const slot of cryptoki.slots()) {
    try {
      stage('C_GetTokenInfo');
      const info = cryptoki.tokenInfo(slot);
      if (request.label === null || info.label === request.label) tokens.push(new Probe(cryptoki, slot, info, stage).run(request));
    } catch (error) {
      if (asUkeyError(error).code.startsWith('pin-')) throw error;
      mute.push(asUkeyError(error).message);
    }
  }
  if (request.label !== null && tokens.length === 0 && mute.length === 0)
    throw new UkeyError('no-token', `no token is labelled ${request.label}`, { field: '--token-label' });
  return { module: cryptoki.description(), tokens, mute };
}

class Probe {
  readonly #cryptoki: Cryptoki;
  readonly #slot: Handle;
  readonly #info: CryptokiTokenInfo;
  readonly #stage: (what: string) => void;
  readonly #passing: PassingObjects;

  constructor(cryptoki: Cryptoki, slot: Handle, info: CryptokiTokenInfo, stage: (what: string) => void) {
    this.#cryptoki = cryptoki;
    this.#passing = new PassingObjects(cryptoki);
    this.#slot = slot;
    this.#info = info;
    this.#stage = stage;
  }

  run({ pin, prove }: ProbeRequest): TokenReport {
    this.#stage('C_GetMechanismList');
    const mechanisms = this.#cryptoki.mechanisms(this.#slot);
    const { label, serial, model, manufacturer, flags } = this.#info;
    const initialized = isInitialized(this.#info);
    const told = this.#told(mechanisms);
    const seen = initialized ? this.#inSession(pin, prove, mechanisms, told) : told;
    return {
      ...{ label, serial, model, manufacturer, initialized, pinState: pinStateOf(flags), mechanisms: mechanisms.size },
      ...seen,
      isOnToken: this.#passing.isOnToken,
      ...lacks(seen, this.#info),
    };
  }

  /** From the list of mechanisms alone. */
  #told(mechanisms: ReadonlySet<number>): Seen {
    const ec = mechanisms.has(CK.CKM_EC_KEY_PAIR_GEN) && mechanisms.has(CK.CKM_ECDSA);
    const rsa = mechanisms.has(CK.CKM_RSA_PKCS_KEY_PAIR_GEN) && mechanisms.has(CK.CKM_RSA_PKCS);
    const named = (is: boolean): Ability => ({ kind: is ? 'named' : 'absent' });
    const wrapping = (method: ModuleWrapMethod): Ability =>
      method === 'data-object-kek' ? { kind: 'untold' } : named(mayWrap(method, mechanisms) && (method !== 'rsa-signature-hkdf' || !ec));
    return {
      provisioned: false,
      signing: { algorithm: ec ? 'ES256' : rsa ? 'RS256' : null, ability: named(ec || rsa), signMs: null },
      generateMs: null,
      wrapping: moduleWrapMethods.map((method) => ({ method, ability: wrapping(method) })),
      dataObjects: { kind: 'untold' },
      leftBehind: 0,
    };
  }

  #inSession(pin: Uint8Array | null, prove: boolean, mechanisms: ReadonlySet<number>, told: Seen): Seen {
    this.#stage('C_OpenSession');
    const session = this.#cryptoki.openSession(this.#slot);
    try {
      if (pin !== null) this.#login(session, pin);
      this.#stage('finding the seal key');
      const ours = findSealPublic(this.#cryptoki, session);
      const seen = { ...told, provisioned: ours !== null };
      if (pin === null) return seen;
      if (prove) return this.#prove(session, mechanisms, seen);
      return ours === null ? seen : { ...seen, signing: this.#sign(this.#cryptoki, session, ours) };
    } finally {
      // Session objects and the login end with it.
      this.#cryptoki.closeSession(session);
    }
  }

  #login(session: Handle, pin: Uint8Array): void {
    const pinState = pinStateOf(this.#info.flags);
    const facts = { provisioned: hasUserPin(this.#info), loggedIn: false, triesLeft: null, pinState };
    const decision = decideLogin(facts, { origin: 'person', useLastTry: false, storedPinTried: false });
    if (decision.kind === 'refuse') throw new UkeyError(decision.code, decision.reason);
    this.#stage('C_Login');
    this.#cryptoki.login(session, CK.CKU_USER, pin);
  }

  #prove(session: Handle, mechanisms: ReadonlySet<number>, seen: Seen): Seen {
    const sweep = (): number => this.#passing.sweep(session, [sealLabel, ...wrapLabels], application);
    this.#stage('sweeping what an earlier probe left');
    sweep();
    let proven: Seen;
    try {
      proven = this.#provenBy(session, mechanisms, seen);
    } catch (error) {
      sweep();
      throw error;
    }
    this.#stage('sweeping');
    return { ...proven, leftBehind: sweep() };
  }

  #provenBy(session: Handle, mechanisms: ReadonlySet<number>, seen: Seen): Seen {
    const { cryptoki } = this.#passing;
    this.#stage('generating a key pair');
    const startMs = performance.now();
    let seal: SealPublic;
    try {
      seal = generateSealPair(cryptoki, session, mechanisms);
    } catch (error) {
      return { ...seen, signing: { ...seen.signing, ability: failed(error) }, dataObjects: this.#data(session) };
    }
    const generateMs = performance.now() - startMs;
    const wrapping = seen.wrapping.map(({ method, ability }) => ({
      method,
      ability: ability.kind === 'absent' ? ability : this.#wrap(session, seal, method),
    }));
    return { ...seen, generateMs, signing: this.#sign(cryptoki, session, seal), wrapping, dataObjects: this.#data(session) };
  }

  #sign(cryptoki: Cryptoki, session: Handle, seal: SealPublic): Seen['signing'] {
    this.#stage('signing');
    const algorithm = algorithmOf(seal.key);
    try {
      const key = findPrivate(cryptoki, session, seal.id);
      const message = randomBytes(32);
      const startMs = performance.now();
      for (let at = 0; at < timedSignatures; at += 1) {
        if (!signatureHolds(seal.key, message, rawSignature(cryptoki, session, key, seal.key, message)))
          return { algorithm, ability: { kind: 'failed', reason: 'a signature is wrong' }, signMs: null };
      }
      return { algorithm, ability: { kind: 'proven' }, signMs: (performance.now() - startMs) / timedSignatures };
    } catch (error) {
      return { algorithm, ability: failed(error), signMs: null };
    }
  }

  #wrap(session: Handle, seal: SealPublic, method: ModuleWrapMethod): Ability {
    this.#stage(`wrapping by ${method}`);
    const dataKey = randomBytes(dataKeyBytes); // of no use to anybody
    return ability(() => wrapProven(method, { cryptoki: this.#passing.cryptoki, session, seal }, dataKey).length > 0);
  }

  #data(session: Handle): Ability {
    this.#stage('writing a data object');
    const value = randomBytes(16);
    return ability(
      () =>
        writeDataObject(this.#passing.cryptoki, session, probeObject, value) &&
        readDataObject(this.#passing.cryptoki, session, probeObject)?.equals(value) === true,
    );
  }
}

type Seen = Pick<TokenReport, 'provisioned' | 'signing' | 'generateMs' | 'wrapping' | 'dataObjects' | 'leftBehind'>;

/** What cannot be done without: a key pair that signs, a way to wrap the data key, a PIN, and room for both. Data objects only anchor the ledger in the KEY. */
function lacks({ signing, wrapping, dataObjects }: Seen, info: CryptokiTokenInfo): Pick<TokenReport, 'missing' | 'canCarry'> {
  const can = ({ kind }: Ability): boolean => kind !== 'absent' && kind !== 'failed';
  const has = (flag: number): boolean => (info.flags & flag) !== 0;
  const needed = [
    ...(can(signing.ability) ? [] : ['a key pair that signs (EC P-256 with CKM_ECDSA, or RSA-2048 with CKM_RSA_PKCS)']),
    ...(wrapping.some((way) => can(way.ability)) ? [] : ['a way to wrap the data key']),
    ...(has(CK.CKF_WRITE_PROTECTED) ? ['room for keys: the token is write-protected'] : []),
    // A blank one may not ask for what it does not have yet.
    ...(isInitialized(info) && !has(CK.CKF_LOGIN_REQUIRED) ? ['a PIN: the token asks for none'] : []),
  ];
  const useful = can(dataObjects) ? [] : ['data objects: a FLASH that was set back is then noticed by mirror and server alone'];
  return { missing: [...needed, ...useful], canCarry: needed.length === 0 };
}

/** With what the module said, where several ways were tried. */
function failed(error: unknown): Ability {
  const { message, cause } = asUkeyError(error);
  const inner: unknown[] = cause instanceof AggregateError ? cause.errors : [];
  const said = [...new Set(inner.map((each) => asUkeyError(each).message))];
  return { kind: 'failed', reason: said.length === 0 ? message : `${message} (${said.join('; ')})` };
}

function ability(act: () => boolean): Ability {
  try {
    return { kind: act() ? 'proven' : 'absent' };
  } catch (error) {
    return failed(error);
  }
}
