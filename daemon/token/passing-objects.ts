// Owns: a module seen so that nothing which is made through it stays on the token: what probing works with.
// Invariants: what is made is an object of the session; where a module makes none such (a TPM's), one on the token. Either bears a name of probing's own, so
// that no key or object of a ledger is found, used or doubled, also after a death in between; `sweep` destroys what bears such a name.
// Must not: log in; judge.
import { UkeyError } from '#ipc-schema/errors.ts';
import { reactionOf } from '#token/ckr.ts';
import { CK, type Cryptoki, type Handle, type Template } from '#token/cryptoki.ts';

const mark = 'probe-';

export class PassingObjects {
  /** The same module; what is looked for through it bears the mark too. */
  readonly cryptoki: Cryptoki;
  readonly #real: Cryptoki;
  #isOnToken = false;

  constructor(real: Cryptoki) {
    this.#real = real;
    const own: Partial<Cryptoki> = {
      find: (session, template) => real.find(session, marked(template)),
      createObject: (session, template) => this.#make((passing) => real.createObject(session, passing(template))),
      generateKey: (session, mechanism, template) => this.#make((passing) => real.generateKey(session, mechanism, passing(template))),
      generateKeyPair: (session, mechanism, open, secret) =>
        this.#make((passing) => real.generateKeyPair(session, mechanism, passing(open), passing(secret))),
    };
    this.cryptoki = new Proxy(real, {
      get: (target, name) => {
        const value: unknown = Reflect.get(own, name) ?? Reflect.get(target, name, target);
        return typeof value === 'function' ? value.bind(target) : value;
      },
    });
  }

  /** Something had to be made on the token itself. */
  get isOnToken(): boolean {
    return this.#isOnToken;
  }

  /** Destroys what this or an earlier probe has made: keys of these labels, objects of this application. How much could not be destroyed. */
  sweep(session: Handle, labels: readonly string[], application: string): number {
    const searches = [
      ...labels.map((value) => [{ type: CK.CKA_LABEL, value }]),
      [
        { type: CK.CKA_CLASS, value: CK.CKO_DATA },
        { type: CK.CKA_APPLICATION, value: application },
      ],
    ];
    let left = 0;
    for (const search of searches) for (const object of this.#found(session, search)) left += this.#destroyed(session, object) ? 0 : 1;
    return left;
  }

  #found(session: Handle, search: Template): readonly Handle[] {
    try {
      return this.cryptoki.find(session, search);
    } catch (error) {
      if (reactionOf(error) === 'next-method') return []; // no objects of this kind
      throw error;
    }
  }

  #destroyed(session: Handle, object: Handle): boolean {
    try {
      this.#real.destroyObject(session, object);
      return true;
    } catch (error) {
      if (error instanceof UkeyError) return false;
      throw error;
    }
  }

  #make<T>(make: (passing: (template: Template) => Template) => T): T {
    if (!this.#isOnToken) {
      try {
        return make((template) => marked(template).map((one) => (one.type === CK.CKA_TOKEN ? { type: CK.CKA_TOKEN, value: false } : one)));
      } catch (error) {
        const reaction = reactionOf(error);
        if (reaction === null || reaction === 'login-again') throw error;
        const made = make(marked);
        this.#isOnToken = true;
        return made;
      }
    }
    return make(marked);
  }
}

/** Data objects are told from a ledger's by their application, keys by their label. */
function marked(template: Template): Template {
  const type = template.some((one) => one.type === CK.CKA_APPLICATION) ? CK.CKA_APPLICATION : CK.CKA_LABEL;
  return template.map((one) => (one.type === type ? { type, value: `${mark}${String(one.value)}` } : one));
}
