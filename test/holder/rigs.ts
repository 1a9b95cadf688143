// Owns: the rigs on which holders are tested: in memory with a fake token, and on files with the soft token or a module's.
import { copyFileSync, existsSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { systemClock } from '#ground/clock.ts';
import type { HolderConfig } from '#holder/configuration.ts';
import type { Holder, HolderEvents } from '#holder/holder.ts';
import { joinHolder } from '#holder/joined.ts';
import type { MirrorParts } from '#holder/mirroring.ts';
import { type ParentHolder, type ParentOptions, startHolder } from '#holder/parent.ts';
import { type HolderParts, partsOf } from '#holder/parts.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import type { Device, WriteOptions } from '#store/device.ts';
import { openFileDevice } from '#store/device-file.ts';
import type { HolderRig } from '#test/suites/holder-suite.ts';
import type { RestoreRig } from '#test/suites/restore-suite.ts';
import { FakeToken } from '#test/support/fake-token.ts';
import { pinBytes, provisionHolder, StateWatch, testSoPin } from '#test/support/holder-rig.ts';
import { type Medium, MemoryDevice, type MemoryDeviceOptions } from '#test/support/memory-device.ts';
import { createSoftHsmWorld, type SoftHsmWorld } from '#test/support/softhsm.ts';
import { openSoftToken } from '#token/soft-token.ts';

export const imageBytes = 12 * 1024 * 1024;
const quickPollMs = 20;

class SlowDevice extends MemoryDevice {
  readonly #writeMs: () => number;

  constructor(options: MemoryDeviceOptions, writeMs: () => number) {
    super(options);
    this.#writeMs = writeMs;
  }

  override async writeAndSync(positionBytes: number, bytes: Uint8Array, options?: WriteOptions): Promise<void> {
    if (this.#writeMs() > 0) await setTimeout(this.#writeMs());
    await super.writeAndSync(positionBytes, bytes, options);
  }
}

/** A mirror in memory, by token or in one place, whose disk a test may take away. */
export class MemoryMirror implements MirrorParts {
  readonly mode = 'sync';
  medium: Medium | null = null;
  device: MemoryDevice | null = null;
  fault: UkeyError | null = null;

  async open(_tokenId: Uint8Array, options: { readonly readOnly: boolean; readonly sizeBytes: number | null }): Promise<MemoryDevice> {
    if (this.fault !== null) throw this.fault;
    const medium = this.device?.snapshot() ?? this.medium;
    if (medium === null && options.sizeBytes === null) throw new UkeyError('no-token', 'there is no mirror');
    const device = new MemoryDevice({ sizeBytes: imageBytes, medium: medium ?? new Map(), readOnly: options.readOnly });
    if (!options.readOnly) this.device = device;
    return device;
  }

  /** The file is gone. */
  lose(): void {
    this.medium = null;
    this.device = null;
  }
}

/** A fake token and a FLASH in memory; what a test wants to do with them stands open. */
export class MemoryRig implements HolderRig, RestoreRig {
  token: FakeToken;
  device: MemoryDevice | null = null;
  readonly watch = new StateWatch();
  readonly notes: string[] = [];
  readonly change: Partial<HolderParts>;
  /** How long each write of the FLASH takes. */
  writeMs = 0;
  holder: Holder;
  #medium: Medium = new Map();

  constructor(change: Partial<HolderParts> = {}, token = new FakeToken()) {
    this.change = change;
    this.token = token;
    this.holder = this.#start();
  }

  async restart(): Promise<void> {
    await this.holder.close();
    this.holder = this.#start();
  }

  pull(): void {
    this.token.isPresent = false;
  }

  plug(): void {
    this.token.isPresent = true;
  }

  async flash(): Promise<Device> {
    return this.#openDevice(true);
  }

  openForWriting(): Device {
    return this.#openDevice(false);
  }

  /** Copies of stores by name, for restoring. */
  readonly sources = new Map<string, Medium>();

  openSource(path: string): Device {
    const medium = this.sources.get(path);
    if (medium === undefined) throw new UkeyError('no-token', `${path} is not there`);
    return new MemoryDevice({ sizeBytes: imageBytes, medium, readOnly: true });
  }

  async copyOut(): Promise<string> {
    await this.holder.close();
    this.sources.set('copy', this.device?.snapshot() ?? this.#medium);
    return 'copy';
  }

  async loseFlash(): Promise<void> {
    this.device = null;
    this.#medium = new Map();
    await this.restart();
    await this.watch.until('blank');
  }

  async loseToken(): Promise<void> {
    this.token = new FakeToken();
    await this.loseFlash();
  }

  async swapToken(): Promise<void> {
    this.token = new FakeToken();
    this.token.provision({ pin: pinBytes() });
    await this.restart();
  }

  triesLeft(): number {
    return this.token.triesLeft;
  }

  leaveTries(tries: number): void {
    this.token.triesLeft = tries;
  }

  async remove(): Promise<void> {
    this.#medium = new Map();
  }

  #openDevice(readOnly: boolean): Device {
    if (!this.token.isPresent) throw new UkeyError('no-token', 'pulled');
    this.#medium = this.device?.snapshot() ?? this.#medium;
    const device = new SlowDevice({ sizeBytes: imageBytes, medium: this.#medium, readOnly }, () => this.writeMs);
    if (!readOnly) this.device = device;
    return device;
  }

  #start(): Holder {
    return joinHolder({
      openToken: () => {
        this.token.facts();
        return this.token;
      },
      openDevice: async (readOnly) => this.#openDevice(readOnly),
      openSource: async (path) => this.openSource(path),
      flashPath: null,
      presencePaths: [],
      readOnly: false,
      clock: systemClock,
      events: this.watch,
      note: (what, error) => this.notes.push(`${what}: ${String(error)}`),
      pollMs: quickPollMs,
      ...this.change,
    });
  }
}

type Start<H> = (config: HolderConfig, events: HolderEvents, note: (line: string) => void) => H;

/** The embedded soft token (or a module's) and an image in a folder of their own; pulling renames them. */
export class FileRig<H extends Holder> implements HolderRig, RestoreRig {
  readonly folder = mkdtempSync(join(tmpdir(), 'ukeyd-holder-'));
  readonly softTokenPath = join(this.folder, 'token.json');
  readonly flashPath = join(this.folder, 'flash.img');
  readonly watch = new StateWatch();
  readonly notes: string[] = [];
  readonly #start: Start<H>;
  readonly #change: Partial<HolderConfig>;
  holder: H;

  constructor(start: Start<H>, change: Partial<HolderConfig> = {}) {
    this.#start = start;
    this.#change = change;
    openSoftToken({ path: this.softTokenPath, create: true });
    this.holder = this.start();
  }

  start(flashPath = this.flashPath): H {
    const config = { module: null, softTokenPath: this.softTokenPath, flashPath, imageBytes, presencePaths: [], ...this.#change };
    return this.#start(config, this.watch, (line) => this.notes.push(line));
  }

  async restart(): Promise<void> {
    await this.holder.close();
    this.holder = this.start();
  }

  pull(): void {
    for (const path of [this.softTokenPath, this.flashPath]) if (existsSync(path)) renameSync(path, `${path}.pulled`);
  }

  plug(): void {
    for (const path of [this.softTokenPath, this.flashPath]) if (existsSync(`${path}.pulled`)) renameSync(`${path}.pulled`, path);
  }

  async flash(): Promise<Device> {
    return await openFileDevice(this.flashPath, { readOnly: true });
  }

  async copyOut(): Promise<string> {
    await this.holder.close();
    const copy = join(this.folder, 'copy.img');
    copyFileSync(this.flashPath, copy);
    return copy;
  }

  async loseFlash(): Promise<void> {
    await this.holder.close();
    rmSync(this.flashPath);
    const from = this.watch.seen.length;
    this.holder = this.start();
    await this.watch.until('absent', from);
  }

  async loseToken(): Promise<void> {
    await this.holder.close();
    rmSync(this.flashPath);
    this.replaceToken();
    const from = this.watch.seen.length;
    this.holder = this.start();
    await this.watch.until('blank', from);
  }

  /** By a blank one. */
  protected replaceToken(): void {
    rmSync(this.softTokenPath);
    openSoftToken({ path: this.softTokenPath, create: true });
  }

  async swapToken(): Promise<void> {
    await this.holder.close();
    rmSync(this.softTokenPath);
    openSoftToken({ path: this.softTokenPath, create: true }).provision({ label: 'other', pin: pinBytes(), soPin: pinBytes(testSoPin) });
    this.holder = this.start();
  }

  triesLeft(): number | null {
    return openSoftToken({ path: this.softTokenPath }).facts().triesLeft;
  }

  leaveTries(tries: number): void {
    const file: Record<string, unknown> = JSON.parse(readFileSync(this.softTokenPath, 'utf8'));
    writeFileSync(this.softTokenPath, JSON.stringify({ ...file, triesLeft: tries }), { mode: 0o600 });
  }

  async remove(): Promise<void> {
    rmSync(this.folder, { recursive: true, force: true });
  }
}

export function joinedFileRig(): FileRig<Holder> {
  return new FileRig((config, events, note) =>
    joinHolder({ ...partsOf(config), events, note: (what, error) => note(`${what}: ${String(error)}`), pollMs: quickPollMs }),
  );
}

export function startParent(change: Partial<ParentOptions> = {}): Start<ParentHolder> {
  return (config, events, onChatter) => startHolder({ config, events, onChatter, ...change });
}

/** SoftHSM2 in a world of its own; it neither counts tries nor locks. */
export class SoftHsmRig extends FileRig<ParentHolder> {
  readonly #world: SoftHsmWorld;

  constructor(modulePath: string) {
    const world = createSoftHsmWorld(modulePath); // before the process that inherits its environment
    super(startParent(), { module: modulePath });
    this.#world = world;
  }

  override pull(): void {
    this.#world.unplug();
    super.pull();
  }

  override plug(): void {
    this.#world.plug();
    super.plug();
  }

  /** Made by another holder on a FLASH of its own. */
  override async swapToken(): Promise<void> {
    await this.holder.close();
    this.#world.unplug();
    const from = this.watch.seen.length;
    const other = this.start(join(this.folder, 'other.img'));
    await this.watch.until('blank', from);
    await provisionHolder(other);
    await other.close();
    this.holder = this.start();
  }

  protected override replaceToken(): void {
    this.#world.unplug();
  }

  override triesLeft(): null {
    return null;
  }

  override async remove(): Promise<void> {
    this.#world.remove();
    await super.remove();
  }
}
