// Owns: holders in this process over tokens of NSS and of a TPM, each on a FLASH of its own. Neither KEY is a stick: what is pulled is the FLASH.
import { join } from 'node:path';
import type { Holder } from '#holder/holder.ts';
import { joinHolder } from '#holder/joined.ts';
import { partsOf } from '#holder/parts.ts';
import { FileRig } from '#test/holder/rigs.ts';
import { provisionHolder, testPin } from '#test/support/holder-rig.ts';
import { NssWorld, nssLabel } from '#test/support/nss.ts';
import type { TpmWorld } from '#test/support/tpm.ts';
import { loadModule } from '#token/pkcs11.ts';

const pollMs = 50;

abstract class ModuleRig extends FileRig<Holder> {
  constructor(change: ConstructorParameters<typeof FileRig<Holder>>[1]) {
    super(
      (config, events, note) =>
        joinHolder({ ...partsOf(config), events, note: (what, error) => note(`${what}: ${String(error)}`), pollMs }),
      change,
    );
  }

  /** Another token in the place of this one, blank. */
  protected abstract override replaceToken(): void;

  /** Provisioned by another holder on a FLASH of its own. */
  override async swapToken(): Promise<void> {
    await this.holder.close();
    this.replaceToken();
    const from = this.watch.seen.length;
    const other = this.start(join(this.folder, 'other.img'));
    await this.watch.until('blank', from);
    await provisionHolder(other);
    await other.close();
    this.holder = this.start();
  }

  override triesLeft(): null {
    return null;
  }
}

export class NssRig extends ModuleRig {
  readonly #world: NssWorld;
  readonly #end: () => void;

  constructor(module: string, world = new NssWorld(testPin)) {
    const { moduleParameters } = world;
    super({ module, moduleParameters, tokenLabel: nssLabel });
    this.#world = world;
    this.#end = () => loadModule(module, { moduleParameters }).finalize();
  }

  protected override replaceToken(): void {
    this.#end();
    this.#world.makeToken(testPin);
  }

  override async remove(): Promise<void> {
    this.#end();
    this.#world.remove();
    await super.remove();
  }
}

export class TpmRig extends ModuleRig {
  readonly #world: TpmWorld;
  readonly #module: string;

  constructor(module: string, world: TpmWorld) {
    loadModule(module).finalize();
    world.clear();
    super({ module });
    this.#module = module;
    this.#world = world;
  }

  protected override replaceToken(): void {
    loadModule(this.#module).finalize();
    this.#world.hideTokens();
  }
}
