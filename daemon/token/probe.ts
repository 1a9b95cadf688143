// Owns: what a vendor's module can do, told to people before they trust it with a ledger: slots, mechanisms, and, where asked, proof by real operations.
// Invariants: nothing that stays on the token is made or destroyed: whatever is generated is a session object (CKA_TOKEN false), gone with the
// session; one try with a PIN at most, and never one that the token warns of.
// Must not: know processes; print anything.
import { randomBytes } from 'node:crypto';
import { asUkeyError, UkeyError } from '#ipc-schema/errors.ts';
import { CK, type Cryptoki, type CryptokiTokenInfo, type Handle, type Template } from '#token/cryptoki.ts';
import { readDataObject, writeDataObject } from '#token/data-object.ts';
import { dataKeyBytes, type ModuleWrapMethod, mayWrap, moduleWrapMethods, wrapProven } from '#token/key-wrap.ts';
import { decideLogin } from '#token/login.ts';
import { algorithmOf, signatureHolds } from '#token/public-key.ts';
import { findPrivate, findSealPublic, generateSealPair, rawSignature, type SealPublic } from '#token/seal-key.ts';
import { hasUserPin, isInitialized, pinStateOf } from '#token/slot.ts';
import type { PinState, SignatureAlgorithm } from '#token/token.ts';

const timedSignatures = 5;
const probeObject = 'probe';

/** `named`: the module lists what it needs. `proven`: it was done. */
export type Ability = { readonly kind: 'named' | 'proven' | 'absent' } | { readonly kind: 'failed'; readonly reason: string };

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
  /** What keeps it from carrying a ledger; empty: nothing that was seen. */
  readonly missing: readonly string[];
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

  constructor(cryptoki: Cryptoki, slot: Handle, info: CryptokiTokenInfo, stage: (what: string) => void) {
    this.#cryptoki = sessionObjectsOnly(cryptoki);
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
      missing: missingOf(seen),
    };
  }

  /** From the list of mechanisms alone. */
  #told(mechanisms: ReadonlySet<number>): Seen {
    const ec = mechanisms.has(CK.CKM_EC_KEY_PAIR_GEN) && mechanisms.has(CK.CKM_ECDSA);
    const rsa = mechanisms.has(CK.CKM_RSA_PKCS_KEY_PAIR_GEN) && mechanisms.has(CK.CKM_RSA_PKCS);
    const named = (is: boolean): Ability => ({ kind: is ? 'named' : 'absent' });
    return {
      provisioned: false,
      signing: { algorithm: ec ? 'ES256' : rsa ? 'RS256' : null, ability: named(ec || rsa), signMs: null },
      generateMs: null,
      wrapping: moduleWrapMethods.map((method) => ({ method, ability: named(mayWrap(method, mechanisms)) })),
      dataObjects: named(true),
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
      return ours === null ? seen : { ...seen, signing: this.#sign(session, ours) };
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
    this.#stage('generating a key pair');
    const startMs = performance.now();
    let seal: SealPublic;
    try {
      seal = generateSealPair(this.#cryptoki, session, mechanisms);
    } catch (error) {
      return { ...seen, signing: { ...seen.signing, ability: failed(error) }, dataObjects: this.#data(session) };
    }
    const generateMs = performance.now() - startMs;
    const wrapping = seen.wrapping.map(({ method, ability }) => ({
      method,
      ability: ability.kind === 'absent' ? ability : this.#wrap(session, seal, method),
    }));
    return { ...seen, generateMs, signing: this.#sign(session, seal), wrapping, dataObjects: this.#data(session) };
  }

  #sign(session: Handle, seal: SealPublic): Seen['signing'] {
    this.#stage('signing');
    const algorithm = algorithmOf(seal.key);
    try {
      const key = findPrivate(this.#cryptoki, session, seal.id);
      const message = randomBytes(32);
      const startMs = performance.now();
      for (let at = 0; at < timedSignatures; at += 1) {
        if (!signatureHolds(seal.key, message, rawSignature(this.#cryptoki, session, key, seal.key, message)))
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
    return ability(() => wrapProven(method, { cryptoki: this.#cryptoki, session, seal }, dataKey).length > 0);
  }

  #data(session: Handle): Ability {
    this.#stage('writing a data object');
    const value = randomBytes(16);
    return ability(
      () =>
        writeDataObject(this.#cryptoki, session, probeObject, value) &&
        readDataObject(this.#cryptoki, session, probeObject)?.equals(value) === true,
    );
  }
}

type Seen = Pick<TokenReport, 'provisioned' | 'signing' | 'generateMs' | 'wrapping' | 'dataObjects'>;

/** What cannot be done without: a key pair that signs, and one way to wrap the data key. Data objects only anchor the ledger in the KEY. */
function missingOf({ signing, wrapping, dataObjects }: Seen): string[] {
  const can = ({ kind }: Ability): boolean => kind === 'named' || kind === 'proven';
  return [
    ...(can(signing.ability) ? [] : ['a key pair that signs (EC P-256 with CKM_ECDSA, or RSA-2048 with CKM_RSA_PKCS)']),
    ...(wrapping.some((way) => can(way.ability)) ? [] : ['a way to wrap the data key']),
    ...(can(dataObjects) ? [] : ['data objects: a FLASH that was set back is then noticed by mirror and server alone']),
  ];
}

const failed = (error: unknown): Ability => ({ kind: 'failed', reason: asUkeyError(error).message });

function ability(act: () => boolean): Ability {
  try {
    return { kind: act() ? 'proven' : 'absent' };
  } catch (error) {
    return failed(error);
  }
}

/** The same module, on which nothing outlives the session. */
function sessionObjectsOnly(cryptoki: Cryptoki): Cryptoki {
  const passing = (template: Template): Template =>
    template.map((attribute) => (attribute.type === CK.CKA_TOKEN ? { type: CK.CKA_TOKEN, value: false } : attribute));
  const own: Partial<Cryptoki> = {
    createObject: (session, template) => cryptoki.createObject(session, passing(template)),
    generateKey: (session, mechanism, template) => cryptoki.generateKey(session, mechanism, passing(template)),
    generateKeyPair: (session, mechanism, open, secret) => cryptoki.generateKeyPair(session, mechanism, passing(open), passing(secret)),
    unwrapKey: (session, mechanism, key, wrapped, template) => cryptoki.unwrapKey(session, mechanism, key, wrapped, passing(template)),
    deriveKey: (session, mechanism, key, template) => cryptoki.deriveKey(session, mechanism, key, passing(template)),
  };
  return new Proxy(cryptoki, {
    get: (target, name) => {
      const value: unknown = Reflect.get(own, name) ?? Reflect.get(target, name, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}
