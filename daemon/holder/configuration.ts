// Owns: what a holder is told when it starts: where its token, its FLASH and their mirror are.
// Invariants: plain data (it crosses to the child as its first message); holds no secret.
import type { TokenConfig } from '#ground/config.ts';
import type { MirrorMode } from '#store/store.ts';

/** One file, or a folder in which each token has its own. */
export type MirrorPlace = { readonly kind: 'file'; readonly path: string } | { readonly kind: 'folder'; readonly folder: string };

export interface HolderConfig {
  /** Absolute path of the vendor's PKCS#11 module; null: the embedded soft token. */
  readonly module: string | null;
  /** Hex SHA-256 that the module's file must have. */
  readonly moduleSha256?: string;
  /** What the module is told in C_Initialize; left out: nothing. */
  readonly moduleParameters?: string;
  /** Which of the module's tokens; left out: the only one. */
  readonly tokenLabel?: string;
  /** Key file of the embedded soft token; needed where `module` is null. */
  readonly softTokenPath?: string;
  /** Block device or image. */
  readonly flashPath: string;
  /** Size of the image that formatting creates when nothing is at flashPath; left out: it must be there. */
  readonly imageBytes?: number;
  /** Second copy of the log on another disk; left out: none. Not used where `readOnly` is set. */
  readonly mirror?: { readonly mode: MirrorMode; readonly place: MirrorPlace };
  /** Files and folders that vanish with the token; the FLASH is always watched. */
  readonly presencePaths: readonly string[];
  /** Login and reading only; nothing is written to the FLASH. */
  readonly readOnly?: boolean;
}

/** As the service's configuration has it. */
export function holderConfigOf(config: TokenConfig): HolderConfig {
  const { mirror, state } = config;
  const place = mirror.path === undefined ? ({ kind: 'folder', folder: state } as const) : ({ kind: 'file', path: mirror.path } as const);
  return {
    module: config.module ?? null,
    ...(config.module_sha256 === undefined ? {} : { moduleSha256: config.module_sha256 }),
    ...(config.module_parameters === undefined ? {} : { moduleParameters: config.module_parameters }),
    ...(config.label === undefined ? {} : { tokenLabel: config.label }),
    ...(config.soft_token === undefined ? {} : { softTokenPath: config.soft_token }),
    flashPath: config.flash,
    imageBytes: config.flash_mib * 1024 * 1024,
    ...(mirror.mode === 'off' ? {} : { mirror: { mode: mirror.mode, place } }),
    presencePaths: config.presence,
  };
}
