// Owns: which socket ukeyctl talks to and as whom, and that a failure to get there is told apart from a refusal.
// Invariants: the admin socket unless a terminal is named; the connection is closed whatever happens; nothing is sent before the
// service has proven that it knows the terminal's secret (client.ts).
// Must not: know any method by name.
import type { Given, OptionSpec } from '#ctl/command.ts';
import { endAs, usage } from '#ctl/exit-codes.ts';
import { readTerminalSecret } from '#ctl/prompt.ts';
import type { Screen } from '#ctl/screen.ts';
import { type Client, type ConnectOptions, connect } from '#ipc-schema/client.ts';
import { asUkeyError, UkeyError } from '#ipc-schema/errors.ts';
import { isTokenMethod, type MethodName, type Params, type Result } from '#ipc-schema/methods.ts';

const adminSocketDefault = '/run/ukeyd/ukeyd-admin.sock';
const tillSocketDefault = '/run/ukeyd/ukeyd.sock';

const socketOption = (more: string): OptionSpec => ({
  flags: '--socket <path>',
  description: `the service's socket (default: $UKEYD_ADMIN_SOCKET, else ${adminSocketDefault}${more})`,
});

const tokenOption: OptionSpec = {
  flags: '--token <name>',
  description: 'where the service has several tokens: the one that is meant, by its name in the configuration',
};

/** For commands to the service as a whole. */
export const wholeOptions: readonly OptionSpec[] = [socketOption('')];

/** For commands that an operator or administrator gives. */
export const adminOptions: readonly OptionSpec[] = [...wholeOptions, tokenOption];

/** For commands that a terminal may give too. */
export const serviceOptions: readonly OptionSpec[] = [
  socketOption(`; with --terminal $UKEYD_SOCKET, else ${tillSocketDefault}`),
  { flags: '--terminal <id>', description: 'act as this terminal, through the till socket' },
  { flags: '--secret-file <file>', description: "the terminal's secret, as `terminal enrol` wrote it" },
  tokenOption,
];

/** What a command may do with the service. Failures end as `refused`, or `unknown` where the outcome is not known. */
export interface Service {
  call<M extends MethodName>(method: M, params: Params<M>, timeoutMs?: number): Promise<Result<M>>;
  /** Exactly once: goes on with the same key while the outcome is in doubt. */
  issue(params: Params<'invoice.issue'>): Promise<Result<'invoice.issue'>>;
}

/** As the operator or administrator that whoever may open the admin socket is. */
export async function withAdmin<T>(given: Given, step: (service: Service) => Promise<T>): Promise<T> {
  return await talk(given, given.text('socket') ?? process.env['UKEYD_ADMIN_SOCKET'] ?? adminSocketDefault, null, step);
}

/** As the terminal that --terminal names, else as withAdmin. */
export async function withService<T>(given: Given, screen: Screen, step: (service: Service) => Promise<T>): Promise<T> {
  const terminal = given.text('terminal');
  const secretFile = given.text('secretFile');
  if (terminal === undefined && secretFile === undefined) return await withAdmin(given, step);
  if (terminal === undefined || secretFile === undefined)
    throw usage('--terminal and --secret-file belong together', { field: terminal === undefined ? '--terminal' : '--secret-file' });
  const secret = readTerminalSecret(secretFile, screen);
  const socketPath = given.text('socket') ?? process.env['UKEYD_SOCKET'] ?? tillSocketDefault;
  return await talk(given, socketPath, { terminal, secret }, step);
}

async function talk<T>(
  given: Given,
  socketPath: string,
  terminal: { readonly terminal: string; readonly secret: Uint8Array } | null,
  step: (service: Service) => Promise<T>,
): Promise<T> {
  const client = await open(socketPath, terminal);
  const token = given.text('token');
  const choice = token === undefined ? {} : { token };
  try {
    return await step({
      call: (method, params, timeoutMs) =>
        answered(
          client.call(method, isTokenMethod(method) ? { ...params, ...choice } : params, timeoutMs === undefined ? {} : { timeoutMs }),
        ),
      issue: (params) => answered(client.issue({ ...params, ...choice })),
    });
  } finally {
    client.close();
  }
}

async function open(socketPath: string, terminal: Pick<ConnectOptions, 'terminal' | 'secret'> | null): Promise<Client> {
  try {
    return await connect({ socketPath, client: 'ukeyctl', ...terminal });
  } catch (thrown) {
    throw unreached(asUkeyError(thrown), socketPath);
  }
}

/** `busy` or `unknown-outcome` before any call: nobody answers there, or nobody who has room. All other codes are the service's own word. */
function unreached(error: UkeyError, socketPath: string): UkeyError {
  if (error.code !== 'busy' && error.code !== 'unknown-outcome') return endAs('refused', error);
  const reason = systemCodeOf(error);
  const why = reason === null ? error.message : (reasons[reason] ?? reason);
  return endAs(
    'unreachable',
    new UkeyError('busy', `the service cannot be reached at ${socketPath}: ${why}`, {
      field: '--socket',
      action: 'Start the service, or name its socket with --socket.',
      cause: error,
    }),
  );
}

const reasons: Readonly<Record<string, string>> = {
  ENOENT: 'there is no socket',
  ECONNREFUSED: 'nobody listens there any more',
  EACCES: 'this user may not open it',
  ENOTSOCK: 'that is no socket',
};

function systemCodeOf(error: UkeyError): string | null {
  for (let at: unknown = error; at instanceof Error; at = at.cause) {
    const { code } = at as NodeJS.ErrnoException;
    if (!(at instanceof UkeyError) && typeof code === 'string') return code;
  }
  return null;
}

async function answered<T>(call: Promise<T>): Promise<T> {
  try {
    return await call;
  } catch (thrown) {
    const error = asUkeyError(thrown);
    throw endAs(error.code === 'unknown-outcome' ? 'unknown' : 'refused', error);
  }
}
