// Owns: what a holder is told when it starts: where its token and its FLASH are.
// Invariants: plain data (it crosses to the child as its first message); holds no secret.

export interface HolderConfig {
  /** Absolute path of the vendor's PKCS#11 module; null: the embedded soft token. */
  readonly module: string | null;
  /** Hex SHA-256 that the module's file must have. */
  readonly moduleSha256?: string;
  /** Which of the module's tokens; left out: the only one. */
  readonly tokenLabel?: string;
  /** Key file of the embedded soft token; needed where `module` is null. */
  readonly softTokenPath?: string;
  /** Block device or image. */
  readonly flashPath: string;
  /** Size of the image that formatting creates when nothing is at flashPath; left out: it must be there. */
  readonly imageBytes?: number;
  /** Files and folders that vanish with the token; the FLASH is always watched. */
  readonly presencePaths: readonly string[];
  /** Login and reading only; nothing is written to the FLASH. */
  readonly readOnly?: boolean;
}
